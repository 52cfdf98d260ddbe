"""Static files of each app, and the route for every path that no other route matches."""

import os
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final

import anyio.to_thread
from quart import Blueprint, Response, request
from quart.wrappers.response import DataBody, ResponseBody
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from scalesocket.admission.paths import find_app
from scalesocket.admission.refusals import NO_DESCRIPTORS
from scalesocket.config.units import KiB
from scalesocket.overview import Overview
from scalesocket.server.http.files import FolderWithoutSlash, NoDescriptors, NotAcceptable, OpenFile, open_file
from scalesocket.server.http.landing import LandingPages
from scalesocket.server.http.responses import answer_error
from scalesocket.status import HasSite

CHUNK: Final = 64 * KiB
"""Bytes read at a time. One download needs this much memory, and the transport's buffer."""
SLOWEST: Final = 8 * KiB
"""Bytes a second; a slower download is aborted."""
GRACE: Final = 60.0
"""Seconds that every download may take in addition."""
VARY: Final = {"Vary": "Accept-Encoding"}


def static_blueprint(running: HasSite, overview: Overview) -> Blueprint:
    """Make the route: a static file, a landing page, or 404, with a hint for the path of a room."""
    blueprint = Blueprint("static", __name__)
    landing = LandingPages(running, overview)

    @blueprint.get("/")
    @blueprint.get("/<path:_>")
    async def static(_: str = "") -> Response:
        # Quart's path is decoded; in the raw path `%2f` still differs from `/`.
        raw_path: bytes = request.scope["raw_path"]
        if not raw_path.startswith(b"/"):
            return answer_error(404, "not found")
        app, rest = find_app(running.site, raw_path.decode("latin-1"))
        if app is None:
            return await landing.answer_front() if raw_path == b"/" else answer_error(404, "not found")
        if app.static is not None:
            answer = await answer_file(app.static, rest.encode("latin-1"))
            if answer is not None:
                add_headers(answer, app.static_headers)
                return answer
        if raw_path == b"/":
            return await landing.answer_front()
        if app.has_rooms and rest in ("", "/"):
            return await landing.answer_app(app)
        if app.has_rooms and rest.count("/") == 1:
            return answer_error(404, "not found (open a websocket to join a room of this app)")
        return answer_error(404, "not found")

    return blueprint


async def answer_file(folder: Path, url_path: bytes) -> Response | None:
    """Answer with a file of `folder`, or the part of it that the request asks for; None if there is no such file."""
    accept_encoding = ",".join(request.headers.getlist("Accept-Encoding")) if "Accept-Encoding" in request.headers else None
    try:
        opened = await anyio.to_thread.run_sync(open_file, folder, url_path, accept_encoding)
    except FolderWithoutSlash:
        return redirect_to_slash()
    except NoDescriptors:
        return answer_error(NO_DESCRIPTORS.status, NO_DESCRIPTORS.message, headers=dict(NO_DESCRIPTORS.fields))
    except NotAcceptable:
        return answer_error(406, "not acceptable (Accept-Encoding excludes every coding of this file)", headers=VARY)
    if opened is None:
        return None
    response = make_response(opened)
    await response.make_conditional(request)  # conditions come before ranges (RFC 9110 13.2.2)
    if response.status_code != 200:
        opened.file.close()
        response.set_data(b"")
        if response.status_code == 304:
            del response.headers["Content-Length"]
    elif request.method == "HEAD":
        opened.file.close()
        response.response = DataBody(b"")
    elif is_one_range():
        try:
            await response.make_conditional(request, accept_ranges=True, complete_length=opened.size)
        except RequestedRangeNotSatisfiable:
            opened.file.close()
            error = f"range not satisfiable (the file has {opened.size} bytes)"
            return answer_error(416, error, headers={"Content-Range": f"bytes */{opened.size}"})
    response.timeout = GRACE + (response.content_length or 0) / SLOWEST
    return response


class FileResponse(Response):
    """A response with a file of an app, whose content is not ours."""


def make_response(opened: OpenFile) -> FileResponse:
    """Make the response with a whole file."""
    response = FileResponse(FileBody(opened), content_type=opened.content_type)
    if opened.coding is not None:
        response.headers["Content-Encoding"] = opened.coding
    if opened.is_negotiated:
        response.headers.update(VARY)
    response.content_length = opened.size
    response.last_modified = datetime.fromtimestamp(opened.modified_at, UTC)
    response.set_etag(opened.etag)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Cache-Control"] = "no-cache"
    return response


def add_headers(response: Response, headers: Mapping[str, str]) -> None:
    """Add an app's `static_headers` to a response with one of its files (200, 206 or 304), not to a redirect or an error.

    They replace other headers, such as `Cache-Control`; `Vary` is combined.
    """
    if response.status_code not in (200, 206, 304):
        return
    for name, value in headers.items():
        if name.lower() == "vary" and "Vary" in response.headers:
            value = f"{response.headers['Vary']}, {value}"
        response.headers[name] = value


def is_one_range() -> bool:
    """Whether the request asks for one range of bytes. Invalid headers and several ranges are ignored (RFC 9110 14.2)."""
    wanted = request.range
    return wanted is not None and wanted.units == "bytes" and len(wanted.ranges) == 1


def redirect_to_slash() -> Response:
    """Redirect to the same URL with a slash. Not permanently: an edit of the site may turn a folder into a room."""
    path: str = request.scope["raw_path"].decode("latin-1")
    query: str = request.scope["query_string"].decode("latin-1")
    return Response(b"", 302, {"Location": f"{path}/{'?' if query else ''}{query}"}, content_type="text/plain")


class FileBody(ResponseBody):
    """A file, or a part of it, read in chunks in a worker thread. Closes the file after the response."""

    def __init__(self, opened: OpenFile) -> None:
        self._opened = opened
        self.begin = 0
        self.end = opened.size

    async def make_conditional(self, begin: int, end: int | None) -> int:
        """Restrict the body to the bytes from `begin` (negative: from the end) to `end`. Quart calls it. Returns the file's size.

        Raises RequestedRangeNotSatisfiable.
        """
        size = self._opened.size
        self.begin = max(0, size + begin) if begin < 0 else begin
        self.end = size if end is None else min(end, size)
        if self.begin >= self.end:
            raise RequestedRangeNotSatisfiable(size)
        return size

    async def __aenter__(self) -> AsyncIterator[bytes]:
        return self._read()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._opened.file.close()

    async def _read(self) -> AsyncIterator[bytes]:
        descriptor = self._opened.file.fileno()
        at = self.begin
        while at < self.end:
            chunk = await anyio.to_thread.run_sync(os.pread, descriptor, min(CHUNK, self.end - at), at)
            if not chunk:
                return
            at += len(chunk)
            yield chunk
