"""Media type and content coding of a file, by its name."""

from mimetypes import MimeTypes
from typing import Final

BINARY: Final = "application/octet-stream"
CODINGS: Final = {"br": ".br", "gzip": ".gz"}
"""The suffix of a compressed file by its content coding, the better one first."""

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
    ".unityweb": BINARY,  # Unity's loader decompresses them
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}.items():
    TYPES.add_type(_type, _extension)  # overrides the machine's own table

ARCHIVES: Final = frozenset({"application/x-tar", "application/x-cpio", "application/x-shar"})
"""Types whose compressed files are downloads: a browser would save decompressed bytes under the compressed file's name."""


def describe_file(name: str) -> tuple[str, str | None]:
    """Return the content type of a file, with charset UTF-8 for text, and its content coding if it has one.

    `game.wasm.gz` is `application/wasm` with the coding gzip. `files.tar.gz`, or a compressed file of unknown type, is
    `application/gzip` without a coding.
    """
    media_type, compressed = TYPES.guess_type(name)
    if compressed is None:
        return _with_charset(media_type or BINARY), None
    if compressed in CODINGS and media_type is not None and media_type not in ARCHIVES:
        return _with_charset(media_type), compressed
    return "application/gzip" if compressed == "gzip" else BINARY, None


def _with_charset(media_type: str) -> str:
    return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
