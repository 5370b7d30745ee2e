"""Cutting raw output into lines: pure, so that the same bytes give the same lines after a crash.

A carriage return overwrites: of what a line held only its last state counts. A line longer than MAX_LINE_CHARACTERS
bytes is cut into parts, between characters.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from incl_shared.telemetry.wire import MAX_LINE_CHARACTERS

PART = 1
REPLACES = 2
MAX_PIECE_BYTES = 3 * MAX_LINE_CHARACTERS
MAX_PIECE_LINES = 2000


class Kind(IntEnum):
    """What a piece of output is."""

    LINES = 0
    """Whole lines; consumed."""
    PROGRESS = 1
    """The newest state of a line that carriage returns overwrite; read again with what follows it."""
    OPEN = 2
    """One part of a line that has no end yet; consumed."""
    SAID = 3
    """Said by the platform; in no file."""


class Cut(NamedTuple):
    """A piece of some bytes: [start, end) is its text. What lies before start is overwritten and needs no line."""

    kind: Kind
    start: int
    end: int
    lines: int


def cut(data: bytes, *, final: bool) -> Cut | None:
    """The first piece of data; None: it must grow first. final: nothing follows data, whole or cut by a window."""
    end = data.rfind(b"\n", 0, MAX_PIECE_BYTES) + 1
    if end:
        if data.count(b"\n", 0, end) > MAX_PIECE_LINES:
            end = len(b"\n".join(data[:end].split(b"\n", MAX_PIECE_LINES)[:-1])) + 1
        return Cut(Kind.LINES, 0, end, len(split(data[:end])))
    if final and len(data) <= MAX_PIECE_BYTES:
        return Cut(Kind.LINES, 0, len(data), len(split(data))) if data else None
    window = data[:MAX_PIECE_BYTES]
    shown = window.rstrip(b"\r")
    start = shown.rfind(b"\r") + 1
    if start or len(shown) < len(window):
        full = len(window) == MAX_PIECE_BYTES
        return Cut(Kind.LINES, 0, len(window), 1) if full and not start else Cut(Kind.PROGRESS, start, len(shown), 1)
    if len(data) > MAX_LINE_CHARACTERS:
        return Cut(Kind.OPEN, 0, between(data, MAX_LINE_CHARACTERS), 1)
    return None


def split(piece: bytes) -> list[tuple[bytes, int]]:
    """(text, flags) of each line of a LINES piece. The last line need not have its newline; no bytes are one line."""
    lines = piece.removesuffix(b"\n").split(b"\n")
    if b"\r" in piece:
        lines = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines]
    if max(map(len, lines)) <= MAX_LINE_CHARACTERS:
        return [(line, 0) for line in lines]
    return [part for line in lines for part in parts(line)]


def parts(line: bytes) -> list[tuple[bytes, int]]:
    """A line in parts of at most MAX_LINE_CHARACTERS bytes; all but the last have the flag PART."""
    found: list[tuple[bytes, int]] = []
    at = 0
    while len(line) - at > MAX_LINE_CHARACTERS:
        end = at + between(line[at : at + MAX_LINE_CHARACTERS + 4], MAX_LINE_CHARACTERS)
        found.append((line[at:end], PART))
        at = end
    found.append((line[at:], 0))
    return found


def between(data: bytes, at: int) -> int:
    """The nearest place at or before `at` that lies between two UTF-8 characters (or `at`, where none is near)."""
    for back in range(4):
        if at - back <= 0:
            break
        if at - back >= len(data) or data[at - back] & 0xC0 != 0x80:
            return at - back
    return at
