"""Every point and line that was logged is stored once, or counted as lost; nothing is stored that nobody logged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator

from incl_shared.testing.invariants.evidence import Evidence, Logged, Stored, Violation

RULE = "stored once, or counted as lost"
_Place = tuple[str, int]
_SHOWN = 3


def records(evidence: Evidence) -> Iterator[Violation]:
    """Compare the ledgers with what the tracker gives, attempt by attempt."""
    logged: dict[_Place, list[Logged]] = defaultdict(list)
    stored: dict[_Place, list[Stored]] = defaultdict(list)
    for said in evidence.logged:
        logged[said.experiment, said.attempt].append(said)
    for kept in evidence.stored:
        stored[kept.experiment, kept.attempt].append(kept)
    lost = {(told.experiment, attempt): count for told in evidence.told for attempt, count in told.lost.items()}
    strict = {submitted.experiment for submitted in evidence.submitted if submitted.lossless}
    for place in sorted({*logged, *stored}):
        yield from _compare(place, logged[place], stored[place], lost.get(place, 0))
    for (experiment, attempt), count in sorted(lost.items()):
        if count and experiment in strict:
            yield Violation("nothing lost", experiment, f"{count} records of attempt {attempt} are counted as lost")


def _compare(place: _Place, logged: list[Logged], stored: list[Stored], lost: int) -> Iterator[Violation]:
    experiment, attempt = place
    said = Counter((each.stream, each.rank, each.what) for each in logged)
    have = Counter((each.stream, each.rank, each.what) for each in stored)
    twice = [key for key, count in have.items() if key in said and count > said[key]]
    foreign = [key for key in have if key not in said]
    sure = [each for each in logged if each.sure and (each.stream, each.rank, each.what) not in have]
    missing = {(each.stream, each.rank, each.record or each.what) for each in sure}
    for name, found in (("stored twice", twice), ("stored, but logged by nobody", foreign)):
        if found:
            yield Violation(RULE, experiment, f"attempt {attempt}: {len(found)} {name}: {_some(found)}")
    if len(missing) > lost:
        text = f"attempt {attempt}: {len(missing)} records are missing, {lost} counted as lost: {_some(missing)}"
        yield Violation(RULE, experiment, text)


def _some(keys: Collection[tuple[str, int, str]]) -> str:
    shown = [f"{stream} of rank {rank}: {what[:80]}" for stream, rank, what in sorted(keys)[:_SHOWN]]
    return "; ".join(shown) + (" …" if len(keys) > _SHOWN else "")
