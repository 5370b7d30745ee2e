"""Words and columns: durations, sizes, ages, numbers, and tables that fit the terminal."""

from __future__ import annotations

import math
import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from incl_cli.output import Output

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[PX^_][^\x1b]*(?:\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]?"
)
_COLOR = re.compile(r"^\x1b\[[0-9;:]*m$")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def duration(seconds: float | None) -> str:
    """0.3s, 12.5s, 3m05s, 2h04m, 3d02h; '-' for none."""
    if seconds is None:
        return "-"
    value = max(0.0, seconds)
    if value < 59.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def size(count: float) -> str:
    """Bytes for people, in powers of 1000: 812 B, 1.2 kB, 48 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return ""


def age(then: float, now: float | None = None) -> str:
    """How long ago: 'now', '5m ago', '3h ago', '2d ago', or the date."""
    passed = (time.time() if now is None else now) - then
    if passed < 10:
        return "now"
    for limit, unit, letter in ((60, 1, "s"), (3600, 60, "m"), (86_400, 3600, "h"), (30 * 86_400, 86_400, "d")):
        if passed < limit:
            return f"{int(passed // unit)}{letter} ago"
    return time.strftime("%Y-%m-%d", time.localtime(then))


def moment(then: float | None) -> str:
    """A local time with seconds; '-' for none."""
    return "-" if then is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))


def number(value: float | None) -> str:
    """A value of a metric in at most six digits; '-' for none."""
    if value is None:
        return "-"
    if math.isnan(value) or math.isinf(value):
        return str(value)
    if value == int(value) and abs(value) < 1e7:
        return str(int(value))
    return f"{value:.5g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:.6g}"


def plural(count: int, word: str) -> str:
    """'1 file', '2 files'."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def harmless(text: str, *, colors: bool) -> str:
    """A job's own words for a terminal: colours may stay, nothing else that steers it."""

    def keep(match: re.Match[str]) -> str:
        return match[0] if colors and _COLOR.match(match[0]) else ""

    clean = _ESCAPES.sub(lambda match: keep(match).replace("\x1b", "\x00"), text) if "\x1b" in text else text
    marked = "\x00[" in clean and "\x1b" in text
    if not marked:
        return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", clean)
    pieces = re.split(r"(\x00\[[0-9;:]*m)", clean)
    shown = [
        "\x1b" + piece[1:] if index % 2 else _CONTROL.sub("\N{REPLACEMENT CHARACTER}", piece)
        for index, piece in enumerate(pieces)
    ]
    return "".join(shown) + "\x1b[0m"


def plain(text: str) -> str:
    """Somebody's name for a thing (a file, a command) on one line: nothing in it steers a terminal or turns letters."""
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTED.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", text))


def cells(text: str) -> int:
    """Columns of a terminal that a text takes; styles take none."""
    plain = _ESCAPES.sub("", text) if "\x1b" in text else text
    if plain.isascii():
        return len(plain)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in plain
    )


def fit(text: str, width: int) -> str:
    """The text, cut with '…' when it is wider than that. For text without styles."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for letter in text:
        used += cells(letter)
        if used > width - 1:
            break
        kept.append(letter)
    return "".join(kept) + "…" if width > 0 else ""


def wrapped(head: str, items: Sequence[str], between: str, width: int) -> list[str]:
    """A heading and items beside each other, in lines that break between items only; later ones are indented by two."""
    lines, filled = [head], False
    for item in items:
        added = (between if filled else "") + item
        if filled and cells(lines[-1] + added + between.rstrip()) > width:
            lines[-1] += between.rstrip()
            lines.append("  ")
            added = item
        lines[-1] += added
        filled = True
    return lines


@dataclass(frozen=True)
class Column:
    """A column of a table; `flexible` ones are cut when the terminal is narrow, to `least` cells."""

    title: str
    right: bool = False
    flexible: bool = False
    least: int = 8


@dataclass(frozen=True)
class Cell:
    """A text with a style."""

    text: str
    style: str = ""


Row = Sequence[Cell | str]
"""The cells of one line."""


def table(out: Output, columns: Sequence[Column], rows: Sequence[Row], indent: str = "") -> list[str]:
    """The lines of a table: aligned, cut to the terminal, with a dim heading. Columns empty everywhere are left out."""
    grid = [[_clean(cell if isinstance(cell, Cell) else Cell(cell)) for cell in row] for row in rows]
    used = [i for i in range(len(columns)) if any(row[i].text for row in grid)] or list(range(len(columns)))
    widths = {i: max([cells(columns[i].title), *(cells(row[i].text) for row in grid)]) for i in used}
    excess = sum(widths.values()) + 2 * (len(used) - 1) + len(indent) - out.width
    for index in sorted((i for i in used if columns[i].flexible), key=lambda i: -widths[i]):
        if excess > 0:
            cut = min(excess, max(0, widths[index] - columns[index].least))
            widths[index] -= cut
            excess -= cut
    heading = [Cell(columns[i].title, "dim") for i in range(len(columns))]
    titled = any(column.title for column in columns)
    return [_row(out, columns, row, used, widths, indent) for row in ([heading] if titled else []) + grid]


def _clean(cell: Cell) -> Cell:
    text = plain(cell.text)
    return cell if text == cell.text else Cell(text, cell.style)


def _row(
    out: Output, columns: Sequence[Column], row: Sequence[Cell], used: list[int], widths: dict[int, int], indent: str
) -> str:
    parts = []
    for index in used:
        text = fit(row[index].text, widths[index])
        space = " " * (widths[index] - cells(text))
        painted = out.paint(text, row[index].style)
        parts.append(space + painted if columns[index].right else painted + space)
    return (indent + "  ".join(parts)).rstrip()
