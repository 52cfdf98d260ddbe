"""Draws two kinds of plots as SVG text, without a library: lines over a growing size, and bars by load."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

COLOURS: Final[Mapping[str, str]] = {
    "scalesocket": "#0b6e4f",
    "scalesocket, 2 workers": "#5fb49c",
    "the Rust original": "#c8553d",
    "Quart on Hypercorn": "#4a6fa5",
    "websocketd": "#8d6a9f",
    "Node ws": "#b58900",
    "picows": "#6c757d",
}
INK, GRID, PAPER = "#222222", "#dddddd", "#ffffff"
WIDTH: Final = 760
LEFT, RIGHT, TOP, BOTTOM = 74, 150, 46, 48

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogScale:
    """Maps values to pixels by their logarithm."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + share * (self.end - self.start)

    def make_ticks(self) -> list[float]:
        """Return 1, 2 and 5 of every decade if there are few decades, else only 1."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        ticks = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
        return [tick for tick in ticks if self.low * 0.999 <= tick <= self.high * 1.001]


def draw_lines(title: str, x_label: str, lines: Mapping[str, Points]) -> str:
    """Draw one line per server, with logarithmic axes and a label at the end of each line."""
    height = 380
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    across = LogScale(low=min(xs), high=max(xs), start=LEFT, end=WIDTH - RIGHT)
    up = LogScale(low=min(ys) / 1.4, high=max(ys) * 1.4, start=height - BOTTOM, end=TOP)
    parts = [text(LEFT, 24, title, size=15, weight="600")]
    for tick in up.make_ticks():
        y = up.place(tick)
        parts += [line(LEFT, y, WIDTH - RIGHT, y, GRID), text(LEFT - 8, y + 4, shorten(tick), anchor="end")]
    for x_tick in sorted(set(xs)):
        x = across.place(x_tick)
        parts += [line(x, TOP, x, height - BOTTOM, GRID), text(x, height - BOTTOM + 18, shorten(x_tick), anchor="middle")]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, height - 10, x_label, anchor="middle"))
    ends: list[float] = []
    for name, points in sorted(lines.items(), key=lambda item: item[1][-1][1]):
        colour = COLOURS.get(name, INK)
        spots = [(across.place(x), up.place(y)) for x, y in points]
        path = " ".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(spots))
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in spots]
        label_y = spots[-1][1] + 4
        if ends:
            label_y = min(label_y, ends[-1] - 15)  # lines are in order of height: labels do not overlap
        ends.append(label_y)
        parts.append(text(spots[-1][0] + 10, label_y, name, colour=colour))
    return wrap(height, title, parts)


def draw_bars(title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """Draw horizontal bars with their figures, one group per load; each group is scaled to its longest bar."""
    left, bar, gap = 250, 15, 14
    height = TOP + sum(len(bars) * bar + gap for bars in groups.values()) + 34
    parts = [text(16, 24, title, size=15, weight="600"), text(WIDTH - 16, 24, unit, anchor="end")]
    y = float(TOP)
    for label, bars in groups.items():
        longest = max(bars.values())
        parts.append(text(left - 10, y + len(bars) * bar / 2 + 4, label, anchor="end"))
        for name, value in bars.items():
            length = max((WIDTH - left - 130) * value / longest, 1)
            parts.append(
                f'<rect x="{left}" y="{y + 1:.1f}" width="{length:.1f}" height="{bar - 3}" fill="{COLOURS.get(name, INK)}"/>'
            )
            parts.append(text(left + length + 6, y + bar - 4, shorten(value), size=11))
            y += bar
        y += gap
    x = 16.0
    for name in dict.fromkeys(name for bars in groups.values() for name in bars):
        parts.append(f'<rect x="{x:.0f}" y="{height - 24}" width="12" height="12" fill="{COLOURS.get(name, INK)}"/>')
        parts.append(text(x + 18, height - 14, name))
        x += 34 + 7.2 * len(name)
    return wrap(height, title, parts)


def shorten(value: float) -> str:
    """Format a figure with three digits: 1.25 M, 14.2 k, 0.53."""
    for size, suffix in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", colour: str = INK, weight: str = "400") -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def wrap(height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
        f'font-family="system-ui, sans-serif" role="img" aria-label="{escape(title)}">'
    )
    return "\n".join([head, f'<rect width="100%" height="100%" fill="{PAPER}"/>', *parts, "</svg>", ""])
