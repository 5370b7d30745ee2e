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
    score: float | None = None


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


def unwanted(checkpoints: Iterable[Kept]) -> list[int]:
    """Ids of files that belong neither to the newest checkpoint (see `superseded`) nor to the one with the best score.

    A checkpoint's score is the highest of its files; of two that are as good the newer one stays. One that every rank
    wrote goes before one that lacks a part. Nothing is unwanted as long as nothing has a score.
    """
    files = list(checkpoints)
    scores: dict[tuple[int, int], float] = {}
    ranks: dict[tuple[int, int], set[int]] = {}
    for file in files:
        place = (file.attempt, file.step)
        ranks.setdefault(place, set()).add(file.rank)
        if file.score is not None:
            scores[place] = max(scores.get(place, file.score), file.score)
    if not scores:
        return []
    most = max(map(len, ranks.values()))
    best = max(scores, key=lambda place: (len(ranks[place]) == most, scores[place], place))
    old = set(superseded(files))
    return [file.id for file in files if file.id in old and (file.attempt, file.step) != best]
