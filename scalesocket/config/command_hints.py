"""Hints about a command whose program cannot be found or started: what was probably meant."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

INTERPRETERS: Final = {
    ".py": "python3",
    ".js": "node",
    ".mjs": "node",
    ".rb": "ruby",
    ".pl": "perl",
    ".php": "php",
    ".lua": "lua",
    ".sh": "sh",
}
"""The interpreter of a file, by its suffix."""

Spell = Callable[[Sequence[str]], str]
"""Writes a command in the form of the site file or of a command line."""


def command_hint(argv: Sequence[str], cwd: Path, spell: Spell) -> str:
    """Suggest commands, as in `write ["./hello.py"] or ["python3", "hello.py"]`; empty without a suggestion.

    `argv` is a command whose program does not exist or is not executable.
    """
    program, *rest = argv
    file = cwd / program
    if file.is_file():
        return _file_hint(program, rest, file, spell)
    words = _split(program)
    return f"the program and its arguments are separate words; write {spell([*words, *rest])}" if len(words) > 1 else ""


def _file_hint(program: str, rest: Sequence[str], file: Path, spell: Spell) -> str:
    """Suggest commands for a file in `cwd`: without `./` it is looked for on PATH, and it may not be executable."""
    interpreter = INTERPRETERS.get(file.suffix)
    by_interpreter = spell([interpreter, program, *rest]) if interpreter is not None else None
    if "/" in program:
        return f"chmod +x, or write {by_interpreter}" if by_interpreter is not None else "chmod +x"
    by_itself = spell([f"./{program}", *rest])
    if os.access(file, os.X_OK):
        return f"write {by_itself}" + (f" or {by_interpreter}" if by_interpreter is not None else "")
    return f"write {by_interpreter}, or {by_itself} after chmod +x" if by_interpreter else f"write {by_itself} after chmod +x"


def _split(word: str) -> list[str]:
    try:
        return shlex.split(word)
    except ValueError:
        return word.split()
