"""Text for a terminal: aligned tables, and lines cut to its width."""

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

GAP: Final = "  "
NARROWEST: Final = 8
"""The least number of columns to which a text is cut."""


def terminal_width() -> int | None:
    """Return the columns of the terminal at standard output; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def width_of(text: str) -> int:
    """Return the columns that `text` takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in text)


def cut(text: str, width: int | None) -> str:
    """Cut `text` to `width` columns, with `…` at the end (None: no limit)."""
    if width is None or width_of(text) <= width:
        return text
    kept, left = [], max(width, NARROWEST) - 1
    for char in text:
        left -= width_of(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept) + "…"


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, elastic: str, width: int | None) -> Iterable[str]:
    """Yield the lines of a table; the column called `elastic` is cut so that lines fit into `width` columns (None: no limit)."""
    table = [head, *rows]
    widths = [max(width_of(row[column]) for row in table) for column in range(len(head))]
    number = head.index(elastic)
    if width is not None:
        others = sum(widths) - widths[number] + len(GAP) * (len(head) - 1)
        widths[number] = min(widths[number], max(width - others, NARROWEST))
    for row in table:
        cells = [cut(cell, limit) for cell, limit in zip(row, widths, strict=True)]
        yield GAP.join(cell + " " * (limit - width_of(cell)) for cell, limit in zip(cells, widths, strict=True)).rstrip()
