"""The program of a command: where it is found, and whether the system can run it. Reads files, and runs nothing."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from scalesocket.config.command_hints import Spell, command_hint
from scalesocket.config.model import App
from scalesocket.config.problems import Finding, Severity

INTERPRETER: Final = re.compile(r"(python|pypy|node|deno|bun|ruby|perl|php|lua|bash|dash|zsh|sh)[0-9.]*")
SCRIPTS: Final = (".py", ".js", ".mjs", ".ts", ".rb", ".pl", ".php", ".lua", ".sh")
MAX_FIRST_LINE: Final = 256
"""Bytes of a script's first line that Linux reads."""


class NotExecutableError(PermissionError):
    """The program is a file that is not executable."""


def find_program(app: App, environ: Mapping[str, str]) -> Path:
    """Find the program of an app's command as its child processes will: on their `PATH`, relative to `cwd`.

    Raises FileNotFoundError or PermissionError, whose text says where it was looked for.
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


def check_command(app: App, environ: Mapping[str, str], spell: Spell, *, has_cwd: bool) -> Iterator[Finding]:
    """Find what keeps the command of an app from running. Without its `cwd`, relative paths are not checked."""
    assert app.command is not None
    try:
        if has_cwd or "/" not in app.command[0] or Path(app.command[0]).is_absolute():
            yield from _check_first_line(find_program(app, environ), app.cwd)
            yield from _check_script(app)
    except OSError as error:
        hint = command_hint(app.command, app.cwd, spell) or ("chmod +x" if isinstance(error, NotExecutableError) else "")
        yield Finding(("command",), f"{error} ({hint})" if hint else str(error))


def _check_script(app: App) -> Iterator[Finding]:
    """Look for the script that an interpreter is given; otherwise its absence shows only when the first client joins."""
    assert app.command is not None
    program, *words = app.command
    script = next((word for word in words if not word.startswith("-")), "")
    is_script = INTERPRETER.fullmatch(Path(program).name) and script.endswith(SCRIPTS) and " " not in script
    if is_script and not (app.cwd / script).exists():
        yield Finding(("command",), f"there is no file {str(app.cwd / script)!r}", Severity.WARNING)


def _require_executable(file: Path) -> None:
    if not file.exists():
        raise FileNotFoundError(f"there is no file {str(file)!r}")
    if not file.is_file():
        raise PermissionError(f"{str(file)!r} is not a file")
    if not os.access(file, os.X_OK):
        raise NotExecutableError(f"{str(file)!r} is not executable")


def _check_first_line(program: Path, cwd: Path) -> Iterator[Finding]:
    """Check a script's first line, about which the system says only "no such file"."""
    try:
        with program.open("rb") as file:
            first, _, _ = file.read(MAX_FIRST_LINE).partition(b"\n")
    except OSError:  # a file can be executable without being readable
        return
    if first.startswith(b"#!") and (words := first[2:].split()):
        interpreter = os.fsdecode(words[0])
        if first.endswith(b"\r"):
            message = f"{str(program)!r} has Windows line ends, so its interpreter is not found (convert it with dos2unix)"
            yield Finding(("command",), message)
        elif not (cwd / interpreter).is_file():
            yield Finding(("command",), f"{str(program)!r} needs the interpreter {interpreter!r}, which does not exist")
    elif not first.startswith(b"\x7fELF"):
        message = f"{str(program)!r} is neither a program nor a script with a first line like #!/bin/sh"
        yield Finding(("command",), message, Severity.WARNING)
