"""Text for a terminal: tables whose columns are aligned, and lines that are not wider than it is."""

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

GAP: Final = "  "
NARROWEST: Final = 8
"""Columns that are left of a text that is cut, however narrow the terminal is."""


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None if it is none, and nothing is to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def width_of(text: str) -> int:
    """The columns a terminal shows `text` in: two for a wide character, none for an accent that joins the one before."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in text)


def cut(text: str, width: int | None) -> str:
    """The text, or its beginning and `…` if it is wider than `width` columns; None: whole."""
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
    """The lines of a table with aligned columns; the column called `elastic` is cut to make it no wider than `width`."""
    table = [head, *rows]
    widths = [max(width_of(row[column]) for row in table) for column in range(len(head))]
    number = head.index(elastic)
    if width is not None:
        others = sum(widths) - widths[number] + len(GAP) * (len(head) - 1)
        widths[number] = min(widths[number], max(width - others, NARROWEST))
    for row in table:
        cells = [cut(cell, limit) for cell, limit in zip(row, widths, strict=True)]
        yield GAP.join(cell + " " * (limit - width_of(cell)) for cell, limit in zip(cells, widths, strict=True)).rstrip()
