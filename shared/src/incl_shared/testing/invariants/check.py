"""All invariants at once."""

from __future__ import annotations

from collections.abc import Iterator

from incl_shared.testing.invariants import history, processes, records
from incl_shared.testing.invariants.evidence import Evidence, Violation

_MOST = 25


def violations(evidence: Evidence) -> list[Violation]:
    """What does not hold; empty: all does."""
    histories, wrong = history.read(evidence)
    return [
        *wrong,
        *history.finals(evidence, histories),
        *(history.settlements(evidence, histories) if evidence.tracked else ()),
        *history.resumptions(evidence.ran, histories),
        *processes.overlaps(evidence.ran),
        *records.records(evidence),
        *_leftovers(evidence),
    ]


def assert_holds(evidence: Evidence) -> None:
    """All invariants hold.

    Raises:
        AssertionError: naming what does not.
    """
    found = violations(evidence)
    if found:
        shown = "\n".join(f"  {each}" for each in found[:_MOST])
        more = f"\n  … and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise AssertionError(f"{len(found)} invariants do not hold:\n{shown}{more}")


def _leftovers(evidence: Evidence) -> Iterator[Violation]:
    for left in evidence.leftovers:
        yield Violation(f"no {left.kind} left", "", left.what)
    dead = {letter.id for letter in evidence.dead}
    for letter in evidence.dead:
        if letter.id not in evidence.poisoned:
            text = f"{letter.id} of {letter.stream} for {letter.durable}: {letter.reason}"
            yield Violation("dead letters only of poison", "", text)
    for identifier in sorted(evidence.poisoned - dead):
        yield Violation("dead letters only of poison", "", f"{identifier} was poisoned, and is no dead letter")
