"""The path of a site's control socket: derived from the real path of the site file, so that both ends find it."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from scalesocket.errors import ScalesocketError

AUTO: Final = "auto"
OFF: Final = "off"
SHARED: Final = Path("/tmp")


class ControlError(ScalesocketError):
    """The control socket cannot be opened, or its server does not answer, or answers with an error."""


class ControlTakenError(ControlError):
    """Another server uses the control socket."""


class SiteRefusedError(ControlError):
    """The server reports errors in the site file."""


def control_paths(control: str, site_file: Path | None) -> tuple[Path, ...]:
    """List the paths of the socket: a client tries each in order, a server uses those in the folder of the first.

    `control` is the site's `server.control`: a path, `"auto"` or `"off"`. With "auto" the names are hashes of the file's
    real path and, if the file is a symlink, also of the link's path, which stays the same when the link is replaced.
    The folder is in XDG_RUNTIME_DIR, else in /tmp. Both are listed, because the environments of a service and of a shell
    may differ. Empty for "off" and for a site without a file.
    """
    if control == OFF or (control == AUTO and site_file is None):
        return ()
    if control != AUTO:
        return (Path(control) if site_file is None else site_file.parent / control,)
    assert site_file is not None
    files = dict.fromkeys([site_file.resolve(), site_file.parent.resolve() / site_file.name])
    names = [hashlib.sha256(os.fsencode(file)).hexdigest()[:16] + ".sock" for file in files]
    return tuple(folder / name for folder in _folders() for name in names)


def is_own_folder(folder: Path) -> bool:
    """Return whether "auto" chooses this folder; the server creates such folders."""
    return folder in _folders()


def make_private(folder: Path) -> None:
    """Create a folder that only this user can enter, or check that it is one: in /tmp another user may have created it first.

    Raises ControlError if it is not private or cannot be created.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ControlError(f'{folder}: {error.strerror} (set server.control to another path, or to "off")') from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ControlError(f"{folder}: not a private folder of this user (remove it, or set server.control to another path)")


def _folders() -> list[Path]:
    own = SHARED / f"scalesocket-{os.getuid()}"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return [Path(runtime) / "scalesocket", own] if runtime.startswith("/") and Path(runtime).is_dir() else [own]
