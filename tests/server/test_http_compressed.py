"""Compressed static files, additional headers, and the web exports of game engines."""

import gzip
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from scalesocket.config.model import App
from tests.server.general import General, make_site, open_general
from tests.server.test_http_static import open_files

pytestmark = pytest.mark.anyio

SCRIPT = b"console.log('a script');\n" * 400
GZIP = gzip.compress(SCRIPT, mtime=0)  # without the time, which would differ between the processes of pytest-xdist
BR = b"what brotli would make of it; nothing here reads it"
MEDIA = "identity;q=1, *;q=0"
"""The `Accept-Encoding` of browsers for sounds and videos."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One event loop: nothing here depends on it."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "game"
    folder.mkdir()
    write(
        folder,
        {"x.js": SCRIPT, "x.js.br": BR, "x.js.gz": GZIP, "index.html": b"<p>game", "index.html.gz": gzip.compress(b"<p>game")},
    )
    return folder


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
async def general(folder: Path) -> AsyncIterator[General]:
    async with open_general(App(name="game", command=["cat"], static=folder)) as general:
        yield general


async def get(
    general: General, path: str, accept: str | None = "gzip, deflate, br", **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body as sent: nothing is decompressed."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    request = general.http.build_request("GET", path, headers=fields)
    del request.headers["Accept-Encoding"]
    if accept is not None:
        request.headers["Accept-Encoding"] = accept
    answer = await general.http.send(request, stream=True)
    try:
        return answer.status_code, answer.headers, b"".join([chunk async for chunk in answer.aiter_raw()])
    finally:
        await answer.aclose()


# --- Compressed files beside the original


@pytest.mark.parametrize(
    ("accept", "coding", "body"),
    [
        ("gzip, deflate, br, zstd", "br", BR),
        ("gzip, deflate", "gzip", GZIP),
        ("br;q=0.1, gzip;q=0.9", "gzip", GZIP),
        ("identity;q=0, *", "br", BR),
        ("deflate", None, SCRIPT),
        (MEDIA, None, SCRIPT),
        (None, None, SCRIPT),
    ],
)
async def test_a_compressed_file_is_sent_if_it_is_accepted(
    general: General, accept: str | None, coding: str | None, body: bytes
) -> None:
    status, headers, got = await get(general, "/game/x.js", accept)

    assert (status, got, headers.get("content-encoding")) == (200, body, coding)
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["content-length"] == str(len(body))
    assert headers["vary"] == "Accept-Encoding"


async def test_every_form_of_a_file_has_the_same_content(general: General) -> None:
    answer = await general.http.get("/game/x.js", headers={"Accept-Encoding": "gzip"})

    assert (answer.headers["content-encoding"], answer.content) == ("gzip", SCRIPT)


async def test_the_index_of_a_folder_can_be_compressed(general: General) -> None:
    status, headers, body = await get(general, "/game/")

    assert (status, headers["content-encoding"], gzip.decompress(body)) == (200, "gzip", b"<p>game")
    assert headers["content-type"] == "text/html; charset=utf-8"


async def test_a_file_that_is_not_compressed_does_not_vary(general: General, folder: Path) -> None:
    write(folder, {"plain.js": SCRIPT})

    status, headers, body = await get(general, "/game/plain.js")

    assert (status, body) == (200, SCRIPT)
    assert "vary" not in headers
    assert "content-encoding" not in headers


@pytest.mark.parametrize("path", ["/game/x.js", "/game/plain.js"])
async def test_refusing_every_form_is_406(general: General, folder: Path, path: str) -> None:
    write(folder, {"plain.js": SCRIPT})

    status, headers, body = await get(general, path, "identity;q=0, zstd")

    assert (status, headers["vary"]) == (406, "Accept-Encoding")
    assert b"Accept-Encoding" in body


async def test_a_compressed_file_without_an_original_is_404(general: General, folder: Path) -> None:
    (folder / "x.js").unlink()

    status, _, _ = await get(general, "/game/x.js")

    assert status == 404


async def test_an_outdated_or_empty_compressed_file_is_ignored(general: General, folder: Path) -> None:
    written = (folder / "x.js").stat().st_mtime
    os.utime(folder / "x.js.br", (written - 60, written - 60))
    (folder / "x.js.gz").write_bytes(b"")

    status, headers, body = await get(general, "/game/x.js")

    assert (status, body) == (200, SCRIPT)
    assert "content-encoding" not in headers


# --- Conditions, ranges and HEAD (RFC 9110)


async def test_each_form_has_an_etag_of_its_own(general: General) -> None:
    tags = {accept: (await get(general, "/game/x.js", accept))[1]["etag"] for accept in ("br", "gzip", "identity")}

    known = {accept: (await get(general, "/game/x.js", accept, If_None_Match=tag))[0] for accept, tag in tags.items()}
    other, _, body = await get(general, "/game/x.js", "gzip", If_None_Match=tags["identity"])

    assert len(set(tags.values())) == 3
    assert set(known.values()) == {304}
    assert (other, body) == (200, GZIP)


async def test_hard_links_do_not_share_an_etag(general: General, folder: Path) -> None:
    (folder / "x.js.gz").unlink()
    os.link(folder / "x.js", folder / "x.js.gz")

    tags = [(await get(general, "/game/x.js", accept))[1]["etag"] for accept in ("gzip", "identity")]

    assert tags[0] != tags[1]


async def test_not_modified_has_vary(general: General) -> None:
    tag = (await get(general, "/game/x.js", "br"))[1]["etag"]

    status, headers, body = await get(general, "/game/x.js", "br", If_None_Match=tag)

    assert (status, body, headers["vary"], headers["etag"]) == (304, b"", "Accept-Encoding", tag)


async def test_a_range_is_a_part_of_the_form_that_is_sent(general: General) -> None:
    whole = {"br": BR, "gzip": GZIP, MEDIA: SCRIPT}

    for accept, body in whole.items():
        status, headers, part = await get(general, "/game/x.js", accept, Range="bytes=10-19")

        assert (status, part) == (206, body[10:20])
        assert headers["content-range"] == f"bytes 10-19/{len(body)}"
        assert headers.get("content-encoding", MEDIA) == accept
        assert headers["vary"] == "Accept-Encoding"


async def test_a_range_is_not_continued_in_another_form(general: General) -> None:
    gzip_tag = (await get(general, "/game/x.js", "gzip"))[1]["etag"]

    same, _, part = await get(general, "/game/x.js", "gzip", Range="bytes=10-", If_Range=gzip_tag)
    other, _, whole = await get(general, "/game/x.js", "br", Range="bytes=10-", If_Range=gzip_tag)

    assert (same, part) == (206, GZIP[10:])
    assert (other, whole) == (200, BR)


async def test_a_range_beyond_the_end_of_the_form_is_416(general: General) -> None:
    status, headers, _ = await get(general, "/game/x.js", "br", Range=f"bytes={len(BR)}-")

    assert (status, headers["content-range"]) == (416, f"bytes */{len(BR)}")


async def test_head_has_the_headers_of_get(general: General) -> None:
    answer = await general.http.head("/game/x.js", headers={"Accept-Encoding": "br"})

    assert (answer.status_code, answer.headers["content-encoding"], answer.headers["vary"]) == (200, "br", "Accept-Encoding")
    assert answer.headers["content-length"] == str(len(BR))


async def test_no_file_stays_open(general: General, folder: Path) -> None:
    for accept in ("br", "gzip", "identity", "identity;q=0"):
        await get(general, "/game/x.js", accept)

    assert [path for path in open_files() if path.is_relative_to(folder)] == []


# --- What is never served


async def test_compressed_files_follow_the_rules_of_all_files(general: General, folder: Path) -> None:
    (folder.parent / "outside.gz").write_bytes(GZIP)
    (folder / ".hidden.gz").write_bytes(GZIP)
    write(folder, {f"{name}.js": b"as it is" for name in ("outside", "hidden", "pipe", "folder", "inside", "lost", "loop")})
    (folder / "outside.js.gz").symlink_to("../outside.gz")
    (folder / "hidden.js.gz").symlink_to(".hidden.gz")
    (folder / "lost.js.gz").symlink_to("nowhere")
    (folder / "loop.js.gz").symlink_to("loop.js.gz")
    (folder / "inside.js.gz").symlink_to("x.js.gz")
    (folder / "folder.js.gz").mkdir()
    os.mkfifo(folder / "pipe.js.gz")

    bodies = {
        name: (await get(general, f"/game/{name}.js"))[2] for name in ("outside", "hidden", "pipe", "folder", "lost", "loop")
    }
    by_name = [(await get(general, f"/game/{name}.js.gz"))[0] for name in ("outside", "hidden", "pipe", "lost", "loop")]

    assert set(bodies.values()) == {b"as it is"}
    assert by_name == [404] * 5
    assert (await get(general, "/game/inside.js"))[2] == GZIP


# --- Requests for a compressed file by its own name


BY_NAME = {
    "a.wasm.gz": ("application/wasm", "gzip"),
    "a.js.br": ("text/javascript; charset=utf-8", "br"),
    "a.data.br": ("application/octet-stream", "br"),
    "a.symbols.json.gz": ("application/json", "gzip"),
    "a.svgz": ("image/svg+xml", "gzip"),
    "a.tar.gz": ("application/gzip", None),
    "a.tgz": ("application/gzip", None),
    "a.gz": ("application/gzip", None),
    "a.br": ("application/octet-stream", None),
    "a.data.unityweb": ("application/octet-stream", None),
}


async def test_a_compressed_file_has_the_type_of_its_content(general: General, folder: Path) -> None:
    write(folder, dict.fromkeys(BY_NAME, GZIP))

    answers = {name: await get(general, f"/game/{name}", "identity") for name in BY_NAME}

    assert {
        name: (headers["content-type"], headers.get("content-encoding")) for name, (_, headers, _) in answers.items()
    } == BY_NAME
    assert {(status, body) for status, _, body in answers.values()} == {(200, GZIP)}
    assert not any("vary" in headers for _, headers, _ in answers.values())


# --- Headers of the site file


ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


async def test_headers_are_added_only_to_responses_with_a_file(folder: Path) -> None:
    async with open_general(App(name="game", command=["cat"], static=folder, static_headers=ISOLATED)) as general:
        tag = (await get(general, "/game/x.js"))[1]["etag"]
        answers = {
            "whole": await get(general, "/game/x.js"),
            "part": await get(general, "/game/x.js", Range="bytes=0-1"),
            "known": await get(general, "/game/x.js", If_None_Match=tag),
            "beyond": await get(general, "/game/x.js", Range="bytes=999999-"),
            "missing": await get(general, "/game/nothing.js"),
            "redirect": await get(general, "/game"),
            "api": await get(general, "/game/api/rooms/"),
        }

    assert [status for status, _, _ in answers.values()] == [200, 206, 304, 416, 404, 302, 200]
    with_headers = {
        name
        for name, (_, headers, _) in answers.items()
        if ISOLATED.items() <= {key.title(): value for key, value in headers.items()}.items()
    }
    assert with_headers == {"whole", "part", "known"}


async def test_headers_replace_ours_and_vary_is_combined(folder: Path) -> None:
    ours = {"cache-control": "max-age=60", "Vary": "Origin", "X-Content-Type-Options": "nosniff"}

    async with open_general(App(name="game", command=["cat"], static=folder, static_headers=ours)) as general:
        _, headers, _ = await get(general, "/game/x.js")

    assert (headers["cache-control"], headers["vary"]) == ("max-age=60", "Accept-Encoding, Origin")
    assert headers["x-content-type-options"] == "nosniff"


async def test_an_edit_of_the_headers_applies_at_once(general: General, folder: Path) -> None:
    general.gateway.apply(make_site(App(name="game", command=["cat"], static=folder, static_headers=ISOLATED)))

    _, headers, _ = await get(general, "/game/")

    assert headers["cross-origin-opener-policy"] == "same-origin"


# --- Exports of game engines


GODOT = {
    "index.html": b"<script src=index.js></script>",
    "index.js": b"engine",
    "index.wasm": b"\0asm",
    "index.pck": b"GDPC",
    "index.audio.worklet.js": b"worklet",
    "index.png": b"\x89PNG",
    "index.manifest.json": b"{}",
    "index.service.worker.js": b"service",
}
"""The files of a web export of Godot 4, as a progressive web app."""


async def test_a_godot_export_is_served(tmp_path: Path) -> None:
    write(tmp_path, GODOT)
    write(tmp_path, {"index.wasm.gz": gzip.compress(GODOT["index.wasm"])})

    async with open_general(App(name="godot", command=["cat"], static=tmp_path, static_headers=ISOLATED)) as general:
        answers = {name: await general.http.get(f"/godot/{name}") for name in GODOT}

    assert {name: answer.content for name, answer in answers.items()} == GODOT
    types = {name: answer.headers["content-type"] for name, answer in answers.items()}
    assert types["index.wasm"] == "application/wasm"
    assert types["index.pck"] == "application/octet-stream"
    assert types["index.audio.worklet.js"] == "text/javascript; charset=utf-8"
    assert answers["index.wasm"].headers["content-encoding"] == "gzip"
    assert all(answer.headers["cross-origin-embedder-policy"] == "require-corp" for answer in answers.values())


@pytest.mark.parametrize(("suffix", "coding"), [("", None), (".gz", "gzip"), (".br", "br"), (".unityweb", None)])
async def test_a_unity_build_is_served(tmp_path: Path, suffix: str, coding: str | None) -> None:
    names = {
        "index.html": "text/html; charset=utf-8",
        "TemplateData/style.css": "text/css; charset=utf-8",
        "Build/web.loader.js": "text/javascript; charset=utf-8",
        f"Build/web.framework.js{suffix}": "text/javascript; charset=utf-8",
        f"Build/web.wasm{suffix}": "application/wasm",
        f"Build/web.data{suffix}": "application/octet-stream",
        f"Build/web.symbols.json{suffix}": "application/json",
        "StreamingAssets/level.bundle": "application/octet-stream",
    }
    if suffix == ".unityweb":  # Unity's loader decompresses it
        names = {name: "application/octet-stream" if name.endswith(suffix) else media_type for name, media_type in names.items()}
    write(tmp_path, dict.fromkeys(names, b"content"))

    async with open_general(App(name="unity", command=["cat"], static=tmp_path)) as general:
        answers = {name: await get(general, f"/unity/{name}") for name in names}

    assert {name: headers["content-type"] for name, (_, headers, _) in answers.items()} == names
    assert {name: headers.get("content-encoding") for name, (_, headers, _) in answers.items()} == {
        name: coding if re.fullmatch(r".*\.(gz|br)", name) else None for name in names
    }
    assert {(status, body) for status, _, body in answers.values()} == {(200, b"content")}
