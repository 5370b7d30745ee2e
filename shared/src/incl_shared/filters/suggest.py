"""The error for a name that nothing bears, with the nearest known ones first."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from incl_shared.errors import InvalidInput
from incl_shared.filters.ast import COLUMNS


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """Known names, the most alike first."""
    wanted = name.lower()

    def unlike(other: str) -> float:
        return -difflib.SequenceMatcher(None, wanted, other.lower()).ratio()

    return sorted(sorted(known), key=unlike)


def unknown_metric(name: str, known: Iterable[str], where: str, *, fields: bool = False) -> InvalidInput:
    """No metric has this name. `where` says where it was sought; fields: a field may have been meant."""
    names = list(known)
    near = nearest_first(name, names)
    shown = ", ".join(near[:10]) + (f" and {len(near) - 10} more" if len(near) > 10 else "")
    cause = f"known metrics, nearest first: {shown}" if near else "no metric has been logged there yet"
    field = difflib.get_close_matches(name.lower(), list(COLUMNS), n=1) if fields else []
    likely = difflib.get_close_matches(name.lower(), [n.lower() for n in near], n=1)
    guess = next((n for n in near if likely and n.lower() == likely[0]), field[0] if field else None)
    hint = f"did you mean {guess!r}?" if guess else "`incl show @last` lists the metrics of your last experiment"
    return InvalidInput(f"no metric {name!r} in {where}", cause=cause, hint=hint)
