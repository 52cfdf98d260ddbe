"""`serve`: a server of a site file, from its start to its stop."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

from websockets.sync.client import connect

from tests.cli.serving import ROOT, SITE, scalesocket, serving


def test_the_banner_has_the_addresses_and_urls(file: Path) -> None:
    with serving("serve", str(file)) as server:
        assert f"listening on http://127.0.0.1:{server.port}" in server.output
        assert f"ws://127.0.0.1:{server.port}/chat/ROOM" in server.output
        assert "\x1b" not in server.output

        server.send_signal(signal.SIGTERM)
        assert server.wait_ended() == 0


def test_a_second_server_of_the_same_file_is_refused_before_it_listens(file: Path) -> None:
    with serving("serve", str(file)) as server:
        done = scalesocket("serve", str(file))
        taken = scalesocket("serve", "--bind", f"127.0.0.1:{server.port}", str(file))

    for refused in (done, taken):
        assert refused.code == 1
        assert refused.out == ""
        message = f"Error: {file}: process {server.process.pid} serves this file already "
        assert refused.err.startswith(message)
        assert f"scalesocket status {file}" in refused.err
        assert f"scalesocket reload {file}" in refused.err
        assert len(refused.err.splitlines()) == 1


def test_a_second_site_with_the_same_control_socket_is_refused_with_the_name_of_the_first(file: Path) -> None:
    control = f'control = "{file.parent / "control.sock"}"\n'
    file.write_text(SITE.replace("[apps", control + "[apps", 1))
    other = file.with_name("other.toml")
    other.write_text(file.read_text())

    with serving("serve", str(file)) as server:
        refused = scalesocket("serve", str(other))

    assert refused.code == 1
    socket_and_server = f"{file.parent / 'control.sock'}: process {server.process.pid} serves {file} with this control socket"
    assert refused.err == f"Error: {socket_and_server} (give {other} another server.control)\n"


def test_a_site_is_served_again_after_its_server_was_killed(file: Path) -> None:
    with serving("serve", str(file)) as server:
        server.process.kill()
        server.wait_ended()

    with serving("serve", str(file)) as server:
        assert server.port


def test_level_and_format_of_the_log_change_with_an_edit(file: Path) -> None:
    with serving("serve", str(file)) as server:
        file.write_text(SITE.replace("[apps", 'log = { format = "json" }\n[apps', 1))
        server.wait_output('"event":"reloaded"')


def test_systemd_is_notified_of_start_reload_and_stop(file: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with serving("serve", str(file), "--no-watch", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as server:
            assert manager.recv(1000) == b"READY=1"
            server.send_signal(signal.SIGHUP)
            assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(1000) == b"READY=1"
            server.send_signal(signal.SIGTERM)
            assert manager.recv(1000) == b"STOPPING=1"


def test_a_socket_that_systemd_passed_is_served(file: Path) -> None:
    file.write_text(SITE.replace("127.0.0.1:0", "fd://3"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # sd_listen_fds(3): descriptor 3, and variables that name the very process which is to take it
        start = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.executable, [sys.executable, '-m', 'scalesocket', 'serve', sys.argv[2]])"
        )
        words = [sys.executable, "-c", start, str(listener.fileno()), str(file)]
        process = subprocess.Popen(words, pass_fds=[listener.fileno()], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert process.stdout is not None
            assert any("/health" in line for line in process.stdout)
            with connect(f"ws://127.0.0.1:{port}/chat/lobby") as client:
                client.send("hi")
                assert client.recv(timeout=10) == "hi"
        finally:
            process.terminate()
            assert process.wait(20) == 0
            process.stdout.close()
