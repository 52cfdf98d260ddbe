"""The grammar of the original's command line as a table, and its parser. Pure.

`[FLAGS] CMD [FLAGS] [-- ARGS...]`. click cannot parse it: a bare `--frame` must not take its value from the next word, and
`--` separates the arguments of CMD. Flags are read until `--`, after CMD too; `-- CMD ARGS` runs a command that looks
like a flag or has the name of a scalesocket command.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import click

from scalesocket.cli.flag_hints import hint_for_flag


class Takes(Enum):
    """How a flag takes its value."""

    NOTHING = auto()
    VALUE = auto()
    """`--flag VALUE` or `--flag=VALUE`."""
    EQUALS = auto()
    """`--flag=VALUE` only."""
    MAYBE = auto()
    """`--flag`, or `--flag=VALUE`; never the next word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag of the original."""

    name: str
    """`--json`; `-v` where there is no long name."""
    meaning: str
    takes: Takes = Takes.NOTHING
    value: str = ""
    """The name of the value in the help."""
    aliases: tuple[str, ...] = ()
    repeats: bool = False
    conflicts: frozenset[str] = frozenset()
    """Flags that cannot be combined with this one."""
    needs: str | None = None
    """A flag that this one requires."""

    @property
    def usage(self) -> str:
        """The flag as the help shows it: `-b, --binary`, `--frame[=MODE]`."""
        value = {
            Takes.NOTHING: "",
            Takes.VALUE: f" {self.value}",
            Takes.EQUALS: f"={self.value}",
            Takes.MAYBE: f"[={self.value}]",
        }
        short = ", ".join(alias for alias in self.aliases if not alias.startswith("--"))
        return f"{short + ', ' if short else ''}{self.name}{value[self.takes]}"


_MODES: Final = frozenset({"json", "gwsocket"})
"""Values of `--frame`, which are unlikely names of programs."""
FRAME_FLAGS: Final = frozenset({"--frame", "--clientframe", "--serverframe"})

FLAGS: Final[tuple[Flag, ...]] = (
    Flag(
        name="--addr",
        aliases=("--bind",),
        takes=Takes.VALUE,
        value="ADDR",
        meaning="Listen on this address; also --bind [default: 0.0.0.0:9000, all addresses]",
    ),
    Flag(name="--api", meaning="Serve the rooms API under /api/"),
    Flag(
        name="--binary",
        aliases=("-b",),
        meaning="Send output as binary messages, one per read; pass input on unchanged, without newlines",
        conflicts=frozenset({"--delimiters", "--null"}),
    ),
    Flag(
        name="--cache",
        takes=Takes.VALUE,
        value="[TYPE:]SIZE",
        meaning="Send a room's last SIZE messages to new clients; TYPE: `all` (default), `tagged` (those with `_cache: true`)",
    ),
    Flag(name="--cachepersist", meaning="Keep the messages of --cache after the room's process has ended"),
    Flag(
        name="--clientframe",
        takes=Takes.EQUALS,
        value="MODE",
        meaning="Frame messages from clients; see --frame",
        conflicts=frozenset({"--frame", "--json"}),
    ),
    Flag(
        name="--delay",
        takes=Takes.VALUE,
        value="SECONDS",
        meaning="Wait this long after starting the process before connecting to it",
    ),
    Flag(
        name="--delimiters",
        takes=Takes.EQUALS,
        value="CHARS",
        meaning="Split the output into messages at any of these characters [default: newline]",
    ),
    Flag(
        name="--frame",
        takes=Takes.MAYBE,
        value="MODE",
        meaning="Frame and route messages in both directions: `json` (also without MODE) or `gwsocket`",
        conflicts=frozenset({"--json"}),
    ),
    Flag(
        name="--joinmsg",
        takes=Takes.VALUE,
        value="MSG",
        meaning="Write MSG to the process when a client connects; #ID is the client's id",
    ),
    Flag(
        name="--json",
        meaning='Short for --frame=json with join and leave messages ({"t":"Join","_from":#ID} and the same with Leave)',
        conflicts=FRAME_FLAGS,
    ),
    Flag(name="--leavemsg", takes=Takes.VALUE, value="MSG", meaning="Write MSG to the process when a client disconnects"),
    Flag(name="--log", takes=Takes.VALUE, value="FMT", meaning="Log format: `text` or `json` [default: text]"),
    Flag(
        name="--maxrooms",
        aliases=("--maxforks",),
        takes=Takes.VALUE,
        value="NUM",
        meaning="Limit the number of rooms, and so of processes [default: no limit; 1 with --oneshot]",
    ),
    Flag(name="--metrics", meaning="Serve OpenMetrics at /metrics"),
    Flag(name="--null", meaning="Split the output at NUL characters (and at --delimiters, if given)"),
    Flag(name="--oneshot", meaning="Serve one client, then exit: when it disconnects or its process ends"),
    Flag(
        name="--passenv",
        takes=Takes.VALUE,
        value="LIST",
        repeats=True,
        meaning="Pass these environment variables, separated by commas; `--passenv=`: none [default: PATH,DYLD_LIBRARY_PATH]",
    ),
    Flag(
        name="--rooms",
        takes=Takes.VALUE,
        value="LIST",
        repeats=True,
        meaning="Allow only these rooms, separated by commas [default: any]",
    ),
    Flag(
        name="--serverframe",
        takes=Takes.EQUALS,
        value="MODE",
        meaning="Frame messages from the process; see --frame",
        conflicts=frozenset({"--frame", "--json"}),
    ),
    Flag(name="--staticdir", takes=Takes.VALUE, value="DIR", meaning="Serve the files of this folder over HTTP"),
    Flag(name="--tcp", meaning="Connect to the process over TCP instead of stdio; it must listen on 127.0.0.1:$PORT"),
    Flag(
        name="--tcpports",
        takes=Takes.VALUE,
        value="START:END",
        needs="--tcp",
        meaning="Port range for --tcp, END not included [default: 9001:9999]",
    ),
    Flag(name="-v", repeats=True, meaning="Log at level debug; -vv is the same"),
    Flag(name="--help", aliases=("-h",), meaning="Show this help"),
    Flag(name="--version", aliases=("-V",), meaning="Show the version"),
)
"""Every flag, in the order of the help."""

_BY_NAME: Final[Mapping[str, Flag]] = {name: flag for flag in FLAGS for name in (flag.name, *flag.aliases)}
_NEAR: Final = 0.7
"""How similar two words must be, from 0 to 1: two letters swapped in a word of four are 0.75."""
_EXITING: Final = ("--help", "--version")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A parsed command line: the values of each flag in order (None for a flag without one), the command and its arguments."""

    flags: Mapping[str, tuple[str | None, ...]]
    """By `Flag.name`."""
    command: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Return whether the flag was given."""
        return name in self.flags

    def value(self, name: str) -> str | None:
        """Return the last value of the flag; None without the flag or without a value."""
        return self.flags[name][-1] if name in self.flags else None

    def values(self, name: str) -> tuple[str, ...] | None:
        """Return the parts of all values of the flag, split at commas; empty for `--flag=`, None without the flag."""
        if name not in self.flags:
            return None
        return tuple(part for value in self.flags[name] for part in (value or "").split(",") if part)


def parse_command_line(words: Sequence[str]) -> CommandLine:
    """Parse the arguments of `scalesocket`. Raises click.UsageError for whatever the original refuses.

    `--help` and `--version` end the parsing; the rest is not checked then.
    """
    flags: dict[str, list[str | None]] = {}
    command: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            if not command and rest:
                command.append(rest.pop(0))
                rest = rest[1:] if rest[:1] == ["--"] else rest
            command += rest
            break
        if not word.startswith("-") or word == "-":
            if command:
                raise _surplus(word, command[0], flags)
            command.append(word)
            continue
        for flag, value in _read_flag(word, rest, command):
            flags.setdefault(flag.name, []).append(value)
            if flag.name in _EXITING:
                return CommandLine(flags={flag.name: (None,)}, command=())
    _check(flags)
    if not command:
        raise click.UsageError("no command given (write scalesocket [FLAGS] CMD [-- ARGS...])")
    return CommandLine(flags={name: tuple(values) for name, values in flags.items()}, command=tuple(command))


def _surplus(word: str, command: str, flags: Mapping[str, Sequence[str | None]]) -> click.UsageError:
    """Describe an argument after CMD. What was taken for CMD may be the value of a flag before it."""
    for name, values in flags.items():
        if command in _MODES and values == [None] and _BY_NAME[name].takes is Takes.MAYBE:
            return click.UsageError(f"{name} takes its value after an equal sign (write {name}={command})")
    return click.UsageError(f"unexpected argument {word!r} (arguments of CMD come after --: {command} -- {word})")


def _read_flag(word: str, rest: list[str], command: Sequence[str]) -> Iterable[tuple[Flag, str | None]]:
    """Parse `--name`, `--name=value` or a cluster of short flags; a value in the next word is taken from `rest`."""
    if not word.startswith("--"):
        for letter in word[1:]:
            yield _find(f"-{letter}", word, command, None), None
        return
    name, equals, attached = word.partition("=")
    flag = _find(name, word, command, attached if equals else rest[0] if rest else None)
    match flag.takes, equals:
        case Takes.NOTHING, "=":
            raise click.UsageError(f"{name} takes no value")
        case Takes.EQUALS, "":
            raise click.UsageError(f"{name} needs its value after an equal sign (write {flag.usage})")
        case Takes.VALUE, "":
            if not rest or (rest[0].startswith("-") and rest[0] != "-"):
                raise click.UsageError(f"{name} needs a value (write {name}={flag.value})")
            yield flag, rest.pop(0)
        case _:
            yield flag, attached if equals else None


def _find(name: str, word: str, command: Sequence[str], value: str | None) -> Flag:
    """Return the flag of this name. `value` is the next word, for the hint about an unknown flag."""
    if name not in _BY_NAME:
        where = f" in {word!r}" if name != word and not name.startswith("--") else ""
        near = nearest_word(name, (flag.name for flag in FLAGS))
        hint = hint_for_flag(name, value) or (f"did you mean {near}?" if near else "scalesocket run --help lists the flags")
        its = f"; flags of CMD come after --: {command[0]} -- {word}" if command else ""
        raise click.UsageError(f"unknown flag {name!r}{where} ({hint}{its})")
    return _BY_NAME[name]


def nearest_word(word: str, words: Iterable[str]) -> str | None:
    """Return the word or long flag that was probably meant; None if none is similar enough."""
    bare = {known.strip("-"): known for known in words}
    near = difflib.get_close_matches(word.strip("-").replace("-", ""), bare, n=1, cutoff=_NEAR)
    return bare[near[0]] if near else None


def _check(flags: Mapping[str, Sequence[str | None]]) -> None:
    for name, values in flags.items():
        flag = _BY_NAME[name]
        if len(values) > 1 and not flag.repeats:
            raise click.UsageError(f"{name} is given more than once")
        for other in flags:
            if other in flag.conflicts:
                raise click.UsageError(f"{name} cannot be used with {other}")
        if flag.needs is not None and flag.needs not in flags:
            raise click.UsageError(f"{name} needs {flag.needs}")
