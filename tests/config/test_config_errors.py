"""Every kind of error in a site file, with its message."""

from pathlib import Path
from textwrap import dedent

import pytest

from scalesocket.config.parse import parse_site
from scalesocket.config.problems import ConfigError, Severity

SITE = Path("site.toml")
ENVIRON = {"PORT": "9001", "MANY": "many"}


def problems_of(text: str, **included: str) -> list[str]:
    """Return the problems of a site file, one line each."""
    files = {Path(f"apps/{name}.toml"): dedent(inner) for name, inner in included.items()}
    with pytest.raises(ConfigError) as caught:
        parse_site(dedent(text), SITE, ENVIRON, included=files)
    return [str(problem) for problem in caught.value.problems]


def app(*lines: str) -> str:
    """Return a site file with one valid app, and these lines in its table from line 3 on."""
    return "\n".join(["[apps.chat]", 'command = "cat"', *lines])


def server(*lines: str) -> str:
    """Return a site file with one valid app, and these lines in its server table from line 3 on."""
    return "\n".join(['apps.chat.command = "cat"', "[server]", *lines])


WRONG_VALUES = {
    'routing = "jsn"': "11: apps.chat.routing: unknown value 'jsn' (one of: broadcast, json, gwsocket)",
    "routing = 5": "11: apps.chat.routing: unknown value 5 (one of: broadcast, json, gwsocket)",
    'routing = { client = "jsn" }': "22: apps.chat.routing.client: unknown value 'jsn' (one of: broadcast, json, gwsocket)",
    'slow_client = "wait"': "15: apps.chat.slow_client: unknown value 'wait' (one of: close, block, drop)",
    "idle_timeout = 30": '16: apps.chat.idle_timeout: 30 has no unit (write "30s")',
    "idle_timeout = 1.5": '16: apps.chat.idle_timeout: 1.5 has no unit (write "1.5s")',
    'idle_timeout = "30"': '16: apps.chat.idle_timeout: 30 has no unit (write "30s")',
    "idle_timeout = true": "16: apps.chat.idle_timeout: must be a string, not a boolean",
    "idle_timeout = 07:32:00": "16: apps.chat.idle_timeout: must be a string, not a time",
    'idle_timeout = "soon"': (
        '16: apps.chat.idle_timeout: \'soon\' is not a duration (write for example "30s", "250ms" or "1h30m")'
    ),
    'static_headers = { Content-Length = "1" }': (
        "37: apps.chat.static_headers.Content-Length: Content-Length is set by the server for each file (delete it)"
    ),
    'static_headers = { connection = "close" }': (
        "33: apps.chat.static_headers.connection: connection is set by the server for each connection (delete it)"
    ),
    'static_headers = { "X A" = "1" }': (
        '28: apps.chat.static_headers."X A": \'X A\' is not a header name (write for example "Cache-Control")'
    ),
    'static_headers = { X = "a\\r\\nSet-Cookie: b" }': (
        "24: apps.chat.static_headers.X: contains a control character, '\\r' (delete it)"
    ),
    'static_headers = { X = "ü" }': (
        "24: apps.chat.static_headers.X: contains a character that is not ASCII, '\\xfc' (delete it)"
    ),
    'static_headers = { X = " a" }': ("24: apps.chat.static_headers.X: ' a' begins or ends with a space (write 'a')"),
    "static_headers = { X = 1 }": '24: apps.chat.static_headers.X: must be a string, not an integer (write "1")',
    'static_headers = { X-A = "1", x-a = "2" }': (
        "18: apps.chat.static_headers: X-A and x-a are the same header (keep one of them)"
    ),
    'static_headers = "X: 1"': "18: apps.chat.static_headers: must be a table, not a string",
    'max_lifetime = "0s"': "16: apps.chat.max_lifetime: must be more than 0, not '0s'",
    "max_message = 1024": '15: apps.chat.max_message: 1024 has no unit (write "1024B")',
    'max_message = "1 meg"': ('15: apps.chat.max_message: \'1 meg\' is not a size (write for example "64kB" or "1MiB")'),
    "max_rooms = 0": "13: apps.chat.max_rooms: must be at least 1, not 0",
    "max_rooms = 1.5": "13: apps.chat.max_rooms: must be a whole number, not a float",
    'max_rooms = "5"': "13: apps.chat.max_rooms: must be a whole number, not a string (write 5 without quotes)",
    'max_rooms = "${MANY}"': (
        "13: apps.chat.max_rooms: must be a whole number, but its variables make it 'many' (set them to digits, such as 5)"
    ),
    'rate = { messages = "${X:-abc}" }': (
        "21: apps.chat.rate.messages: must be a number, but its variables make it 'abc' (set them to digits, such as 5)"
    ),
    'oneshot = "${X:-maybe}"': (
        "11: apps.chat.oneshot: must be true or false, but its variables make it 'maybe' (set them to true or false)"
    ),
    'oneshot = "true"': "11: apps.chat.oneshot: must be true or false, not a string (write true without quotes)",
    "oneshot = 1": "11: apps.chat.oneshot: must be true or false, not an integer (write true)",
    "user = 5": '8: apps.chat.user: must be a string, not an integer (write "5")',
    "static = 2024-01-01": "10: apps.chat.static: must be a string, not a date",
    "port = 9001": '8: apps.chat.port: must be a string, not an integer (write "9001")',
    'port = "any"': '8: apps.chat.port: \'any\' is not a port or a range of ports (write "auto" or "9001-9999")',
    'port = "9999-9001"': "8: apps.chat.port: '9999-9001' is not a range of ports (first to last, within 1 to 65535)",
    'stop_signal = "TURM"': (
        '15: apps.chat.stop_signal: unknown signal \'TURM\' (write for example "SIGTERM", "SIGINT" or "SIGKILL")'
    ),
    "stop_signal = 15": '15: apps.chat.stop_signal: must be a string, not an integer (write "15")',
    'room_pattern = "[a"': ("16: apps.chat.room_pattern: not a regular expression: unterminated character set at character 1"),
    'delimiter = ""': "13: apps.chat.delimiter: is empty (set binary = true for output that is not split)",
    'max_message = "%sB"' % ("9" * 310): f"15: apps.chat.max_message: '{'9' * 310}B' is too large (it must be less than 8 EiB)",
    'origins = ["example.com"]': (
        "12: apps.chat.origins[0]: 'example.com' is not an origin "
        '(write "https://example.com", with its port if it has one, or "*")'
    ),
    "rooms = [1]": '10: apps.chat.rooms[0]: must be a string, not an integer (write "1")',
    "rooms = true": "9: apps.chat.rooms: must be a string or an array of strings, not a boolean",
    "env = 5": "7: apps.chat.env: must be a table, not an integer",
    "env = { A = 5 }": '13: apps.chat.env.A: must be a string, not an integer (write "5")',
    'env = { "A=B" = "5" }': "7: apps.chat.env: 'A=B' is not the name of a variable (it cannot be empty or contain '=' or NUL)",
    'env = { A = "\\u0000" }': "7: apps.chat.env: the value of A contains a NUL character (delete it)",
    'client_keys = ["_to", "_form"]': (
        "23: apps.chat.client_keys[1]: unknown value '_form' (one of: _to, _except, _close, _meta, _cache)"
    ),
    'client_keys = "to"': "15: apps.chat.client_keys: unknown value 'to' (one of: _to, _except, _close, _meta, _cache)",
    "client_keys = true": "15: apps.chat.client_keys: must be a string or an array of strings, not a boolean",
    'subprotocols = ["mqtt", "v1/chat"]': (
        "25: apps.chat.subprotocols[1]: 'v1/chat' is not a subprotocol name: it contains '/' "
        '(write for example "mqtt", or "*" for any)'
    ),
    'subprotocols = "mqtt, stomp"': (
        "16: apps.chat.subprotocols: 'mqtt, stomp' is not a subprotocol name: it contains ',' "
        '(write for example "mqtt", or "*" for any)'
    ),
    'subprotocols = [""]': (
        '17: apps.chat.subprotocols[0]: \'\' is not a subprotocol name: it is empty (write for example "mqtt", or "*" for any)'
    ),
    "room_rate = 5": "13: apps.chat.room_rate: must be a table, not an integer (write room_rate = { per_ip = 5 })",
    "room_rate = { burst = 3 }": "13: apps.chat.room_rate: limits nothing (set per_ip, total, or both)",
    "room_rate = { total = 0 }": "23: apps.chat.room_rate.total: must be more than 0, not 0",
    "rate = {}": "8: apps.chat.rate: limits nothing (set messages, bytes, or both)",
    "rate = { messages = 0 }": "21: apps.chat.rate.messages: must be more than 0, not 0",
    "rate = { messages = inf }": "21: apps.chat.rate.messages: must be a finite number",
    'rate = { messages = "5" }': "21: apps.chat.rate.messages: must be a number, not a string (write 5 without quotes)",
    "history = 64": "11: apps.chat.history: must be a table, not an integer (write history = { size = 64 })",
    "history = true": "11: apps.chat.history: must be a table, not a boolean (write history = {})",
    "history = [64]": "11: apps.chat.history: must be a table, not an array",
    "rate = 100": "8: apps.chat.rate: must be a table, not an integer (write rate = { messages = 100 })",
    'rate = "64KiB"': '8: apps.chat.rate: must be a table, not a string (write rate = { bytes = "64KiB" })',
    'rate = "fast"': "8: apps.chat.rate: must be a table, not a string",
    'limits = "256MiB"': '10: apps.chat.limits: must be a table, not a string (write limits = { memory = "256MiB" })',
    "history = { size = 0 }": "20: apps.chat.history.size: must be at least 1, not 0",
    'history = { keep = "some" }': "20: apps.chat.history.keep: unknown value 'some' (one of: all, tagged)",
    'limits = { memory = "1x" }': ('21: apps.chat.limits.memory: \'1x\' is not a size (write for example "64kB" or "1MiB")'),
    'mount = "/games"': '9: apps.chat.mount: unknown value \'/games\' (write "/", or delete it for "/chat")',
    'cwd = "${NOPE}"': '7: apps.chat.cwd: the variable NOPE is not set (set it, or give a default: "${NOPE:-…}")',
    'cwd = "${NOPE:?where}"': "7: apps.chat.cwd: the variable NOPE is not set: where",
    'rooms = ["a", "${NOPE"]': (
        '15: apps.chat.rooms[1]: "${NOPE" is not a variable (write "${NAME}", or "$${" for a literal "${")'
    ),
}


@pytest.mark.parametrize("line", WRONG_VALUES)
def test_a_wrong_value_is_reported_with_its_place_and_a_hint(line: str) -> None:
    assert problems_of(app(line)) == [f"site.toml:3:{WRONG_VALUES[line]}"]


WRONG_IN_SERVER = {
    'bind = "9000"': '8: server.bind: \'9000\' has no host (write "127.0.0.1:9000", or "0.0.0.0:9000" for every interface)',
    "bind = 9000": '8: server.bind: \'9000\' has no host (write "127.0.0.1:9000", or "0.0.0.0:9000" for every interface)',
    "bind = [9000]": '9: server.bind[0]: \'9000\' has no host (write "127.0.0.1:9000", or "0.0.0.0:9000" for every interface)',
    "bind = true": "8: server.bind: must be a string or an array of strings, not a boolean",
    'bind = ""': "8: server.bind: '' is not an address (write for example \"127.0.0.1:9000\")",
    'bind = "::1"': "8: server.bind: '::1' is not an address (write for example \"[::1]:9000\")",
    'bind = "[::1"': "8: server.bind: '[::1' is not an address (write for example \"[::1]:9000\")",
    'bind = "[::1]"': "8: server.bind: '[::1]' has no port (write for example \"[::1]:9000\")",
    'bind = "[::1:80"': "8: server.bind: '[::1:80' is not an address (write IPv6 in brackets: \"[::1]:80\")",
    'bind = "a:b:80"': '8: server.bind: \'a:b:80\' is not an address (write "host:port" or "[v6]:port")',
    'bind = "here"': "8: server.bind: 'here' has no port (write for example \"here:9000\")",
    'bind = ":9000"': ('8: server.bind: \':9000\' has no host (write "127.0.0.1:9000", or "0.0.0.0:9000" for every interface)'),
    'bind = ["a:1", "::1:80"]': ("16: server.bind[1]: '::1:80' is not an address (write IPv6 in brackets: \"[::1]:80\")"),
    'bind = "host:99999"': "8: server.bind: port 99999 of 'host:99999' is out of range (0 to 65535)",
    'bind = "unix:"': '8: server.bind: "unix:" has no path (write for example "unix:/run/scalesocket.sock")',
    'bind = "fd://stdin"': "8: server.bind: 'fd://stdin' is not a file descriptor (write for example \"fd://3\")",
    'bind = ["127.0.0.1:9000", "[::1]:1", "127.0.0.1:9000"]': "8: server.bind: '127.0.0.1:9000' is listed twice (delete one)",
    'bind = ["127.0.0.1:9000", "0.0.0.0:9000"]': (
        "8: server.bind: '127.0.0.1:9000' and '0.0.0.0:9000' overlap (keep only the one for every interface)"
    ),
    'bind = ["unix:/srv/a", "unix:/srv/./a"]': "8: server.bind: 'unix:/srv/a' is listed twice (delete one)",
    "bind = []": "8: server.bind: is empty (name at least one)",
    'trusted_proxies = ["10.0.0.1/8"]': (
        "20: server.trusted_proxies[0]: '10.0.0.1/8' is an address within a network (write \"10.0.0.0/8\")"
    ),
    'trusted_proxies = "unix"': (
        "19: server.trusted_proxies: 'unix' is not a network (did you mean \"unix:\", for the peers of all unix sockets?)"
    ),
    'trusted_proxies = ["::1", "unix:/run/site.sock"]': (
        "27: server.trusted_proxies[1]: 'unix:/run/site.sock' is not a network (did you mean \"unix:\", for the peers of all "
        "unix sockets?)"
    ),
    'trusted_proxies = ["proxy"]': (
        '20: server.trusted_proxies[0]: \'proxy\' is not a network (write for example "10.0.0.0/8" or "::1")'
    ),
    'hosts = ["a", "b:80"]': (
        "15: server.hosts[1]: 'b:80' contains a port; a host has the same rules on every port (write \"b\")"
    ),
    'hosts = "https://play.example/"': (
        "9: server.hosts: 'https://play.example/' contains more than a host (write \"play.example\")"
    ),
    'hosts = "http://[::1]:80"': (
        "9: server.hosts: 'http://[::1]:80' contains a port; a host has the same rules on every port (write \"[::1]\")"
    ),
    'hosts = "m\u00fcller.example"': (
        "9: server.hosts: 'müller.example' is not ASCII, and browsers send the ASCII form (write \"xn--mller-kva.example\")"
    ),
    'hosts = "a.*.example"': (
        '9: server.hosts: \'a.*.example\' is not a host (write for example "play.example", "*.play.example" or "127.0.0.1")'
    ),
    "connect_rate = 20": "16: server.connect_rate: must be a table, not an integer (write connect_rate = { per_ip = 20 })",
    "connect_rate = { burst = 5 }": "16: server.connect_rate: per_ip is missing",
    "connect_rate = { per_ip = 0 }": "27: server.connect_rate.per_ip: must be more than 0, not 0",
    "connect_rate = { per_ip = 1, burst = 0 }": "38: server.connect_rate.burst: must be at least 1, not 0",
    "connect_rate = { per_ip = 1, rate = 0 }": "30: server.connect_rate.rate: unknown key (one of: per_ip, burst)",
    "hosts = []": "9: server.hosts: is empty (name at least one)",
    'log = { level = "loud" }': "17: server.log.level: unknown value 'loud' (one of: debug, info, warning, error)",
    'tls = { key = "k.pem" }': "7: server.tls: certificate is missing",
}


@pytest.mark.parametrize("line", WRONG_IN_SERVER)
def test_a_wrong_value_of_the_server_is_reported_with_its_place_and_a_hint(line: str) -> None:
    assert problems_of(server(line)) == [f"site.toml:3:{WRONG_IN_SERVER[line]}"]


UNKNOWN_KEYS = {
    app("routng = 5"): '3:1: apps.chat.routng: unknown key (did you mean "routing"?)',
    app('passenv = ["A"]'): '3:1: apps.chat.passenv: unknown key (did you mean "pass_env"?)',
    app("Max-Rooms = 5"): '3:1: apps.chat.Max-Rooms: unknown key (did you mean "max_rooms"?)',
    app("wibble = 5"): "3:1: apps.chat.wibble: unknown key (all keys are in docs/config.md)",
    app("history = { sise = 5 }"): '3:13: apps.chat.history.sise: unknown key (did you mean "size"?)',
    app("history = { wibble = 5 }"): "3:13: apps.chat.history.wibble: unknown key (one of: size, keep, persist, max_bytes)",
    app("drain_timeout = 5"): "3:1: apps.chat.drain_timeout: unknown key here (it belongs in [server])",
    app('name = "chat"'): "3:1: apps.chat.name: unknown key (all keys are in docs/config.md)",
    app('start_delay = "1s"'): "3:1: apps.chat.start_delay: unknown key (all keys are in docs/config.md)",
    server("routing = 5"): "3:1: server.routing: unknown key here (it belongs in [apps.NAME] or [defaults])",
    server('magic = "me"'): "3:1: server.magic: unknown key (all keys are in docs/config.md)",
    server('tls = { certificate = "c", key_file = "k" }'): (
        "3:28: server.tls.key_file: unknown key (one of: certificate, key)\nsite.toml:3:7: server.tls: key is missing"
    ),
    'apps.chat.command = "cat"\n[app.pong]': '2:2: app: unknown key (did you mean "apps"?)',
    'apps.chat.command = "cat"\nbind = "a:1"': "2:1: bind: unknown key here (it belongs in [server])",
    'apps.chat.command = "cat"\nwibble = 1': "2:1: wibble: unknown key (one of: include, server, cluster, defaults, apps)",
}


@pytest.mark.parametrize("text", UNKNOWN_KEYS)
def test_an_unknown_key_is_reported_with_a_suggestion(text: str) -> None:
    assert sorted(problems_of(text)) == sorted(f"site.toml:{UNKNOWN_KEYS[text]}".split("\n"))


CONFLICTS = {
    "[apps.chat]": ("1:7: apps.chat: has no target (set one of: command, tcp, unix; or only static, for an app without rooms)"),
    app('tcp = "127.0.0.1:1"'): "3:1: apps.chat.tcp: is a second target besides command (keep one of the two)",
    app('binary = true\ndelimiter = ","'): (
        "4:1: apps.chat.delimiter: cannot be combined with binary = true, which does not split output (keep one of the two)"
    ),
    '[apps.chat]\ntcp = "tcp://a:1"': ('2:7: apps.chat.tcp: \'tcp://a:1\' is not an address (write "a:1", without "tcp://")'),
    '[apps.chat]\ntcp = "a:0"': "2:7: apps.chat.tcp: 'a:0' has port 0, which cannot be connected to",
    '[apps.chat]\ntcp = "a:1"\nport = "auto"': (
        "3:1: apps.chat.port: is for command, not for tcp, whose address includes the port (delete it)"
    ),
    '[apps.api]\ncommand = "cat"': (
        "1:7: apps.api: 'api' is a reserved name (choose another; reserved: admin, api, health, metrics, ready, static)"
    ),
    '[apps."My Chat"]\ncommand = "cat"': (
        "1:7: apps.\"My Chat\": 'My Chat' is not an app name "
        "(use lower-case letters, digits, '-' and '_', first a letter or digit)"
    ),
    '[apps.a]\ncommand = "cat"\nmount = "/"\n[apps.b]\ncommand = "cat"\nmount = "/"': (
        '6:9: apps.b.mount: "/" is the mount of apps.a already, at site.toml:3:9 (keep one of the two)'
    ),
    "[apps.chat]\ncommand = []": '2:11: apps.chat.command: has no program (write for example ["cat"])',
    '[apps.chat]\ncommand = ""': '2:11: apps.chat.command: has no program (write for example ["cat"])',
    '[apps.chat]\ncommand = "echo \'a"': (
        '2:11: apps.chat.command: cannot split "echo \'a" into words: no closing quotation (write a list, one string per word)'
    ),
    "[apps.chat]\ncommand = 5": "2:11: apps.chat.command: must be a string or an array of strings, not an integer",
    '[apps.chat]\ncommand = ["a", "\\u0000"]': ("2:11: apps.chat.command: an argument contains a NUL character (delete it)"),
    "[apps.chat]\ntcp = 4000": ("2:7: apps.chat.tcp: '4000' has no host (write \"127.0.0.1:4000\")"),
    "[apps]\nchat = 5": "2:8: apps.chat: must be a table, not an integer",
    "apps = 5": "1:8: apps: must be a table, not an integer",
    app("[server]\n[defaults]\nmount = '/'"): "5:1: defaults.mount: applies to a single app (move it to [apps.NAME])",
    'include = "apps/*.toml"\n' + app(): '1:11: include: must be an array, not a string (write ["apps/*.toml"])',
    "include = [5]\n" + app(): "1:12: include[0]: must be a string, not an integer",
    "server = 5\n" + app(): "1:10: server: must be a table, not an integer",
}


@pytest.mark.parametrize("text", CONFLICTS)
def test_conflicting_keys_are_reported_at_the_key_to_change(text: str) -> None:
    assert problems_of(text) == [f"site.toml:{CONFLICTS[text]}"]


@pytest.mark.parametrize("text", ["", "# nothing yet", "[server]", "[apps]"])
def test_a_file_without_apps_is_an_error(text: str) -> None:
    assert problems_of(text) == ['site.toml: no apps (add one, for example [apps.chat] with command = "cat")']


def test_too_deeply_nested_tables_are_an_error() -> None:
    assert problems_of("a = " + "[" * 100_000) == ["site.toml: arrays or tables are nested too deeply"]


def test_a_number_with_too_many_digits_is_an_error() -> None:
    assert problems_of("a = " + "1" * 5_000) == ["site.toml: a number has too many digits"]


@pytest.mark.parametrize("pattern", ["a{99999999999}", "(" * 3_000 + ")" * 3_000])
def test_a_pattern_that_python_cannot_compile_is_an_error(pattern: str) -> None:
    problems = problems_of(f'[apps.a]\ncommand = "cat"\nroom_pattern = "{pattern}"')

    assert problems == ["site.toml:3:16: apps.a.room_pattern: not a regular expression: too many repetitions or groups"]


def test_all_errors_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = """\
        [server]
        bind = 5
        [defaults]
        idle_timeout = 5
        [apps.chat]
        routing = "jsn"
        [apps.pong]
        command = "cat"
        tcp = "a"
        max_roms = 5
    """

    assert [line.split(": ")[:2] for line in problems_of(text)] == [
        ["site.toml:2:8", "server.bind"],
        ["site.toml:4:16", "defaults.idle_timeout"],
        ["site.toml:5:7", "apps.chat"],
        ["site.toml:6:11", "apps.chat.routing"],
        ["site.toml:9:1", "apps.pong.tcp"],
        ["site.toml:9:7", "apps.pong.tcp"],
        ["site.toml:10:1", "apps.pong.max_roms"],
    ]


def test_an_error_in_defaults_is_reported_once_for_all_apps() -> None:
    text = """\
        [defaults]
        routing = "jsn"
        [apps.a]
        command = "cat"
        [apps.b]
        command = "cat"
    """

    assert problems_of(text) == ["site.toml:2:11: defaults.routing: unknown value 'jsn' (one of: broadcast, json, gwsocket)"]


def test_an_app_defined_in_two_files_is_reported_with_both_places() -> None:
    text = 'include = ["apps/*.toml"]\n[apps.chat]\ncommand = "cat"'

    found = problems_of(text, chat='\n\n[apps.chat]\ncommand = "cat"')

    assert found == ["apps/chat.toml:3:7: apps.chat: is defined twice, first at site.toml:2:7 (rename one of the two)"]


def test_an_included_file_may_contain_only_apps() -> None:
    found = problems_of(app(), other='include = []\n[defaults]\n[apps.pong]\ncommand = "cat"')

    reason = "is not allowed in an included file, which has [apps.NAME] tables only (move it to site.toml)"
    assert found == [f"apps/other.toml:1:1: include: {reason}", f"apps/other.toml:2:2: defaults: {reason}"]


def test_syntax_errors_in_several_files_are_reported_at_once() -> None:
    found = problems_of("a = =", one="b = =", two=app())

    assert [line.split(": ")[0] for line in found] == ["site.toml:1:5", "apps/one.toml:1:5"]


def test_the_line_is_shown_with_a_caret_under_the_place() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_site(app('\trouting = "jsn"  # ü', "max_rooms = 0"), SITE, {})

    assert caught.value.render() == dedent("""\
        site.toml:3:12: apps.chat.routing: unknown value 'jsn' (one of: broadcast, json, gwsocket)
          \trouting = "jsn"  # ü
          \t          ^^^^^
        site.toml:4:13: apps.chat.max_rooms: must be at least 1, not 0
          max_rooms = 0
                      ^""")


def test_a_value_of_several_lines_is_underlined_on_its_first_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_site(app("rooms = [", "  1,", "]", 'routing = """', 'jsn"""'), SITE, {})

    assert caught.value.render().splitlines()[-2:] == ['  routing = """', "            ^^^"]


def test_a_problem_is_a_record_for_editors() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_site(app('routing = "jsn"'), SITE, {})

    [problem] = caught.value.problems
    assert problem.severity is Severity.ERROR
    assert problem.to_record() == {
        "severity": "error",
        "file": "site.toml",
        "line": 3,
        "column": 11,
        "end_column": 16,
        "key": "apps.chat.routing",
        "message": "unknown value 'jsn' (one of: broadcast, json, gwsocket)",
    }
