"""What a site needs of this machine: programs, folders, certificates, users. Reads, and changes nothing."""

import grp
import os
import pwd
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from scalesocket.config.certificates import CertificateError, find_unreadable, load_pair
from scalesocket.config.command_hints import Spell, command_hint
from scalesocket.config.model import App, Server, Site
from scalesocket.config.parse import Origins
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Place, Problem, Severity, key_text, quote
from scalesocket.config.secrets import is_readable_by_others

INTERPRETER: Final = re.compile(r"(python|pypy|node|deno|bun|ruby|perl|php|lua|bash|dash|zsh|sh)[0-9.]*")
SCRIPTS: Final = (".py", ".js", ".mjs", ".ts", ".rb", ".pl", ".php", ".lua", ".sh")
MAX_FIRST_LINE: Final = 256
"""Bytes of a script's first line that Linux reads."""


class NotExecutableError(PermissionError):
    """A program that is a file, and may not be run."""


def spell_in_file(argv: Sequence[str]) -> str:
    """Write a command as an array of TOML."""
    return f"[{', '.join(quote(word) for word in argv)}]"


def check_machine(
    site: Site,
    origins: Origins | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    spell: Spell = spell_in_file,
) -> list[Problem]:
    """Find what this machine lacks for a site, in the order of the site.

    `origins` puts each problem at its line; `environ` holds the variables of the server, by default this process's. `spell`
    writes the commands of hints.
    """
    environ = os.environ if environ is None else environ
    findings = [(("server", *path), severity, message) for path, severity, message in _check_server(site.server)]
    for name, app in site.apps.items():
        findings += [(("apps", name, *path), severity, message) for path, severity, message in _check_app(app, environ, spell)]
    return [
        Problem(severity=severity, place=_place(site, origins or {}, path), key=key_text(path), message=message)
        for path, severity, message in findings
    ]


def find_program(app: App, environ: Mapping[str, str]) -> Path:
    """The program of an app's command, found as its children will: on the `PATH` they get, relative to `cwd`.

    Raises FileNotFoundError or PermissionError whose text says where it was looked for.
    """
    if app.command is None:
        raise ValueError(f"apps.{app.name} has no command")
    program = app.command[0]
    if "/" in program:
        _require_executable(app.cwd / program)
        return app.cwd / program
    search = app.env.get("PATH", environ.get("PATH") if "PATH" in app.pass_env else None)
    refused: PermissionError | None = None
    for folder in (os.defpath if search is None else search).split(os.pathsep):
        candidate = app.cwd / folder / program
        try:
            _require_executable(candidate)
        except PermissionError as error:
            refused = refused or error
        except OSError:
            continue
        else:
            return candidate
    if refused is not None:
        raise refused
    where = "on PATH" if search is not None else f"in {os.defpath} (PATH is not in pass_env)"
    raise FileNotFoundError(f"{program!r} is not found {where}")


_Finding = tuple[KeyPath, Severity, str]


def _error(key: str, message: str) -> _Finding:
    return (key,), Severity.ERROR, message


def _warning(key: str, message: str) -> _Finding:
    return (key,), Severity.WARNING, message


def _check_server(server: Server) -> Iterator[_Finding]:
    for address in server.bind:
        folder = Path(address.removeprefix("unix:")).parent
        if address.startswith("unix:") and not folder.is_dir():
            yield _error("bind", f"there is no folder {str(folder)!r} for the socket")
    if server.control not in ("auto", "off") and not Path(server.control).parent.is_dir():
        yield _error("control", f"there is no folder {str(Path(server.control).parent)!r} for the socket")
    if server.tls is None:
        return
    wrong = list(find_unreadable(server.tls))
    if not wrong:
        try:
            load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server.tls)
        except CertificateError as error:
            wrong = [error]
    for fault in wrong:
        yield ("tls", fault.blamed), Severity.ERROR, fault.reason
    with suppress(OSError):
        if is_readable_by_others(server.tls.key):
            yield ("tls", "key"), Severity.WARNING, "the file can be read by others (chmod o-r)"


def _check_app(app: App, environ: Mapping[str, str], spell: Spell) -> Iterator[_Finding]:
    if app.command is not None:
        has_cwd = app.cwd.is_dir() and os.access(app.cwd, os.X_OK)
        if not has_cwd:
            yield _error("cwd", _no_folder(app.cwd))
        try:
            if has_cwd or "/" not in app.command[0] or Path(app.command[0]).is_absolute():
                yield from _check_first_line(find_program(app, environ), app.cwd)
                yield from _check_script(app)
        except OSError as error:
            hint = command_hint(app.command, app.cwd, spell) or ("chmod +x" if isinstance(error, NotExecutableError) else "")
            yield _error("command", f"{error} ({hint})" if hint else str(error))
        yield from _check_identity(app)
    if app.unix is not None and not app.unix.is_socket():
        yield _warning("unix", f"there is no socket {str(app.unix)!r} at the moment")
    if app.static is not None and not (app.static.is_dir() and os.access(app.static, os.R_OK | os.X_OK)):
        yield _error("static", _no_folder(app.static))


def _check_script(app: App) -> Iterator[_Finding]:
    """See whether the script is there that an interpreter is to run: it would only fail when the first client comes."""
    assert app.command is not None
    program, *words = app.command
    script = next((word for word in words if not word.startswith("-")), "")
    is_script = INTERPRETER.fullmatch(Path(program).name) and script.endswith(SCRIPTS) and " " not in script
    if is_script and not (app.cwd / script).exists():
        yield _warning("command", f"there is no file {str(app.cwd / script)!r}")


def _check_identity(app: App) -> Iterator[_Finding]:
    uid = gid = None
    if app.user is not None:
        try:
            uid = pwd.getpwnam(app.user).pw_uid
        except KeyError:
            yield _error("user", f"there is no user {app.user!r}")
    if app.group is not None:
        try:
            gid = grp.getgrnam(app.group).gr_gid
        except KeyError:
            yield _error("group", f"there is no group {app.group!r}")
    if os.geteuid() == 0:
        return
    if uid is not None and uid != os.geteuid():
        yield _error("user", "only root can run children as another user")
    if gid is not None and gid != os.getegid():
        yield _error("group", "only root can run children as another group")


def _require_executable(file: Path) -> None:
    if not file.exists():
        raise FileNotFoundError(f"there is no file {str(file)!r}")
    if not file.is_file():
        raise PermissionError(f"{str(file)!r} is not a file")
    if not os.access(file, os.X_OK):
        raise NotExecutableError(f"{str(file)!r} is not executable")


def _check_first_line(program: Path, cwd: Path) -> Iterator[_Finding]:
    """See whether the system can run it. Of what is wrong with a script's first line it says itself only "no such file"."""
    try:
        with program.open("rb") as file:
            first, _, _ = file.read(MAX_FIRST_LINE).partition(b"\n")
    except OSError:  # it may be run and not read
        return
    if first.startswith(b"#!") and (words := first[2:].split()):
        interpreter = os.fsdecode(words[0])
        if first.endswith(b"\r"):
            yield _error("command", f"{str(program)!r} has line ends of Windows: its interpreter is not found (dos2unix)")
        elif not (cwd / interpreter).is_file():
            yield _error("command", f"{str(program)!r} is for an interpreter that is not there: {interpreter!r}")
    elif not first.startswith(b"\x7fELF"):
        yield _warning("command", f"{str(program)!r} is neither a program nor a script with a first line like #!/bin/sh")


def _no_folder(path: Path) -> str:
    if not path.exists():
        return f"there is no folder {str(path)!r}"
    return f"{str(path)!r} is not a folder" if not path.is_dir() else f"the folder {str(path)!r} cannot be read"


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]


def _place(site: Site, origins: Origins, path: KeyPath) -> Place:
    for known, place in origins.items():
        if known[: len(path)] == path:
            return place
    return Place(file=site.path)
