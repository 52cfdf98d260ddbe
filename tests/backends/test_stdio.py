"""Processes on their standard input and output."""

import asyncio
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from scalesocket.backends import process as process_module
from scalesocket.backends.backend import Exit
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.errors import MAX_REASON, BackendError
from scalesocket.io.pipes import HIGH_WATER
from tests.backends.recording import OpenRoom, children, exists, is_alive, open_fds, parse_state, program, until

pytestmark = pytest.mark.anyio


async def test_input_comes_back(open_room: OpenRoom) -> None:
    room = await open_room("cat")

    assert room.backend.write(b"one\n")
    assert room.backend.write(b"two\n")

    await room.wait_output(b"one\ntwo\n")
    assert (await room.stop()).status == 0


async def test_nine_hundred_kilobytes_come_back(open_room: OpenRoom) -> None:
    room = await open_room("cat")

    room.backend.write(b"x" * 900_000)

    await room.until(lambda: len(room.output) == 900_000)
    assert room.backend.unsent == 0
    await room.stop()


async def test_many_small_records_come_back_in_order(open_room: OpenRoom) -> None:
    room = await open_room("cat")
    records = [b"%d\n" % number for number in range(50_000)]

    for record in records:
        await room.until(lambda: not room.is_blocked)
        room.backend.write(record)

    await room.until(lambda: bytes(room.output[-6:]) == b"49999\n")
    assert bytes(room.output) == b"".join(records)
    await room.stop()


async def test_writes_of_all_sizes_come_back_through_a_reader_that_pauses(open_room: OpenRoom) -> None:
    room = await open_room("cat")
    sizes = [3**power % 99_991 for power in range(60)]
    sent = bytearray()

    for number, size in enumerate(sizes):
        record = bytes([number]) * size
        sent += record
        await room.until(lambda: not room.is_blocked)
        if number % 7 == 3:
            room.backend.pause_reading()
        room.backend.write(record)
        if number % 7 == 5:
            await asyncio.sleep(0.01)
        if number % 7 == 6 or room.is_blocked:
            room.backend.resume_reading()

    room.backend.resume_reading()
    await room.until(lambda: len(room.output) == len(sent))
    assert room.output == sent
    await room.stop()


async def test_a_process_inherits_nothing_but_its_environment_and_pipes(open_room: OpenRoom, tmp_path: Path) -> None:
    env = {"GREETING": "grüße \U0001f600", "EMPTY": "", "PATH": os.environ["PATH"], "RAW": "\udcff"}

    room = await open_room(*program("state"), env=env, cwd=str(tmp_path))

    state = parse_state(await room.wait_line())
    assert state["env"] == {**env, "LC_CTYPE": "C.UTF-8"} or state["env"] == env  # Python itself adds LC_CTYPE (PEP 538)
    assert state["cwd"] == str(tmp_path)
    assert state["fds"] == [0, 1, 2]
    assert state["pipes"] == ["pipe"] * 3
    assert state["is_blocking"] == [True] * 3
    assert state["group"] == state["pid"] == room.backend.pid
    assert state["blocked"] == []
    assert state["files"] == list(resource.getrlimit(resource.RLIMIT_NOFILE))
    await room.end()


async def test_a_process_ignores_no_signal(open_room: OpenRoom) -> None:
    room = await open_room("grep", "Sig", "/proc/self/status")

    await room.wait_output(b"SigCgt")
    masks = dict(line.split(":\t") for line in room.output.decode().splitlines() if line.startswith("Sig") and ":" in line)
    standard = 0x7FFFFFFF  # 1 to 31; those above belong to the C library
    assert [int(masks[name], 16) & standard for name in ("SigIgn", "SigBlk")] == [0, 0]
    await room.end()


async def test_a_process_runs_within_its_limits(open_room: OpenRoom) -> None:
    room = await open_room(*program("state"), limits={"memory": "256MiB", "cpu": "1500ms", "open_files": 99})

    state = parse_state(await room.wait_line())
    assert (state["memory"], state["cpu"], state["files"]) == ([256 << 20] * 2, [2] * 2, [99] * 2)
    await room.end()


async def test_a_limit_above_the_hard_one_is_refused(open_room: OpenRoom) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    with pytest.raises(BackendError, match=f"limits.open_files: {hard + 1} is above the hard limit of {hard}"):
        await open_room("cat", limits={"open_files": hard + 1})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
async def test_root_starts_a_process_as_another_user(open_room: OpenRoom) -> None:
    room = await open_room("sh", "-c", "id -u; id -g; id -G", user="nobody", cwd="/")

    await room.end()
    uid, gid, groups = room.output.decode().split("\n")[:3]
    assert (uid, gid, groups.split()) == ("65534", "65534", ["65534"])


async def test_an_unknown_user_is_named(open_room: OpenRoom) -> None:
    with pytest.raises(BackendError, match="cannot start 'cat': there is no user 'nobody-at-all'"):
        await open_room("cat", user="nobody-at-all")


async def test_a_command_that_does_not_exist_is_named(open_room: OpenRoom, logged: list[dict[str, object]]) -> None:
    with pytest.raises(BackendError, match=r"^cannot start 'no-such-program': no such file or directory$"):
        await open_room("no-such-program", "--flag")

    (event,) = logged
    assert event["event"] == "backend not opened"
    assert (event["app"], event["room"], event["command"]) == ("app", "lobby", "no-such-program --flag")


async def test_a_program_is_looked_up_in_the_path_of_its_environment(open_room: OpenRoom, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("plain", "folder", "first", "second")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "plain" / "who").write_text("#!/bin/sh\necho plain\n")
    (tmp_path / "folder" / "who").mkdir()
    for name in ("first", "second"):
        (tmp_path / name / "who").write_text(f"#!/bin/sh\necho {name}\n")
        (tmp_path / name / "who").chmod(0o755)

    room = await open_room("who", env={"PATH": ":".join(map(str, folders))})
    assert await room.wait_line() == "first"
    await room.end()
    with pytest.raises(BackendError, match=r"^cannot start 'who': permission denied$"):
        await open_room("who", env={"PATH": str(tmp_path / "plain")})


async def test_a_command_that_is_not_executable_is_named(open_room: OpenRoom, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")

    with pytest.raises(BackendError, match=r"^cannot start './script': permission denied$"):
        await open_room("./script", cwd=str(tmp_path))


@pytest.mark.parametrize("way", ["./script", "script"])
async def test_the_error_of_a_script_that_cannot_run_says_why(open_room: OpenRoom, tmp_path: Path, way: str) -> None:
    script = tmp_path / "script"
    script.write_text("echo hello\n")
    script.chmod(0o755)
    here = {"cwd": str(tmp_path), "env": {"PATH": str(tmp_path)}}

    with pytest.raises(BackendError, match=r"neither a program nor a script with a first line like #!/bin/sh$"):
        await open_room(way, **here)
    script.write_text("#!/no/such/interpreter\n")
    with pytest.raises(
        BackendError, match=rf"^cannot start '{way}': its interpreter, or the loader it was linked for, is not there$"
    ):
        await open_room(way, **here)
    script.unlink()
    with pytest.raises(BackendError, match=r"no such file or directory$"):
        await open_room(way, **here)


async def test_the_error_of_a_missing_folder_names_the_folder(open_room: OpenRoom) -> None:
    with pytest.raises(BackendError, match=r"^cannot start 'cat': its folder '/no/such/folder': no such file or directory$"):
        await open_room("cat", cwd="/no/such/folder")


@pytest.mark.parametrize("size", [100_000, 200_000, 3_000_000])
async def test_too_long_arguments_are_an_error(open_room: OpenRoom, size: int) -> None:
    with pytest.raises(BackendError, match="cannot start 'echo': its arguments and environment are too long"):
        await open_room("echo", *["x" * 140_000] * (size // 100_000))


async def test_a_nul_in_the_environment_is_an_error(open_room: OpenRoom) -> None:
    with pytest.raises(BackendError, match="cannot start 'cat': embedded null byte"):
        await open_room("cat", env={"PATH": os.environ["PATH"], "A": "x\0y"})


async def test_a_reason_fits_a_close_frame(open_room: OpenRoom) -> None:
    with pytest.raises(BackendError) as raised:
        await open_room("/very/long" * 30 + "/programm-ü")

    assert len(str(raised.value).encode()) <= MAX_REASON
    assert str(raised.value).endswith("/programm-ü': no such file or directory")


@pytest.mark.parametrize("status", [0, 3, 255])
async def test_the_exit_status_is_reported(open_room: OpenRoom, status: int) -> None:
    room = await open_room(*program("crash", status))

    outcome = await room.end()

    assert (outcome.status, outcome.signal) == (status, None)
    assert bytes(room.output) == b"so far so good\n"


async def test_the_signal_that_ended_a_process_is_reported(open_room: OpenRoom) -> None:
    room = await open_room(*program("crash", "SIGSEGV"))

    outcome = await room.end()

    assert (outcome.status, outcome.signal, str(outcome)) == (None, signal.SIGSEGV, "the program was killed by SIGSEGV")


async def test_all_output_is_delivered_before_the_drain_ends(open_room: OpenRoom) -> None:
    room = await open_room(*program("flood", 200_000))

    await room.end()

    assert bytes(room.output) == b"".join(b"%d\n" % number for number in range(200_000))


async def test_no_output_is_delivered_while_reading_is_paused(open_room: OpenRoom) -> None:
    room = await open_room("yes", "x" * 1000)
    await room.until(lambda: len(room.output) > 100_000)

    room.backend.pause_reading()
    room.backend.pause_reading()
    before = len(room.output)
    await asyncio.sleep(0.2)
    assert len(room.output) == before

    room.backend.resume_reading()
    room.backend.resume_reading()
    await room.until(lambda: len(room.output) > before + 1_000_000)
    await room.stop(timeout=1)


async def test_a_process_that_reads_slowly_blocks_and_unblocks_its_room(open_room: OpenRoom) -> None:
    room = await open_room("sh", "-c", "read line; cat")
    room.backend.pause_reading()

    for _ in range(64):
        room.backend.write(b"y" * 10_000 + b"\n")

    assert room.is_blocked
    assert room.backend.unsent > HIGH_WATER
    room.backend.resume_reading()
    await room.until(lambda: not room.is_blocked)
    await room.until(lambda: len(room.output) == 63 * 10_001)
    await room.stop()


async def test_output_continues_after_a_process_closes_its_input(open_room: OpenRoom) -> None:
    room = await open_room("sh", "-c", "exec <&-; echo closed; sleep 0.2; echo more")
    await room.wait_output(b"closed\n")

    assert room.backend.write(b"x" * 1_000_000)
    await room.until(lambda: not room.is_blocked)

    assert not room.backend.write(b"y")
    assert room.backend.unsent == 0
    await room.wait_output(b"more\n")
    assert (await room.end()).status == 0


async def test_unsent_input_is_discarded_when_the_process_closes_its_end(open_room: OpenRoom) -> None:
    room = await open_room("sh", "-c", "sleep 0.2; exec <&-; echo closed; exec cat /dev/zero")
    room.backend.write(b"x" * 1_000_000)
    assert room.is_blocked

    await room.until(lambda: not room.is_blocked)

    assert room.backend.unsent == 0
    await room.stop(timeout=0.2)


async def test_the_end_of_input_ends_a_process_without_a_signal(open_room: OpenRoom) -> None:
    room = await open_room("sh", "-c", "cat; echo end of input")
    room.backend.write(b"last\n")

    outcome = await room.stop()

    assert outcome.status == 0
    assert bytes(room.output) == b"last\nend of input\n"


async def test_a_process_that_ignores_the_end_of_its_input_gets_the_stop_signal(open_room: OpenRoom) -> None:
    room = await open_room("sleep", "60")
    started = time.monotonic()

    outcome = await room.stop(signal=signal.SIGHUP, timeout=5)

    assert outcome.signal == signal.SIGHUP
    assert 0.4 < time.monotonic() - started < 5


async def test_a_stubborn_process_is_killed_after_the_timeout(open_room: OpenRoom, logged: list[dict[str, object]]) -> None:
    room = await open_room(*program("stubborn"))
    await room.wait_output(b"stubborn\n")
    started = time.monotonic()

    outcome = await room.stop(timeout=0.3)

    assert outcome.signal == signal.SIGKILL
    assert 0.7 < time.monotonic() - started < 5
    assert bytes(room.output) == b"stubborn\nno more input\nSIGTERM\n"
    assert [event["after"] for event in logged if event["event"] == "backend killed"] == [0.3]


async def test_a_process_that_does_not_read_is_stopped_in_time_despite_unsent_input(open_room: OpenRoom) -> None:
    room = await open_room(*program("deaf"))
    await room.wait_output(b"deaf\n")
    room.backend.write(b"x" * 1_000_000)
    started = time.monotonic()

    outcome = await room.stop(timeout=5)

    assert outcome.signal == signal.SIGTERM
    assert 0.4 < time.monotonic() - started < 5
    assert not room.is_blocked


async def test_the_whole_group_is_stopped(open_room: OpenRoom) -> None:
    room = await open_room(*program("nest"))
    pids = [int(word) for word in (await room.wait_line()).split()]
    assert len(pids) == 3

    await room.stop(timeout=1)

    assert not any(is_alive(pid) for pid in pids)
    assert not any(exists(pid) for pid in pids)


async def test_the_drain_waits_for_the_output_of_a_process_left_behind(open_room: OpenRoom) -> None:
    room = await open_room(*program("grandchild", 0.3, "hold"))

    outcome = await room.backend.wait_exit()
    assert b"bye" not in room.output
    await room.backend.wait_drained()

    assert outcome.status == 0
    assert room.output.endswith(b"bye\n")
    await room.stop()


async def test_a_process_left_behind_that_holds_the_output_is_killed_by_the_stop(open_room: OpenRoom) -> None:
    room = await open_room(*program("grandchild", 60, "hold"))
    pid = int(await room.wait_line())
    await room.backend.wait_exit()
    assert is_alive(pid)
    started = time.monotonic()

    outcome = await room.stop(timeout=5)

    assert outcome.status == 0
    assert not exists(pid)
    assert time.monotonic() - started < 4


async def test_a_process_left_behind_without_output_is_killed_too(open_room: OpenRoom) -> None:
    room = await open_room(*program("grandchild", 60, "quiet"))
    pid = int(await room.wait_line())

    await room.end()

    assert not exists(pid)


async def test_output_of_a_process_left_behind_by_a_stop_is_read_until_the_timeout(
    open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "GRACE", 0.1)
    room = await open_room("sh", "-c", "trap '' TERM; (sleep 0.3; echo late; sleep 60) & echo $!; read line; exit 7")
    await room.wait_line()

    outcome = await room.stop(timeout=0.6)

    assert outcome.status == 7
    assert room.output.endswith(b"late\n")


async def test_a_stop_does_not_wait_for_held_output_once_the_client_is_closed(
    open_room: OpenRoom, spawner: SpawnerClient
) -> None:
    room = await open_room("sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' & exec cat")
    pid = int(await room.wait_line())
    stop = asyncio.ensure_future(room.stop(timeout=60))
    assert (await room.backend.wait_exit()).status == 0
    assert is_alive(pid)

    spawner.close()

    try:
        async with asyncio.timeout(3):
            assert (await stop).status == 0
    finally:
        os.kill(pid, signal.SIGKILL)
        await until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)


async def test_orphans_are_reaped_while_their_room_runs(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    room = await open_room("sh", "-c", "(true & echo $!) ; exec cat")
    pid = int(await room.wait_line())

    await until(lambda: not exists(pid))

    assert (await room.stop()).status == 0


async def test_standard_error_goes_to_the_log(open_room: OpenRoom, logged: list[dict[str, object]]) -> None:
    room = await open_room("sh", "-c", r"printf 'one\r\n\ntwo \377\nthree' >&2; echo out")

    await room.end()

    lines = [event for event in logged if event["event"] == "stderr"]
    assert [event["line"] for event in lines] == ["one", "two �", "three"]
    assert lines[0] | {"line": ""} == {
        "event": "stderr",
        "app": "app",
        "room": "lobby",
        "pid": room.backend.pid,
        "line": "",
        "log_level": "info",
    }
    assert bytes(room.output) == b"out\n"


@pytest.mark.parametrize(
    ("printed", "last"),
    [
        (r"one\n\ntwo \377\n\n  \n", "two \N{REPLACEMENT CHARACTER}"),
        ("no end", "no end"),
        ("x" * 300 + r"\n", "x" * 200),
        ("", None),
    ],
)
async def test_an_exit_has_the_last_line_of_standard_error(open_room: OpenRoom, printed: str, last: str | None) -> None:
    room = await open_room("sh", "-c", f"printf '{printed}' >&2; exit 3")

    await room.backend.wait_exit()

    assert await room.stop() == Exit(status=3, last_line=last)


async def test_the_last_line_of_a_flood_on_standard_error_is_kept(open_room: OpenRoom) -> None:
    room = await open_room("sh", "-c", "seq 30000 >&2")

    await room.backend.wait_exit()

    assert (await room.stop()).last_line == "30000"


async def test_lines_beyond_the_limit_on_standard_error_are_counted(open_room: OpenRoom, logged: list[dict[str, object]]) -> None:
    room = await open_room(*program("chatty", 30_000))

    await room.end()

    written = sum(event["event"] == "stderr" for event in logged)
    counts = [event["count"] for event in logged if event["event"] == "log lines dropped"]
    assert written < 2000
    assert written + sum(int(str(count)) for count in counts) == 30_001


async def test_a_long_line_on_standard_error_is_logged_in_pieces(open_room: OpenRoom, logged: list[dict[str, object]]) -> None:
    room = await open_room(*program("chatty", 1, 10_000))

    await room.end()

    lines = [str(event["line"]) for event in logged if event["event"] == "stderr"]
    assert "".join(lines) == "0" * 10_000 + "no end"
    assert max(map(len, lines)) <= 4096


async def test_a_cancelled_stop_kills_the_group_at_once(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    room = await open_room(*program("stubborn"))
    await room.wait_output(b"stubborn\n")
    stop = asyncio.ensure_future(room.stop(timeout=60))
    await room.wait_output(b"no more input\n")

    stop.cancel()

    with pytest.raises(asyncio.CancelledError):
        await stop
    await until(lambda: not spawner.groups)
    assert not exists(room.backend.pid)


async def test_a_cancelled_open_leaves_nothing(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    before = open_fds()

    for attempt in range(40):
        opening = asyncio.ensure_future(open_room("cat"))
        for _ in range(attempt // 4):
            await asyncio.sleep(0.0005 * (attempt % 4))
        if opening.done():
            await opening.result().stop(timeout=0)
        opening.cancel()
        await asyncio.wait((opening,))
        assert not spawner.groups

    assert open_fds() == before
    assert children() == [spawner.pid]


async def test_a_start_delay_is_waited_for(open_room: OpenRoom) -> None:
    started = time.monotonic()

    room = await open_room("echo", "hello", start_delay=0.3)

    assert time.monotonic() - started >= 0.3
    assert (await room.end()).status == 0
    assert bytes(room.output) == b"hello\n"
