"""Static files: what is served, whole or in part, and what is never served."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scalesocket.config.model import App
from tests.server.general import General, make_site, open_general

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One event loop: nothing here depends on it."""
    return "asyncio", {"use_uvloop": True}


INDEX = "<!doctype html><title>chat</title>"
LARGE = bytes(range(256)) * 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "chat"
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "index.html").write_text(INDEX)
    (folder / "sub" / "index.html").write_text("sub")
    (folder / "large.bin").write_bytes(LARGE)
    (folder / "ünï côde.txt").write_text("grüße")
    (folder / ".secret").write_text("hidden")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    (tmp_path / "outside.txt").write_text("outside")
    return folder


@pytest.fixture
async def general(folder: Path) -> AsyncIterator[General]:
    chat, plain = App(name="chat", command=["cat"], static=folder), App(name="plain", command=["cat"])
    async with open_general(chat, plain) as general:
        yield general


async def test_a_folder_is_answered_with_its_index(general: General) -> None:
    answer = await general.http.get("/chat/")

    assert (answer.status_code, answer.text) == (200, INDEX)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/chat", "/chat/sub"])
async def test_a_folder_without_a_slash_redirects(general: General, path: str) -> None:
    answer = await general.http.get(f"{path}?a=b")

    assert (answer.status_code, answer.headers["location"]) == (302, f"{path}/?a=b")


CONTENT_TYPES = {
    "a.js": "text/javascript; charset=utf-8",
    "a.mjs": "text/javascript; charset=utf-8",
    "a.css": "text/css; charset=utf-8",
    "a.svg": "image/svg+xml",
    "a.wasm": "application/wasm",
    "a.json": "application/json",
    "a.png": "image/png",
    "a.tar.gz": "application/gzip",
    "a.unheard-of": "application/octet-stream",
    "a": "application/octet-stream",
}


async def test_the_content_type_comes_from_the_name(general: General, folder: Path) -> None:
    for name in CONTENT_TYPES:
        (folder / name).write_bytes(b"x")

    answers = {name: await general.http.get(f"/chat/{name}") for name in CONTENT_TYPES}

    assert {name: answer.headers["content-type"] for name, answer in answers.items()} == CONTENT_TYPES
    assert not any("content-encoding" in answer.headers for answer in answers.values())


async def test_names_may_be_unicode(general: General) -> None:
    answer = await general.http.get("/chat/ünï côde.txt")

    assert (answer.status_code, answer.text) == (200, "grüße")


async def test_an_empty_file_is_empty(general: General, folder: Path) -> None:
    (folder / "empty.txt").touch()

    answer = await general.http.get("/chat/empty.txt")

    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


async def test_a_large_file_arrives_whole(general: General) -> None:
    answer = await general.http.get("/chat/large.bin")

    assert answer.content == LARGE
    assert answer.headers["accept-ranges"] == "bytes"


async def test_the_files_of_the_app_at_the_root_are_at_the_root(folder: Path) -> None:
    root = App(name="chat", command=["cat"], mount="/", static=folder)

    async with open_general(root) as general:
        index = await general.http.get("/")
        sub = await general.http.get("/sub/")

    assert (index.text, sub.text) == (INDEX, "sub")


async def test_an_edit_of_the_site_changes_what_is_served(general: General, folder: Path) -> None:
    assert (await general.http.get("/later/")).status_code == 404

    later = App(name="later", command=["cat"], static=folder)
    general.gateway.apply(make_site(later))

    assert (await general.http.get("/later/")).text == INDEX
    assert (await general.http.get("/chat/")).status_code == 404


# --- Conditions and ranges (RFC 9110)


async def test_a_known_file_is_not_sent_again(general: General) -> None:
    first = await general.http.get("/chat/")

    by_tag = await general.http.get("/chat/", headers={"If-None-Match": first.headers["etag"]})
    by_date = await general.http.get("/chat/", headers={"If-Modified-Since": first.headers["last-modified"]})

    assert [answer.status_code for answer in (by_tag, by_date)] == [304, 304]
    assert by_tag.headers["etag"] == first.headers["etag"]
    assert (by_tag.content, by_date.content) == (b"", b"")


async def test_a_changed_file_is_sent_again(general: General, folder: Path) -> None:
    first = await general.http.get("/chat/")
    (folder / "index.html").write_text("changed")

    answer = await general.http.get("/chat/", headers={"If-None-Match": first.headers["etag"]})

    assert (answer.status_code, answer.text) == (200, "changed")


async def test_a_condition_that_fails_is_412(general: General) -> None:
    answer = await general.http.get("/chat/", headers={"If-Match": '"other"'})

    assert (answer.status_code, answer.content) == (412, b"")


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=100000-100099", 100_000, 100_100), ("bytes=-7", -7, None), ("bytes=1048570-9999999", -6, None)],
)
async def test_a_range_is_answered_in_part(general: General, wanted: str, start: int, stop: int | None) -> None:
    answer = await general.http.get("/chat/large.bin", headers={"Range": wanted})

    part = LARGE[start:stop]
    first = start % len(LARGE)
    assert (answer.status_code, answer.content) == (206, part)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(LARGE)}"


async def test_a_range_beyond_the_end_is_416(general: General) -> None:
    answer = await general.http.get("/chat/large.bin", headers={"Range": "bytes=1048576-"})

    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(LARGE)}")


@pytest.mark.parametrize("wanted", ["bytes=0-1,4-5", "lines=1-2", "bytes=x", "bytes=5-1", ""])
async def test_an_invalid_range_is_ignored(general: General, wanted: str) -> None:
    answer = await general.http.get("/chat/large.bin", headers={"Range": wanted})

    assert (answer.status_code, answer.content) == (200, LARGE)


async def test_a_range_of_a_file_that_changed_is_the_whole_file(general: General) -> None:
    answer = await general.http.get("/chat/large.bin", headers={"Range": "bytes=0-1", "If-Range": '"old"'})

    assert (answer.status_code, answer.content) == (200, LARGE)


async def test_a_range_of_a_known_file_is_not_sent_again(general: General) -> None:
    first = await general.http.get("/chat/large.bin")

    answer = await general.http.get("/chat/large.bin", headers={"Range": "bytes=0-1", "If-None-Match": first.headers["etag"]})

    assert answer.status_code == 304


async def test_head_has_the_headers_of_get(general: General) -> None:
    answer = await general.http.head("/chat/large.bin")

    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", str(len(LARGE)))


async def test_a_client_that_leaves_in_a_download_leaves_no_file_open(general: General, folder: Path) -> None:
    (folder / "huge.bin").write_bytes(b"x" * 50_000_000)

    async with general.http.stream("GET", "/chat/huge.bin") as answer:
        await anext(answer.aiter_raw(1000))

    await general.wait_no_connections()
    assert folder / "huge.bin" not in open_files()


def open_files() -> list[Path]:
    links = list(Path("/proc/self/fd").iterdir())
    return [link.readlink() for link in links if link.is_symlink()]


# --- What is never served


ELSEWHERE = (
    b"/chat/../outside.txt",
    b"/chat/sub/../../outside.txt",
    b"/chat/%2e%2e/outside.txt",
    b"/chat/%2E%2e%2foutside.txt",
    b"/chat/..%2foutside.txt",
    b"/chat/..%5coutside.txt",
    b"/chat/..\\outside.txt",
    b"/chat/%252e%252e/outside.txt",
    b"/ch%61t/%2e%2e/outside.txt",
    b"/chat%2findex.html",
    b"/chat%2F",
    b"/chat/sub/..",
    b"/chat/.",
    b"/chat/./index.html",
    b"/chat//index.html",
    b"/chat///",
    b"//chat/index.html",
    b"/chat/index.html/",
    b"/chat/index.html%00",
    b"/chat/index.html%00.txt",
    b"/chat/%0a",
    b"/chat/%ff",
    b"/chat/%c0%ae%c0%ae/outside.txt",
    b"/chat/.secret",
    b"/chat/%2esecret",
    b"/chat/.git/config",
    b"/chat/.git/",
    b"/chat/sub/empty",
    b"/chat/sub/empty/",
    b"/chat/" + b"a" * 5000,
    b"/plain/index.html",
    b"/nobody/",
)


async def test_paths_outside_the_folder_are_404(general: General) -> None:
    answers = {target: await general.get_raw(target) for target in ELSEWHERE}

    assert {target: status for target, (status, _) in answers.items()} == dict.fromkeys(ELSEWHERE, 404)
    assert not [target for target, (_, body) in answers.items() if b"outside" in body or b"hidden" in body]


async def test_an_absolute_target_is_confined_too(general: General) -> None:
    inside, _ = await general.get_raw(b"http://localhost/chat/")
    outside, _ = await general.get_raw(b"http://localhost/chat/../outside.txt")

    assert (inside, outside) == (200, 404)


async def test_an_escaped_name_is_the_same_name(general: General) -> None:
    for target in (b"/ch%61t/", b"/%63hat/ind%65x.html", b"/chat/%69ndex%2Ehtml", b"http://localhost/ch%61t/"):
        assert await general.get_raw(target) == (200, INDEX.encode())


async def test_symlinks_are_resolved_before_the_check(general: General, folder: Path) -> None:
    (folder / "inside.html").symlink_to("index.html")
    (folder / "outside.txt").symlink_to("../outside.txt")
    (folder / "up").symlink_to("..")
    (folder / "hidden.txt").symlink_to(".secret")
    (folder / "loop").symlink_to("loop")
    (folder / "lost").symlink_to("nowhere")

    names = ("inside.html", "outside.txt", "up/outside.txt", "up/", "hidden.txt", "loop", "lost")
    status = [(await general.http.get(f"/chat/{name}")).status_code for name in names]

    assert status == [200, 404, 404, 404, 404, 404, 404]


async def test_a_kubernetes_volume_is_served(general: General, folder: Path) -> None:
    (folder / "..2026_01_01").mkdir()
    (folder / "..2026_01_01" / "page.html").write_text("page")
    (folder / "..data").symlink_to("..2026_01_01")
    (folder / "page.html").symlink_to("..data/page.html")

    assert (await general.http.get("/chat/page.html")).text == "page"
    assert (await general.http.get("/chat/..data/page.html")).status_code == 404


async def test_only_regular_files_are_opened(general: General, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "unreadable").write_text("x")
    (folder / "null").symlink_to("/dev/null")

    assert (await general.http.get("/chat/pipe")).status_code == 404
    assert (await general.http.get("/chat/null")).status_code == 404


async def test_an_index_outside_the_folder_is_ignored(general: General, folder: Path) -> None:
    (folder / "trap").mkdir()
    (folder / "trap" / "index.html").symlink_to("../../outside.txt")

    assert (await general.http.get("/chat/trap/")).status_code == 404
    assert (await general.http.get("/chat/trap")).status_code == 404
