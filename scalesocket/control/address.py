"""Where the control socket of a site is: derived from its file's real path, so that both ends agree unasked."""

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
    """The control socket cannot be opened, or the server behind it does not answer as it should."""


class ControlTakenError(ControlError):
    """Another server answers at the control socket: it runs the same site file."""


class SiteRefusedError(ControlError):
    """The server answers that the site file is wrong."""


def control_paths(control: str, site_file: Path | None) -> tuple[Path, ...]:
    """Where the socket may be: the command line tries each in order, a server takes those in the first one's folder.

    `control` is the site's `server.control`: a path, `"auto"` or `"off"`. With "auto" the names are hashes of the file's
    real path and, where the file is a symlink, of the path it was given by: that one stays when the link is swapped.
    They are in XDG_RUNTIME_DIR or, without one, in a folder of the user's in /tmp (a service and a shell need not have
    the same environment; that is why both are tried). Empty for "off" and for a site without a file.
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
    """Whether this is one of the folders that "auto" chooses, which are ours to make."""
    return folder in _folders()


def make_private(folder: Path) -> None:
    """Make a folder only this user can enter, or check that it is one: another user may have made it first in a shared place.

    Raises ControlError when it is not, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ControlError(f'{folder}: {error.strerror} (set server.control to another place, or to "off")') from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ControlError(f"{folder}: not a folder that belongs to this user alone (set server.control to another place)")


def _folders() -> list[Path]:
    own = SHARED / f"scalesocket-{os.getuid()}"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return [Path(runtime) / "scalesocket", own] if runtime.startswith("/") and Path(runtime).is_dir() else [own]
