"""The error for a name that nothing bears, with the nearest known ones first."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

from incl_shared.errors import InvalidInput
from incl_shared.filters.ast import COLUMNS

_LENGTH = 100
"""Characters of a name that are compared, and shown of one that nobody knows."""
_COMPARED = 300
"""Names that are compared letter by letter: those that begin or end most alike, where there are more."""


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """Known names, the most alike first; of very many only the likeliest are in that order."""
    wanted = name[:_LENGTH].lower()

    def ends_unlike(other: str) -> int:
        cut = other[:_LENGTH].lower()
        return -max(_begin_alike(wanted, cut), _begin_alike(wanted[::-1], cut[::-1]))

    def unlike(other: str) -> float:
        return -difflib.SequenceMatcher(None, wanted, other[:_LENGTH].lower()).ratio()

    every = sorted(known)
    likely = every if len(every) <= _COMPARED else heapq.nsmallest(_COMPARED, every, key=ends_unlike)
    near = sorted(likely, key=unlike)
    compared = set(near)
    return near + [other for other in every if other not in compared]


def _begin_alike(one: str, two: str) -> int:
    """How many letters they begin with alike."""
    for count, (mine, theirs) in enumerate(zip(one, two, strict=False)):
        if mine != theirs:
            return count
    return min(len(one), len(two))


def unknown_metric(name: str, known: Iterable[str], where: str, *, fields: bool = False) -> InvalidInput:
    """No metric has this name. `where` says where it was sought; fields: a field may have been meant."""
    near, sought = nearest_first(name, known), name[:_LENGTH].lower()
    shown = ", ".join(near[:10]) + (f" and {len(near) - 10} more" if len(near) > 10 else "")
    cause = f"known metrics, nearest first: {shown}" if near else "no metric has been logged there yet"
    field = difflib.get_close_matches(sought, list(COLUMNS), n=1) if fields else []
    lowered = {other[:_LENGTH].lower(): other for other in reversed(near[:_COMPARED])}
    likely = difflib.get_close_matches(sought, list(lowered), n=1)
    guess = lowered[likely[0]] if likely else field[0] if field else None
    hint = f"did you mean {guess!r}?" if guess else "`incl show @last` lists the metrics of your last experiment"
    said = name if len(name) <= 2 * _LENGTH else f"{name[: 2 * _LENGTH]}…"
    return InvalidInput(f"no metric {said!r} in {where}", cause=cause, hint=hint)
