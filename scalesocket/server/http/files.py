"""Opens files of a static folder; never one outside of it, and never a hidden one.

The functions block; the static route calls them in a worker thread.
"""

import errno
import os
import stat
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from scalesocket.io.descriptors import first_private
from scalesocket.server.http.media_types import CODINGS, describe_file
from scalesocket.wire.accept import IDENTITY, choose_coding

INDEX: Final = "index.html"
SLACK: Final = 2.0
"""Seconds that a compressed file may be older than its original: both may be copied one after the other."""


class File(FileIO):
    """A file that closes without a ResourceWarning if a request is cancelled before it owns the file."""

    def __del__(self) -> None:
        """Close it."""
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A regular file, open for reading. Its owner closes `file`."""

    file: File
    content_type: str
    coding: str | None
    """How the bytes are compressed (`Content-Encoding`), if at all."""
    size: int
    """In bytes, when it was opened."""
    modified_at: float
    """Unix time."""
    etag: str
    is_negotiated: bool = False
    """Whether the coding depends on the request (`Vary`)."""


class NoDescriptors(Exception):
    """The server has too many open files."""


class NotAcceptable(Exception):
    """The client accepts no available coding of the file."""


class FolderWithoutSlash(Exception):
    """The path names a folder with an index, but lacks the final slash that relative links need."""


def open_file(folder: Path, url_path: bytes, accept_encoding: str | None = None) -> OpenFile | None:
    """Open the file of a URL path; None if there is none that may be served.

    `url_path` is the path below the mount, with its leading slash and still percent-encoded, so that `%2f` differs from `/`.
    A path that ends with a slash means the folder's `index.html`. `accept_encoding` is the request's header: if it allows, a
    compressed file beside the original (`x.br` or `x.gz` beside `x`) is opened instead.
    Raises FolderWithoutSlash, NotAcceptable and NoDescriptors.
    """
    names = split_path(url_path)
    if names is None:
        return None
    try:
        # Resolve first, compare after: a symlink may lead anywhere.
        root = folder.resolve(strict=True)
        named = root.joinpath(*names)
        path = named.resolve(strict=True)
        if is_public(path, root) and path.is_dir():
            named = path / INDEX
            path = named.resolve(strict=True)
            if is_public(path, root) and not url_path.endswith(b"/"):
                raise FolderWithoutSlash
        elif url_path.endswith(b"/"):
            return None
        opened = open_regular(path) if is_public(path, root) else None
    except (OSError, RuntimeError, ValueError):  # missing, unreadable, a loop of links, a name too long
        return None
    if opened is None or opened.coding is not None:
        return opened
    return negotiate(opened, open_compressed(named, root, opened), accept_encoding)


def negotiate(original: OpenFile, compressed: dict[str, OpenFile], accept_encoding: str | None) -> OpenFile:
    """Choose between a file and its compressed forms, and close the others. Raises NotAcceptable."""
    coding = choose_coding(accept_encoding, tuple(compressed))
    for other, form in {IDENTITY: original, **compressed}.items():
        if other != coding:
            form.file.close()
    if coding is None:
        raise NotAcceptable
    if coding == IDENTITY:
        return replace(original, is_negotiated=bool(compressed))
    chosen = compressed[coding]
    return replace(chosen, content_type=original.content_type, coding=coding, etag=f"{chosen.etag}-{coding}", is_negotiated=True)


def open_compressed(named: Path, root: Path, original: OpenFile) -> dict[str, OpenFile]:
    """Open the compressed files beside a file; return them by coding. Empty ones, and ones older than the file, are skipped.

    Like the original they must be in `root` and not hidden, after symlinks are resolved.
    """
    found = {}
    for coding, suffix in CODINGS.items():
        try:
            path = named.with_name(named.name + suffix).resolve(strict=True)
            opened = open_regular(path) if is_public(path, root) else None
        except (OSError, RuntimeError, ValueError):
            continue
        if opened is not None and opened.size and opened.modified_at >= original.modified_at - SLACK:
            found[coding] = opened
        elif opened is not None:
            opened.file.close()
    return found


def split_path(url_path: bytes) -> tuple[str, ...] | None:
    """Decode the segments of a URL path; None if one of them can't be the name of a public file.

    Not public: `.`, `..` and every name with a leading dot, empty names, and names that, decoded, have a slash, a backslash or a
    control character, or are not UTF-8.
    """
    segments = url_path.split(b"/")[1:]
    if segments and not segments[-1]:
        segments.pop()  # after the final slash of a folder
    names = []
    for segment in segments:
        try:
            name = unquote_to_bytes(segment).decode()
        except UnicodeDecodeError:
            return None
        if not name or name.startswith(".") or any(char in "/\\\x7f" or char < " " for char in name):
            return None
        names.append(name)
    return tuple(names)


def is_public(path: Path, root: Path) -> bool:
    """Whether a resolved path is in `root`, and no part of it below `root` is hidden.

    Names such as `..data` are allowed: Kubernetes puts the files of a volume behind such links.
    """
    if not path.is_relative_to(root):
        return False
    return not any(part.startswith(".") and not part.startswith("..") for part in path.relative_to(root).parts)


def open_regular(path: Path) -> OpenFile | None:
    """Open a resolved path if it is a regular file (never a FIFO or a device, which could block). Raises NoDescriptors."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise NoDescriptors from error
        raise
    file = File(descriptor, "rb")
    if descriptor >= first_private():
        file.close()
        raise NoDescriptors
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        file.close()
        return None
    content_type, coding = describe_file(path.name)
    etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    return OpenFile(
        file=file, content_type=content_type, coding=coding, size=status.st_size, modified_at=status.st_mtime, etag=etag
    )
