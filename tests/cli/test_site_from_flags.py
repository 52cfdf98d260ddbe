"""The site that the original's command line describes."""

from pathlib import Path

import click
import pytest

from scalesocket.cli.flags import FLAGS
from scalesocket.cli.site_from_flags import site_from_args
from scalesocket.config.model import App, History, PortRange, Routes, Routing

JSON = Routes(client=Routing.JSON, server=Routing.JSON)


def app_of(*argv: str) -> App:
    return site_from_args([*argv, "cat"]).apps["app"]


def test_without_flags_the_defaults_are_the_originals() -> None:
    site = site_from_args(["cat"])

    assert site.path is None
    assert site.server.bind == ("0.0.0.0:9000",)
    assert not site.server.metrics
    assert not site.server.api
    assert site.server.metrics_rooms
    assert site.server.max_connections is None
    assert site.server.control == "off"
    assert list(site.apps) == ["app"]
    app = site.apps["app"]
    assert app.mount == "/"
    assert app.command == ("cat",)
    assert app.pass_env == ("PATH", "DYLD_LIBRARY_PATH")
    assert app.origins == ("*",)
    assert app.max_rooms is None
    assert app.max_connections is None
    assert app.rooms is None
    assert app.routing == Routes()
    assert app.delimiter == "\n"
    assert app.join_message is None
    assert app.leave_message is None
    assert app.cwd == Path.cwd()


def test_bind_is_another_name_of_addr() -> None:
    assert site_from_args(["--bind", "127.0.0.1:1", "cat"]).server.bind == ("127.0.0.1:1",)
    with pytest.raises(click.UsageError, match="--addr is given more than once"):
        site_from_args(["--bind=a:1", "--addr=a:2", "cat"])


def test_json_sets_framing_and_both_messages() -> None:
    app = app_of("--json")

    assert app.routing == JSON
    assert app.join_message == '{"t":"Join","_from":#ID}'
    assert app.leave_message == '{"t":"Leave","_from":#ID}'


def test_json_keeps_a_message_that_is_given() -> None:
    app = app_of("--json", "--joinmsg=hello #ID", "--leavemsg=")

    assert app.join_message == "hello #ID"
    assert app.leave_message is None


@pytest.mark.parametrize("frame", ["--frame", "--frame=json"])
def test_frame_alone_sets_no_messages(frame: str) -> None:
    app = app_of(frame)

    assert app.routing == JSON
    assert app.join_message is None
    assert app.leave_message is None


@pytest.mark.parametrize("frame", ["--json", "--frame", "--frame=json", "--clientframe=json"])
def test_client_keys_are_those_of_the_original(frame: str) -> None:
    assert app_of(frame).client_keys == ("_to", "_meta", "_cache")


@pytest.mark.parametrize("flags", [[], ["--frame=gwsocket"], ["--serverframe=json"]])
def test_there_are_no_client_keys_without_json_from_clients(flags: list[str]) -> None:
    assert app_of(*flags).client_keys == ()


def test_each_direction_can_have_its_own_framing() -> None:
    assert app_of("--clientframe=json").routing == Routes(client=Routing.JSON)
    assert app_of("--serverframe=gwsocket").routing == Routes(server=Routing.GWSOCKET)
    assert app_of("--clientframe=gwsocket", "--serverframe=json").routing == Routes(client=Routing.GWSOCKET, server=Routing.JSON)


def test_gwsocket_keeps_the_newline_after_each_payload() -> None:
    app = app_of("--frame=gwsocket")

    assert app.routing == Routes(client=Routing.GWSOCKET, server=Routing.GWSOCKET)
    assert app.delimiter == "\n"
    assert app.byte_order == "little"


@pytest.mark.parametrize(
    ("flags", "delimiter"),
    [
        (["--delimiters=bc"], "bc"),
        (["--null"], "\0"),
        (["--null", "--delimiters=bc"], "bc\0"),
        (["--binary"], None),
    ],
)
def test_the_set_of_delimiters(flags: list[str], delimiter: str | None) -> None:
    assert app_of(*flags).delimiter == delimiter


@pytest.mark.parametrize(
    ("flags", "history"),
    [
        ([], None),
        (["--cache", "64"], History(size=64)),
        (["--cache=all:7"], History(size=7)),
        (["--cache=tagged:8", "--cachepersist"], History(size=8, keep="tagged", persist=True)),
        (["--cachepersist"], None),
    ],
)
def test_the_cache_is_the_history(flags: list[str], history: History | None) -> None:
    assert app_of(*flags).history == history


def test_the_last_tcp_port_is_not_included() -> None:
    assert app_of().port is None
    assert app_of("--tcp").port == PortRange(9001, 9998)
    assert app_of("--tcp", "--tcpports", "5000:5001").port == PortRange(5000, 5000)


def test_a_delay_is_a_minimum_and_none_without_the_flag() -> None:
    assert app_of("--tcp").start_delay == 0.0
    assert app_of("--delay=2").start_delay == 2.0


def test_oneshot_has_one_room_by_default() -> None:
    assert app_of("--oneshot").oneshot
    assert app_of("--oneshot").max_rooms == 1
    assert app_of("--oneshot", "--maxrooms=4").max_rooms == 4


def test_lists_are_split_by_comma() -> None:
    assert app_of("--rooms=a,b").rooms == ("a", "b")
    assert app_of("--passenv=A,B").pass_env == ("A", "B")
    assert app_of("--passenv=").pass_env == ()


def test_flags_enable_endpoints_and_set_the_log() -> None:
    site = site_from_args(["--api", "--metrics", "--addr=127.0.0.1:0", "--log=json", "-vv", "cat"])

    assert site.server.api
    assert site.server.metrics
    assert site.server.bind == ("127.0.0.1:0",)
    assert site.server.log.format == "json"
    assert site.server.log.level == "debug"


def test_a_folder_starts_from_the_working_directory() -> None:
    assert app_of("--staticdir", "pages").static == Path.cwd() / "pages"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--addr="], "--addr: '' is not an address (write for example \"127.0.0.1:9000\")"),
        (["--addr=localhost"], "--addr: 'localhost' has no port"),
        (["--cache=x"], "--cache: 'x' is not a whole number"),
        (["--cache=some:3"], "--cache: unknown type 'some'"),
        (["--cache=0"], "--cache: must be at least 1, not 0"),
        (["--delay=soon"], "--delay: 'soon' is not a number of seconds"),
        (["--delay=-1"], "--delay"),
        (["--delay=nan"], "--delay"),
        (["--delimiters="], "--delimiters: is empty (write --binary"),
        (["--frame=jsn"], "--frame: unknown mode 'jsn'"),
        (["--clientframe="], "--clientframe: unknown mode ''"),
        (["--log=xml"], "--log: unknown format 'xml'"),
        (["--maxrooms=many"], "--maxrooms: 'many' is not a whole number"),
        (["--maxrooms=0"], "--maxrooms"),
        (["--tcp", "--tcpports=9001"], "--tcpports: '9001' is not a range (write START:END"),
        (["--tcp", "--tcpports=9:9"], "--tcpports: no port in '9:9'"),
        (["--tcp", "--tcpports=0:9"], "--tcpports"),
        (["--tcp", "--tcpports=9:70000"], "--tcpports"),
    ],
)
def test_an_invalid_value_is_a_usage_error(flags: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        app_of(*flags)

    assert message in refused.value.format_message()


def test_a_second_v_has_no_effect_and_the_help_says_so() -> None:
    (flag,) = (flag for flag in FLAGS if flag.name == "-v")

    assert site_from_args(["-v", "cat"]) == site_from_args(["-vv", "cat"])
    assert "-vv is the same" in flag.meaning
