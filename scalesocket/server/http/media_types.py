"""The media type and the content coding of a file, by its name."""

from mimetypes import MimeTypes
from typing import Final

BINARY: Final = "application/octet-stream"
CODINGS: Final = {"br": ".br", "gzip": ".gz"}
"""The suffix of a compressed file by its content coding; the smaller one first."""

TYPES: Final = MimeTypes()
for _extension, _type in {
    ".css": "text/css",
    ".data": BINARY,  # Unity
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".ogg": "audio/ogg",
    ".pck": BINARY,  # Godot
    ".svg": "image/svg+xml",
    ".unityweb": BINARY,  # Unity's own loader decompresses these
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}.items():
    TYPES.add_type(_type, _extension)  # the same on every machine, whatever its own table says

ARCHIVES: Final = frozenset({"application/x-tar", "application/x-cpio", "application/x-shar"})
"""Types whose compressed files are downloads: a browser would save what it decompressed under the name of the compressed file."""


def describe_file(name: str) -> tuple[str, str | None]:
    """The content type of a file and its content coding, None where it is to be taken as it is; text is in UTF-8.

    `game.wasm.gz` is `application/wasm`, compressed with gzip. `files.tar.gz`, and what has no known type inside, is a
    compressed file for its reader.
    """
    media_type, compressed = TYPES.guess_type(name)
    if compressed is None:
        return _with_charset(media_type or BINARY), None
    if compressed in CODINGS and media_type is not None and media_type not in ARCHIVES:
        return _with_charset(media_type), compressed
    return "application/gzip" if compressed == "gzip" else BINARY, None


def _with_charset(media_type: str) -> str:
    return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
