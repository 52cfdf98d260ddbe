import subprocess

import pytest

from scalesocket.wire.cgi import base_environment, environment
from scalesocket.wire.handshake import Request

REQUEST = Request(
    method="GET",
    target="/chat/lobby?a=1&b=%20",
    path="/chat/lobby",
    query="a=1&b=%20",
    headers={"host": "example.org:8080", "user-agent": "curl/8", "cookie": "a=1; b=2", "origin": "https://example.org"},
    peer=("192.0.2.1", 5555),
    local=("198.51.100.1", 9000),
    is_secure=False,
    http_version="1.1",
)


def describe(request: Request = REQUEST, room: str = "lobby") -> dict[str, str]:
    return environment(request, app="chat", room=room, script_name="/chat", path_info=f"/{room}", software="scalesocket/0")


def with_headers(**headers: str) -> Request:
    return REQUEST._replace(headers=REQUEST.headers | {name.replace("_", "-"): value for name, value in headers.items()})


def test_the_environment_has_the_variables_of_rfc_3875() -> None:
    assert describe() == {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "scalesocket/0",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "9000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/chat",
        "PATH_INFO": "/lobby",
        "QUERY_STRING": "a=1&b=%20",
        "REMOTE_ADDR": "192.0.2.1:5555",
        "REMOTE_HOST": "192.0.2.1",
        "REMOTE_PORT": "5555",
        "APP": "chat",
        "ROOM": "lobby",
        "HTTP_HOST": "example.org:8080",
        "HTTP_USER_AGENT": "curl/8",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_ORIGIN": "https://example.org",
    }


def test_https_is_set_for_tls_only() -> None:
    assert describe(REQUEST._replace(is_secure=True))["HTTPS"] == "on"
    assert "HTTPS" not in describe()


@pytest.mark.parametrize(
    "name",
    [
        "proxy",
        "x_forwarded-for",
        "user_agent",
        "authorization",
        "path",
        "ld-preload",
        "x-forwarded-for",
        "app",
        "remote-addr",
        "anything",
    ],
)
def test_unlisted_headers_are_not_passed(name: str) -> None:
    request = REQUEST._replace(headers=REQUEST.headers | {name: "evil"})

    assert describe(request) == describe()


def test_http_proxy_is_never_set() -> None:
    request = REQUEST._replace(headers={"proxy": "http://evil.example", "Proxy": "http://evil.example"})

    assert not [name for name in describe(request) if "PROXY" in name]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("example.org", "example.org"),
        ("[2001:db8::1]:80", "[2001:db8::1]"),
        ("", "198.51.100.1"),
        ("a b", "198.51.100.1"),
        ("evil$(reboot)", "198.51.100.1"),
    ],
)
def test_the_server_name_is_the_host_of_the_request_if_it_is_valid(host: str, name: str) -> None:
    assert describe(with_headers(host=host))["SERVER_NAME"] == name


def test_addresses_are_empty_on_a_unix_socket() -> None:
    on_socket = REQUEST._replace(peer=None, local=None)

    assert [describe(on_socket)[name] for name in ("REMOTE_ADDR", "REMOTE_HOST", "REMOTE_PORT")] == ["", "", ""]
    assert describe(on_socket)["SERVER_PORT"] == "8080"
    assert describe(on_socket._replace(headers={}))["SERVER_NAME"] == "localhost"
    assert describe(on_socket._replace(headers={}))["SERVER_PORT"] == "80"
    assert describe(on_socket._replace(headers={}, is_secure=True))["SERVER_PORT"] == "443"


def test_any_value_of_a_client_can_be_passed_to_a_process() -> None:
    request = with_headers(user_agent="a\0b\nc\x7f\ud800")._replace(query="x=\0")

    given = describe(request, room="ro\0om\n") | {"PATH": "/usr/bin:/bin"}
    printed = subprocess.run(["env"], env=given, stdout=subprocess.PIPE, check=True, text=True).stdout

    assert dict(line.split("=", 1) for line in printed.splitlines()) == given
    assert given["HTTP_USER_AGENT"] == "a?b?c??"
    assert given["ROOM"] == "ro?om?"


def test_passed_variables_are_overridden_by_those_of_the_app() -> None:
    environ = {"PATH": "/bin", "LANG": "C", "SECRET": "s", "ROOM": "x"}

    assert base_environment({"LANG": "de", "APP": "y"}, ["PATH", "LANG", "ROOM", "HOME"], environ) == {
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        "LANG": "de",
        "APP": "y",
        "ROOM": "x",
    }


def test_python_programs_are_unbuffered_unless_the_site_file_disables_it() -> None:
    environ = {"PYTHONUNBUFFERED": "x"}

    assert base_environment({}, [], environ) == {"PYTHONUNBUFFERED": "1"}
    assert base_environment({}, ["PYTHONUNBUFFERED"], environ) == {"PYTHONUNBUFFERED": "x"}
    assert base_environment({"PYTHONUNBUFFERED": ""}, ["PYTHONUNBUFFERED"], environ) == {"PYTHONUNBUFFERED": ""}


def test_a_header_in_utf_8_is_passed_unchanged() -> None:
    request = REQUEST._replace(headers={"cookie": "name=zoë".encode().decode("latin-1")})

    assert describe(request)["HTTP_COOKIE"] == "name=zoë"
