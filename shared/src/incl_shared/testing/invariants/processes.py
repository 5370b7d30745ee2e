"""What jobs say of their own processes: one of a rank, and never two attempts of an experiment at the same time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from incl_shared.testing.invariants.evidence import Ran, Violation

RULE = "never two live attempts"


def overlaps(ran: tuple[Ran, ...]) -> Iterator[Violation]:
    """Attempts of an experiment whose processes were there at the same time, and ranks that ran more than once."""
    by_experiment: dict[str, list[Ran]] = defaultdict(list)
    for process in ran:
        by_experiment[process.experiment].append(process)
    for experiment, processes in sorted(by_experiment.items()):
        counts = Counter((process.attempt, process.rank) for process in processes)
        for (attempt, rank), count in sorted(counts.items()):
            if count > 1:
                text = f"rank {rank} of attempt {attempt} was started {count} times"
                yield Violation("started once", experiment, text)
        yield from _live_together(experiment, processes)


def _live_together(experiment: str, processes: list[Ran]) -> Iterator[Violation]:
    """What begins is compared with the latest end of each attempt so far: that finds all that touch by one look."""
    latest: dict[int, Ran] = {}
    for process in sorted(processes, key=lambda each: each.began):
        for attempt, other in latest.items():
            if attempt != process.attempt and other.ended > process.began:
                text = (
                    f"attempt {process.attempt} (rank {process.rank}) began {other.ended - process.began:.3f} s before "
                    f"the end of attempt {attempt} (rank {other.rank})"
                )
                yield Violation(RULE, experiment, text)
        known = latest.get(process.attempt)
        if known is None or process.ended > known.ended:
            latest[process.attempt] = process
