"""The bare command line: a server of one program."""

import os
import signal
import socket
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.cli.serving import scalesocket_process, serving


def test_a_program_named_like_a_site_file_is_served(tmp_path: Path) -> None:
    program = tmp_path / "hello.toml"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)

    with (
        serving("--addr", "127.0.0.1:0", "./hello.toml", cwd=tmp_path) as server,
        connect(f"ws://127.0.0.1:{server.port}/lobby") as client,
    ):
        assert client.recv(timeout=10) == "hello"


def test_the_quick_start_of_the_original_works_unchanged(tmp_path: Path) -> None:
    program = tmp_path / "example.sh"
    program.write_text('#!/bin/bash\n\necho \'{"message": "hello world"}\'\nsleep 1\necho \'{"message": "goodbye"}\'\nsleep 1\n')
    program.chmod(0o755)
    shortened = tmp_path / "bin" / "sleep"  # a test need not wait as long as a user
    shortened.parent.mkdir()
    shortened.write_text("#!/bin/sh\nexec /bin/sleep 0.05\n")
    shortened.chmod(0o755)
    path = f"{shortened.parent}:{os.environ['PATH']}"
    head = (
        "GET /exampleroom HTTP/1.1\r\nHost: localhost:9000\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Key: SGVsbG8sIHdvcmxkIQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    with (
        serving("--addr", "127.0.0.1:0", "./example.sh", cwd=tmp_path, environment={"PATH": path}) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        client.sendall(head.encode())
        received = b""
        while b'{"message": "goodbye"}' not in received and (chunk := client.recv(4096)):
            received += chunk

    assert received.startswith(b"HTTP/1.1 101")
    assert b'{"message": "hello world"}' in received
    assert b'{"message": "goodbye"}' in received


def test_oneshot_ends_the_server_with_its_room() -> None:
    with serving("--addr=127.0.0.1:0", "--oneshot", "echo", "--", "hello") as server:
        with connect(f"ws://127.0.0.1:{server.port}/room") as client:
            assert client.recv(timeout=10) == "hello"
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=10)

        assert server.wait_ended() == 0


def test_a_program_gets_pythonunbuffered_and_no_other_variable() -> None:
    with (
        serving("--addr=127.0.0.1:0", "--passenv=", "printenv") as server,
        connect(f"ws://127.0.0.1:{server.port}/room") as client,
    ):
        variables = dict(str(message).split("=", 1) for message in client)

    assert variables["PYTHONUNBUFFERED"] == "1"
    assert "PATH" not in variables


def test_a_missing_program_is_a_warning_at_start_and_closes_its_rooms() -> None:
    with serving("--bind=127.0.0.1:0", "--staticdir=nowhere", "no-such-program") as server:
        server.wait_output("'no-such-program' is not found on PATH")
        server.wait_output("there is no folder")
        with connect(f"ws://127.0.0.1:{server.port}/room") as client, pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


def test_the_first_ctrl_c_explains_the_second() -> None:
    with serving("--addr=127.0.0.1:0", "cat") as server:
        server.send_signal(signal.SIGINT)

        assert server.wait_ended() == 0
        assert "press Ctrl+C again to stop at once" in server.output


def test_one_signal_to_a_oneshot_server_does_not_force_the_stop() -> None:
    with serving("--addr=127.0.0.1:0", "--oneshot", "cat") as server:
        with connect(f"ws://127.0.0.1:{server.port}/room") as client:
            client.send("hello")
            assert client.recv(timeout=10) == "hello"
            server.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=10)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert server.wait_ended() == 0
        assert "at once" not in server.output


def test_a_command_name_that_is_not_the_first_word_is_a_program(tmp_path: Path) -> None:
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\necho served by $APP in $ROOM\n")
    program.chmod(0o755)

    for words in (["run", "--addr=127.0.0.1:0", "--", "./serve"], ["--addr=127.0.0.1:0", "./serve"]):
        with serving(*words, cwd=tmp_path) as server, connect(f"ws://127.0.0.1:{server.port}/room") as client:
            assert client.recv(timeout=10) == "served by app in room"


def test_a_port_in_use_exits_with_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = scalesocket_process("--addr", f"127.0.0.1:{taken.getsockname()[1]}", "cat")

    assert done.code == 1
    assert "address already in use" in done.err
    assert "Traceback" not in done.err
