"""Parsing of site files."""

from ipaddress import ip_network
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from scalesocket.config.keys import keys_of
from scalesocket.config.load import load_site_with_origins
from scalesocket.config.model import App, ConnectRate, Endpoint, History, Limits, PortRange, Rate, Routes, Routing, Server, Site
from scalesocket.config.parse import parse_documents, parse_site, parse_texts
from scalesocket.config.problems import ConfigError
from scalesocket.config.render import to_toml
from scalesocket.config.units import KiB, MiB

SITE = Path("/srv/site.toml")
EXAMPLES = Path(__file__).parents[2] / "examples"


def site(text: str, environ: dict[str, str] | None = None, **included: str) -> Site:
    files = {Path(f"/srv/apps/{name}.toml"): dedent(inner) for name, inner in included.items()}
    return parse_site(dedent(text), SITE, environ or {}, included=files)


def app(*lines: str, environ: dict[str, str] | None = None) -> App:
    return site("\n".join(["[apps.chat]", 'command = "cat"', *lines]), environ).apps["chat"]


def warnings(text: str) -> list[str]:
    main, included = parse_texts({SITE: dedent(text)})
    return [str(problem) for problem in parse_documents(main, included, {}).problems]


def test_the_smallest_app_has_all_defaults() -> None:
    assert app() == App(name="chat", command=("cat",), cwd=Path("/srv"))


def test_every_key_of_an_app_is_read() -> None:
    chat = app(
        'port = "9001-9999"',
        'env = { A = "1" }',
        'limits = { memory = "256MiB", cpu = "60s", open_files = 256 }',
        'routing = { client = "json" }',
        'history = { size = 8, keep = "tagged", persist = true, max_bytes = "1MiB" }',
        'rate = { messages = 100, bytes = "256KiB", burst = 200 }',
        'idle_timeout = "1m30s"',
        'stop_signal = "INT"',
        'static = "www"',
        'origins = ["https://Example.com"]',
        'rooms = "lobby"',
    )

    assert chat == App(
        name="chat",
        command=("cat",),
        cwd=Path("/srv"),
        port=PortRange(9001, 9999),
        env={"A": "1"},
        limits=Limits(memory=256 * MiB, cpu=60.0, open_files=256),
        routing=Routes(client=Routing.JSON),
        history=History(size=8, keep="tagged", persist=True, max_bytes=1 * MiB),
        rate=Rate(messages=100.0, bytes=256 * KiB, burst=200),
        idle_timeout=90.0,
        stop_signal=2,
        static=Path("/srv/www"),
        origins=("https://example.com",),
        rooms=("lobby",),
    )


@pytest.mark.parametrize(
    "binds",
    [["0.0.0.0:443", "[::]:443"], ["[::]:443", "127.0.0.1:443"], ["0.0.0.0:443", "localhost:443"], ["localhost:1", "[::]:1"]],
)
def test_addresses_that_do_not_overlap_can_be_listed_together(binds: list[str]) -> None:
    assert site(f'apps.chat.command = "cat"\n[server]\nbind = {binds}').server.bind == tuple(binds)


def test_every_key_of_the_server_is_read() -> None:
    server = site("""
        apps.chat.command = "cat"
        [server]
        bind = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:9000", "unix:run/site.sock", "fd://3"]
        tls = { certificate = "site.pem", key = "/etc/site.key" }
        control = "run/control.sock"
        trusted_proxies = ["10.0.0.0/8", "::1", "unix:"]
        hosts = ["Play.Example.", "*.games.example", "[0:0::1]", "127.0.0.1"]
        max_connections = 5
        connect_rate = { per_ip = 0.5 }
        drain_timeout = "0s"
        log = { format = "json" }
    """).server

    assert server.bind == ("127.0.0.1:0", "127.0.0.1:0", "[::1]:9000", "unix:/srv/run/site.sock", "fd://3")
    assert server.tls is not None
    assert (server.tls.certificate, server.tls.key) == (Path("/srv/site.pem"), Path("/etc/site.key"))
    assert server.control == "/srv/run/control.sock"
    assert server.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1/128"), "unix:")
    assert server.connect_rate == ConnectRate(per_ip=0.5)
    assert server.hosts == ("play.example", "*.games.example", "::1", "127.0.0.1")
    assert (server.max_connections, server.drain_timeout) == (5, 0.0)
    assert (server.log.format, server.log.level) == ("json", "info")


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ('"python3 pong.py"', ("python3", "pong.py")),
        ("\"sh -c 'a b'\"", ("sh", "-c", "a b")),
        ('["cat", "a b", ""]', ("cat", "a b", "")),
    ],
)
def test_a_command_is_a_list_or_a_string_split_like_a_shell_would(command: str, argv: tuple[str, ...]) -> None:
    assert site(f"apps.chat.command = {command}").apps["chat"].command == argv


def test_tcp_and_unix_targets_are_read() -> None:
    apps = site("""
        apps.mud.tcp = "127.0.0.1:4000"
        apps.six.tcp = "[::1]:4000"
        apps.local.unix = "run/app.sock"
    """).apps

    assert (apps["mud"].tcp, apps["six"].tcp) == (Endpoint("127.0.0.1", 4000), Endpoint("::1", 4000))
    assert apps["local"].unix == Path("/srv/run/app.sock")


def test_a_port_can_be_left_to_the_kernel() -> None:
    port = app('port = "auto"').port

    assert port == PortRange(0, 0)
    assert port.is_auto


@pytest.mark.parametrize(
    ("lines", "join", "leave"),
    [
        ([], None, None),
        (['routing = "json"'], '{"t":"Join","_from":#ID,"_event":"join"}', '{"t":"Leave","_from":#ID,"_event":"leave"}'),
        (['routing = "json"', 'join_message = ""'], None, '{"t":"Leave","_from":#ID,"_event":"leave"}'),
        (['routing = { client = "json" }'], None, None),
        (['join_message = "hi #ID"'], "hi #ID", None),
    ],
)
def test_join_and_leave_messages_have_a_default_with_json_alone(lines: list[str], join: str | None, leave: str | None) -> None:
    chat = app(*lines)

    assert (chat.join_message, chat.leave_message) == (join, leave)


def test_an_app_is_served_at_its_name_or_at_the_root() -> None:
    assert app().mount == "/chat"
    assert app('mount = "/"').mount == "/"
    assert app('mount = "/chat"').mount == "/chat"


def test_defaults_are_inherited_by_every_app_and_env_key_by_key() -> None:
    apps = site("""
        [defaults]
        idle_timeout = "5s"
        env = { A = "default", B = "default" }
        [apps.one]
        command = "cat"
        idle_timeout = "1s"
        [apps.one.env]
        B = "own"
        C = "own"
        [apps.two]
        command = "cat"
    """).apps

    assert (apps["one"].idle_timeout, apps["two"].idle_timeout) == (1.0, 5.0)
    assert apps["one"].env == {"A": "default", "B": "own", "C": "own"}
    assert apps["two"].env == {"A": "default", "B": "default"}


def test_an_apps_own_target_replaces_an_inherited_one() -> None:
    apps = site("""
        [defaults]
        command = "cat"
        port = "auto"
        delimiter = ";"
        [apps.one]
        [apps.two]
        tcp = "127.0.0.1:1"
        [apps.three]
        binary = true
    """).apps

    assert (apps["one"].command, apps["one"].port) == (("cat",), PortRange(0, 0))
    assert (apps["two"].command, apps["two"].port, apps["two"].tcp) == (None, None, Endpoint("127.0.0.1", 1))
    assert (apps["three"].binary, apps["three"].delimiter) == (True, None)


def test_variables_are_replaced_inside_values_after_parsing() -> None:
    chat = app(
        'env = { WHO = "${WHO}", "${WHO}" = "key" }',
        'rooms = ["${WHO:-x}", "$${WHO}"]',
        'idle_timeout = "${IDLE:-30s}"',
        'max_rooms = "${MANY}"',
        'oneshot = "${ONCE}"',
        'rate = { messages = "${SPEED:-2.5}" }',
        'routing = "${ROUTING:-json}"',
        'static = "${FOLDER}/www"',
        "room_pattern = '.*'",
        environ={"WHO": 'a"]\nroutes = "x', "MANY": "7", "ONCE": "true", "FOLDER": "pages"},
    )

    assert chat.env == {"WHO": 'a"]\nroutes = "x', "${WHO}": "key"}
    assert chat.rooms == ('a"]\nroutes = "x', "${WHO}")
    assert chat.rate == Rate(messages=2.5)
    assert (chat.idle_timeout, chat.max_rooms, chat.oneshot) == (30.0, 7, True)
    assert chat.routing.client is Routing.JSON
    assert chat.static == Path("/srv/pages/www")


def test_included_apps_inherit_defaults_and_keep_paths_relative_to_their_own_file() -> None:
    text = 'include = ["apps/*.toml"]\n[defaults]\nidle_timeout = "5s"\nstatic = "www"\n[apps.chat]\ncommand = "cat"'

    apps = site(text, pong='[apps.pong]\ncommand = "cat"').apps

    assert list(apps) == ["chat", "pong"]
    assert apps["pong"].idle_timeout == 5.0
    assert apps["pong"].cwd == Path("/srv/apps")
    assert apps["pong"].static == Path("/srv/www")


def test_a_byte_order_mark_and_carriage_returns_are_ignored() -> None:
    assert "chat" in parse_site('\ufeff[apps.chat]\r\ncommand = "cat"\r\n', SITE, {}).apps


def test_a_site_has_the_path_of_its_file() -> None:
    assert site('apps.chat.command = "cat"').path == SITE


def test_numbers_may_be_given_from_python() -> None:
    chat = App(name="chat", command=["cat"], idle_timeout=0.2, max_message=5, max_rooms=None, start_delay=1, stop_signal=9)

    assert (chat.idle_timeout, chat.max_message, chat.max_rooms, chat.start_delay, chat.stop_signal) == (0.2, 5, None, 1.0, 9)


def test_conflicts_are_found_from_python_too() -> None:
    with pytest.raises(ValueError, match="has no target"):
        App(name="chat")
    with pytest.raises(ValueError, match="tcp: is a second target besides command"):
        App(name="chat", command=["cat"], tcp="127.0.0.1:1")


def test_an_app_with_a_folder_needs_no_target() -> None:
    parsed = site('[defaults]\nmax_message = "1KiB"\n[apps.home]\nstatic = "home"\n[apps.chat]\ncommand = "cat"')

    assert not parsed.apps["home"].has_rooms
    assert parsed.apps["chat"].has_rooms


WARNINGS = {
    'command = "cat | grep x"': (
        '2:11: warning: apps.chat.command: no shell runs, so \'|\' is an ordinary argument (write ["sh", "-c", "…"] for a shell)'
    ),
    'command = "cat"\nstatic_headers = { X = "1" }': "3:1: warning: apps.chat.static_headers: has no effect without static",
    'static = "."\nport = "auto"': ("3:1: warning: apps.chat.port: has no effect without a target (one of: command, tcp, unix)"),
    'static = "."\nhistory = { keep = "tagged" }': (
        "3:1: warning: apps.chat.history: has no effect without a target (one of: command, tcp, unix)"
    ),
    'command = "cat"\nbyte_order = "big"': "3:1: warning: apps.chat.byte_order: has no effect without gwsocket routing",
    'command = "cat"\nrouting = { server = "json" }\nclient_keys = ["_to"]': (
        '4:1: warning: apps.chat.client_keys: has no effect without json routing of clients\' messages (set routing = "json")'
    ),
    'tcp = "a:1"\nenv = { A = "" }': "3:1: warning: apps.chat.env: has no effect without command",
    'command = "cat"\njoin_message = "#ID #QUERY_A #NAME #FFAA00 # #x"': (
        "3:16: warning: apps.chat.join_message: #NAME is not a placeholder and is sent as text "
        "(did you mean #QUERY_NAME? known are #ID, #ROOM, #REMOTE_ADDR, #QUERY_STRING and #QUERY_<PARAM>)"
    ),
    'command = "cat"\nrooms = ["a b"]': (
        "3:9: warning: apps.chat.rooms: no client can join 'a b', which room_pattern does not match (change one of the two)"
    ),
    'command = "cat"\nhistory = { keep = "tagged" }': (
        '3:11: warning: apps.chat.history: keeps nothing, because only json routing can tag messages (set routing = "json")'
    ),
}


@pytest.mark.parametrize("lines", WARNINGS)
def test_a_probable_mistake_is_a_warning(lines: str) -> None:
    assert warnings(f"[apps.chat]\n{lines}") == [f"/srv/site.toml:{WARNINGS[lines]}"]


@pytest.mark.parametrize(
    "lines",
    [
        'static = "."\nmount = "/"\nstatic_headers = { X = "1" }',
        'command = ["grep", "|"]',
        'command = "cat"\nhistory = { keep = "tagged" }\nrouting = "json"',
    ],
)
def test_a_setting_that_has_an_effect_is_no_warning(lines: str) -> None:
    assert warnings(f"[apps.chat]\n{lines}") == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_every_example_is_read_without_a_warning(path: Path) -> None:
    assert load_site_with_origins(path, {}).warnings == []


WORDS = [
    "",
    "json",
    "30s",
    "1MiB",
    "auto",
    "a:1",
    "/",
    "${X}",
    "${X",
    "cat | x",
    "unix:y",
    "[",
    "\0",
    "SIGTERM",
    "*",
    "true",
    "5",
]
VALUES = st.recursive(
    st.sampled_from(WORDS) | st.text(max_size=3) | st.integers(-1, 2) | st.floats() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["client", "size", "key", "A", ""]), inner, max_size=2)
    ),
    max_leaves=3,
)


def tables(model: type[BaseModel]) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(st.sampled_from([*keys_of(model), "wibble"]), VALUES, max_size=4)


@given(
    st.fixed_dictionaries(
        {"apps": st.dictionaries(st.sampled_from(["a", "b", "api", "A B"]), tables(App) | VALUES, max_size=3) | VALUES},
        optional={"server": tables(Server) | VALUES, "defaults": tables(App) | VALUES, "include": VALUES, "wibble": VALUES},
    )
)
def test_any_toml_is_a_site_or_has_errors_with_places(sections: dict[str, object]) -> None:
    text = "\n".join(f"{key} = {to_toml(value)}" for key, value in sections.items())

    try:
        parsed = parse_site(text, SITE, {"X": "x"})
    except ConfigError as error:
        found = error
    else:
        assert parsed.apps
        return
    assert found.problems
    assert all(problem.place.line or problem.message.startswith("no apps") for problem in found.problems)
    assert found.render()


def test_an_origin_is_compared_as_browsers_send_it() -> None:
    app = App(name="chat", command=["cat"], origins=["https://Example.com:443", "http://a:80", "http://a:8080", "https://a:80"])

    assert app.origins == ("https://example.com", "http://a", "http://a:8080", "https://a:80")
