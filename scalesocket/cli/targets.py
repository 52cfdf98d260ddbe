"""The words of an operator's command: an optional SITE, then what the command acts on, as APP or APP/ROOM."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

from scalesocket.cli.site_file import default_site

APP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
SUFFIX: Final = ".toml"


class Target(NamedTuple):
    """An app, or rooms of it."""

    app: str
    room: str | None

    def __str__(self) -> str:
        """`chat`, or `chat/lobby`."""
        return self.app if self.room is None else f"{self.app}/{self.room}"


def split_words(ctx: click.Context, words: Sequence[str], count: int) -> tuple[Path, Sequence[str]]:
    """Return the site file, and the `count` words after it. Raises click.UsageError for any other number of arguments."""
    if len(words) == count:
        if is_site_file(words[0]):
            raise click.UsageError(f"too few arguments after the site file {words[0]!r}", ctx)
        return default_site(ctx), words
    if len(words) == count + 1:
        return Path(words[0]), words[1:]
    if len(words) < count:
        raise click.UsageError("too few arguments", ctx)
    raise click.UsageError("too many arguments (a text with spaces needs quotes)", ctx)


def is_site_file(word: str) -> bool:
    """Whether a word means a site file. APP/ROOM, whose room may have any name, does not."""
    return word.endswith(SUFFIX) and not APP_NAME.fullmatch(word.partition("/")[0]) and Path(word).is_file()


def split_optional(ctx: click.Context, words: Sequence[str]) -> tuple[Path, str | None]:
    """Return the site file and the word after it, if any. A single word is a SITE if it ends with `.toml` or names a file.

    Raises click.UsageError for more words, and where a file has the name of an app.
    """
    if len(words) > 2:
        raise click.UsageError("too many arguments", ctx)
    if len(words) == 2:
        return Path(words[0]), words[1]
    if not words:
        return default_site(ctx), None
    (word,) = words
    is_file = Path(word).is_file()
    if is_file and APP_NAME.fullmatch(word):
        raise click.UsageError(f"{word!r} may be a file or an app (write ./{word} for the file, or both SITE and APP)", ctx)
    if is_file or word.endswith(SUFFIX):
        return Path(word), None
    return default_site(ctx), word


def parse_target(ctx: click.Context, word: str) -> Target:
    """Read APP or APP/ROOM. Raises click.UsageError."""
    app, slash, room = word.partition("/")
    if not app or (slash and not room):
        raise click.UsageError(f"{word!r} is neither APP nor APP/ROOM", ctx)
    return Target(app, room if slash else None)


def parse_room(ctx: click.Context, word: str) -> tuple[str, str]:
    """Read APP/ROOM. Raises click.UsageError."""
    target = parse_target(ctx, word)
    if target.room is None:
        hint = f" ({word}/* means all rooms of {word})" if APP_NAME.fullmatch(word) else ""
        raise click.UsageError(f"{word!r} is not APP/ROOM{hint}", ctx)
    return target.app, target.room
