"""Reads the ledgers that jobs of a chaos round write, as evidence for the invariants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incl_local.chaos.job import value
from incl_shared.testing.invariants import Logged, Ran, point


@dataclass(frozen=True)
class Book:
    """What one process wrote."""

    experiment: str
    attempt: int
    rank: int
    entries: tuple[dict[str, Any], ...]

    @property
    def steps(self) -> list[int]:
        """Steps whose point and line are both logged, in their order."""
        return [int(entry["step"]) for entry in self.entries if entry["k"] == "line"]

    def noted(self, kind: str) -> bool:
        """Whether it wrote an entry of this kind."""
        return any(entry["k"] == kind for entry in self.entries)

    def first_after(self, moment: float) -> int | None:
        """The first step that it logged after a moment of the monotonic clock."""
        tried = (int(entry["step"]) for entry in self.entries if entry["k"] == "point" and entry["t"] > moment)
        return next(tried, None)

    def ran(self) -> Ran:
        """Its life."""
        first, last = self.entries[0], self.entries[-1]
        resumed = first.get("resumed")
        return Ran(self.experiment, self.attempt, self.rank, float(first["t"]), float(last["t"]), resumed)

    def logged(self) -> Iterator[Logged]:
        """Its points and lines; those that it was about to log when it was killed are not sure."""
        done = {(entry["k"], entry["step"]) for entry in self.entries if "step" in entry}
        for step in sorted({int(entry["step"]) for entry in self.entries if entry["k"] == "try"}):
            place = (self.experiment, self.attempt, self.rank)
            told = point("loss", step, value(step))
            yield Logged(*place, "metrics", told, str(step), sure=("point", step) in done)
            yield Logged(*place, "logs", f"step {step}", sure=("line", step) in done)


def read(folder: Path, experiment: str = "") -> list[Book]:
    """Every book (of one experiment), the oldest attempt first. A line that a kill cut off is not there."""
    books = []
    for path in folder.glob(f"{experiment or '*'}-*.jsonl"):
        name, attempt, rank, _ = path.stem.split("-")
        lines = path.read_bytes().split(b"\n")[:-1]
        if lines:
            books.append(Book(name, int(attempt), int(rank), tuple(json.loads(line) for line in lines)))
    return sorted(books, key=lambda book: (book.experiment, book.attempt, book.rank))
