"""What was probably meant by a command whose program cannot be found or started, for a hint."""

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
"""What runs a file of this suffix."""

Spell = Callable[[Sequence[str]], str]
"""Writes a command as the user would, in the site file or on a command line."""


def command_hint(argv: Sequence[str], cwd: Path, spell: Spell) -> str:
    """`write ["./hello.py"] or ["python3", "hello.py"]`: the commands that `argv` was probably meant to be; "" without a guess.

    `argv` names a program that is not there, or that is not executable.
    """
    program, *rest = argv
    file = cwd / program
    if file.is_file():
        return _file_hint(program, rest, file, spell)
    words = _split(program)
    return f"one word is one program; write {spell([*words, *rest])}" if len(words) > 1 else ""


def _file_hint(program: str, rest: Sequence[str], file: Path, spell: Spell) -> str:
    """What to write for a file that is there: alone it is looked for on PATH, and it may not be executable."""
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
