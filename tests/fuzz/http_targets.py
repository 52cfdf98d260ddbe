"""Fuzz targets: HTTP, as far as it is read by code of ours."""

import os
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from hypercorn.typing import HTTPScope
from quart.wrappers import Request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from scalesocket.server.http.files import File, OpenFile
from scalesocket.server.http.static import FileBody, make_response
from tests.fuzz.source import Source

T = TypeVar("T")
NO_FILE: Final = File(os.devnull)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("the coroutine waits")


def fuzz_range(data: bytes) -> None:
    """Conditions and ranges of a request for a file: a part within the file, or none."""
    source = Source(data)
    size = source.choose((0, 1, 10, 1_000, 1 << 40))
    names = ("Range", "If-Range", "If-None-Match", "If-Modified-Since", "If-Match")
    headers = Headers([(name, value.decode("latin-1")) for name in names if (value := source.part().translate(None, b"\r\n"))])
    scope: HTTPScope = {"type": "http"}  # type: ignore[typeddict-item]
    request = Request("GET", "http", "/file", b"", headers, "", "1.1", scope, send_push_promise=None)  # type: ignore[arg-type]
    opened = OpenFile(file=NO_FILE, content_type="text/plain", coding=None, size=size, modified_at=1e9, etag="abc")
    response = make_response(opened)

    run(response.make_conditional(request))

    if response.status_code != 200:
        assert response.status_code in (304, 412)
        return
    wanted = request.range
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return
    try:
        run(response.make_conditional(request, accept_ranges=True, complete_length=size))
    except RequestedRangeNotSatisfiable:
        return
    body = response.response
    assert isinstance(body, FileBody)
    if response.status_code == 206:
        assert 0 <= body.begin < body.end <= size
        assert response.content_length == body.end - body.begin
    else:
        assert (body.begin, body.end) == (0, size)
