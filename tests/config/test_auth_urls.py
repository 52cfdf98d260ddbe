import pytest

from scalesocket.config.lint import find_suspicious
from scalesocket.config.model import App, Hook
from scalesocket.config.urls import check_keys_url, check_url


@pytest.mark.parametrize(
    "url",
    [
        "https://id.example/keys",
        "https://id.example:8443/a?b=c",
        "https://[2001:db8::1]/",
        "http://127.0.0.1:8080/",
        "http://[::1]/",
        "http://localhost/keys",
        "http://id.localhost:9/keys",
    ],
)
def test_keys_come_over_https_or_from_this_machine(url: str) -> None:
    assert check_keys_url(url) == url


@pytest.mark.parametrize(
    "url", ["http://id.example/keys", "http://10.0.0.1/", "http://localhost.example/", "http://127.0.0.1.example/"]
)
def test_keys_over_plain_http_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be https, or http to a loopback address"):
        check_keys_url(url)
    assert check_url(url) == url  # a hook may be there


@pytest.mark.parametrize(
    "url",
    [
        "",
        "id.example",
        "/keys",
        "file:///etc/passwd",
        "ftp://x/",
        "https://",
        "https:///x",
        "https://x:0/",
        "https://x:99999/",
        "https://a b/",
        "https://a\\b/",
        "https://ä/",
        "https://x/\n",
        "http://[::1",
        "unix:/run/x",
    ],
)
def test_other_texts_are_no_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not a URL of http or https \(write for example"):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "problem"), [("https://ann:pw@x/", "contains a user or a password"), ("https://x/#a", "after '#'")]
)
def test_urls_have_no_passwords_and_no_fragments(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        check_url(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["Connection", "upgrade", "Sec-WebSocket-Key", "sec-websocket-protocol", "TE", "Proxy-Authorization"]
)
def test_a_hook_gets_no_header_of_the_connection(name: str) -> None:
    with pytest.raises(ValueError, match="is about the connection and is never passed on"):
        Hook(url="https://x/", headers=(name,))


@pytest.mark.parametrize(
    ("url", "is_exposed"),
    [
        *(("http://id.example/", True), ("http://8.8.8.8/", True), ("https://id.example/", False)),
        *(("http://10.1.2.3/", False), ("http://auth:8000/", False), ("http://localhost/", False)),
    ],
)
def test_a_hook_without_encryption_on_the_internet_is_suspicious(url: str, is_exposed: bool) -> None:
    app = App.model_validate({"name": "chat", "command": ["cat"], "auth": {"hook": {"url": url}}})

    findings = [finding.message for finding in find_suspicious(app, {})]

    assert findings == (["sends credentials over the network without encryption (use https)"] if is_exposed else [])
