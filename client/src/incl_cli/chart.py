"""A line chart in braille: two by four dots a cell, one colour a series, an axis with round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from incl_cli.output import Output
from incl_cli.text import fit, number, plural

COLORS = ("cyan", "yellow", "magenta", "green", "blue", "red")
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800


@dataclass(frozen=True)
class Line:
    """A named series: steps and values; values that are not finite are left out, and counted. joined: by a line."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    joined: bool = True

    @property
    def finite(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        return [(x, y) for x, y in zip(self.steps, self.values, strict=True) if math.isfinite(y) and math.isfinite(x)]


class Canvas:
    """Cells of braille dots; each cell has the colour of the series that was last in it."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._bits = [[0] * columns for _ in range(rows)]
        self._owner = [[0] * columns for _ in range(rows)]

    def dot(self, x: int, y: int, owner: int) -> None:
        """Set a dot; x from the left, y from the top, in dots."""
        column, row = x // 2, y // 4
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self._bits[row][column] |= _DOTS[y % 4][x % 2]
            self._owner[row][column] = owner

    def line(self, x0: int, y0: int, x1: int, y1: int, owner: int) -> None:
        """Dots from one to the other."""
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        for index in range(count + 1):
            share = index / count
            self.dot(round(x0 + (x1 - x0) * share), round(y0 + (y1 - y0) * share), owner)

    def row(self, index: int, out: Output, styles: Sequence[str]) -> str:
        """One line of text."""
        parts, at = [], 0
        bits, owners = self._bits[index], self._owner[index]
        while at < self.columns:
            end = at
            while end < self.columns and owners[end] == owners[at]:
                end += 1
            text = "".join(chr(_BLANK + bit) if bit else " " for bit in bits[at:end])
            parts.append(out.paint(text, styles[owners[at]]) if text.strip() else text)
            at = end
        return "".join(parts).rstrip()


def draw(
    out: Output,
    title: str,
    lines: Sequence[Line],
    *,
    width: int,
    height: int,
    log: bool = False,
    first: int | None = None,
    axis: str = "step",
) -> list[str]:
    """A chart with title, axes and (for several series) a legend.

    first: the step that the axis begins with; none: 0 where the points begin within a cell of it, else their first.
    axis: what the steps are. log: a logarithmic value axis (values above 0 only).
    width, height: of the plot with its labels, in cells.
    """
    series = [[(x, _scaled(y, log=log)) for x, y in line.finite if not log or y > 0] for line in lines]
    points = [point for one in series for point in one]
    if not points:
        return [
            out.paint(title, "bold"),
            "  no finite values to draw" + (" (a log axis needs values above 0)" if log else ""),
        ]
    low_x, high_x = _range([x for x, _ in points])
    low_y, high_y = _range([y for _, y in points])
    labels = [_label(high_y - (high_y - low_y) * index / max(1, height - 1), log=log) for index in range(height)]
    left = max(len(label) for label in labels)
    canvas = Canvas(max(10, width - left - 3), height)
    if first is not None:
        low_x = min(low_x, first)
    elif 0 < low_x * canvas.columns < high_x:
        low_x = 0  # a thinned curve has the extremes of its first cell, not always its first point
    for index, one in enumerate(series):
        _plot(canvas, one, index, (low_x, high_x, low_y, high_y), joined=lines[index].joined)
    styles = [COLORS[index % len(COLORS)] for index in range(len(lines))]
    text = [out.paint(title, "bold") + ("  (log)" if log else "")]
    for index in range(height):
        shown = labels[index] if index in _ticks(height) else ""
        text.append(f" {shown:>{left}} {'┤' if shown else '│'}{canvas.row(index, out, styles)}")
    text.append(f" {'':>{left}} └{'─' * canvas.columns}")
    ends = number(low_x), number(high_x)
    text.append(f" {'':>{left}}  {ends[0]}{axis.center(canvas.columns - len(ends[0]) - len(ends[1]))}{ends[1]}")
    if len(lines) > 1:
        text += [
            f" {'':>{left}}  {out.paint('━━', styles[i])} {fit(line.name, out.width - left - 8)}"
            for i, line in enumerate(lines)
        ]
    left_out = sum(len(line.steps) - len(line.finite) for line in lines)
    if left_out:
        text.append(out.paint(f" {'':>{left}}  {plural(left_out, 'point')} left out: NaN or infinite", "yellow"))
    return text


def _scaled(value: float, *, log: bool) -> float:
    return math.log10(value) if log and value > 0 else value


def _label(value: float, *, log: bool) -> str:
    return f"{10**value if log else value:.4g}"


def _ticks(height: int) -> set[int]:
    step = max(2, (height - 1) // 4)
    return {*range(0, height - 1, step), height - 1} - ({height - 2} if (height - 2) % step == 0 else set())


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        pad = abs(low) * 0.05 or 0.5
        return low - pad, high + pad
    return low, high


def _plot(
    canvas: Canvas,
    points: Sequence[tuple[float, float]],
    owner: int,
    box: tuple[float, float, float, float],
    *,
    joined: bool = True,
) -> None:
    low_x, high_x, low_y, high_y = box
    wide, tall = canvas.columns * 2 - 1, canvas.rows * 4 - 1
    before: tuple[int, int] | None = None
    for x, y in sorted(points, key=lambda point: point[0]):
        at = (round((x - low_x) / (high_x - low_x) * wide), round((high_y - y) / (high_y - low_y) * tall))
        if before is None or not joined:
            canvas.dot(*at, owner)
        else:
            canvas.line(*before, *at, owner)
        before = at
