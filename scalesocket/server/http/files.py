"""Files of a static folder, opened so that nothing outside of it, and nothing hidden, is ever served.

The functions here block; the static routes call them in a worker thread.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

INDEX = "index.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A regular file, open for reading; the holder closes `file`."""

    file: BinaryIO
    name: str
    size: int
    """In bytes, when it was opened."""
    modified_at: float
    """Unix time."""
    etag: str


class FolderWithoutSlash(Exception):
    """The path names a folder that has an index, without the slash its relative links need."""


def open_file(folder: Path, url_path: bytes) -> OpenFile | None:
    """Open the file a URL path means; None when there is none to be served.

    `url_path` is what follows the mount, with its leading slash and still percent-encoded, so that `%2f` is told from `/`.
    A path that ends in a slash means the folder's `index.html`. Raises FolderWithoutSlash.
    """
    names = split_path(url_path)
    if names is None:
        return None
    try:
        # Resolved first and compared after: a symlink may point anywhere, what counts is where it ends.
        root = folder.resolve(strict=True)
        path = root.joinpath(*names).resolve(strict=True)
        if is_public(path, root) and path.is_dir():
            path = (path / INDEX).resolve(strict=True)
            if is_public(path, root) and not url_path.endswith(b"/"):
                raise FolderWithoutSlash
        elif url_path.endswith(b"/"):
            return None
        return open_regular(path) if is_public(path, root) else None
    except (OSError, RuntimeError, ValueError):  # not there, not ours to read, a loop of links, a name too long
        return None


def split_path(url_path: bytes) -> tuple[str, ...] | None:
    """Decode the segments of a URL path; None if one of them can't be the name of a public file.

    Refused: `.`, `..` and every name with a leading dot, empty segments, and names that hold a slash, a backslash or a
    control character (NUL among them) once decoded, or that are not UTF-8.
    """
    segments = url_path.split(b"/")[1:]
    if segments and not segments[-1]:
        segments.pop()  # the slash that means a folder
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
    """True when a resolved path lies in `root`, and no part of it below is hidden.

    `..data` and its kind may stand in between: Kubernetes puts the files of a volume behind such links.
    """
    if not path.is_relative_to(root):
        return False
    return not any(part.startswith(".") and not part.startswith("..") for part in path.relative_to(root).parts)


def open_regular(path: Path) -> OpenFile | None:
    """Open a resolved path if it is a regular file (never a FIFO or a device, whose `open` or `read` would hang)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    file = os.fdopen(descriptor, "rb", buffering=0)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        file.close()
        return None
    etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    return OpenFile(file=file, name=path.name, size=status.st_size, modified_at=status.st_mtime, etag=etag)
