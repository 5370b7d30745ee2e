"""Which checkpoints are no longer wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """One listed file of a checkpoint."""

    id: int
    attempt: int
    rank: int
    step: int


def superseded(checkpoints: Iterable[Kept]) -> list[int]:
    """Ids of files that belong to checkpoints older than the newest one that every rank has.

    A rank that is late holds the older ones: a checkpoint in shards is whole only when all of its ranks wrote it.
    """
    files = list(checkpoints)
    newest: dict[int, tuple[int, int]] = {}
    for file in files:
        newest[file.rank] = max(newest.get(file.rank, (0, -1)), (file.attempt, file.step))
    if not newest:
        return []
    floor = min(newest.values())
    return [file.id for file in files if (file.attempt, file.step) < floor]
