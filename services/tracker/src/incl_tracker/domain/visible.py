"""Which points count: a step that a later attempt logged again, in the same metric and rank, hides those before.

Chunks hold this as masks. What lies in tails is compared here, exactly by step, when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from incl_tracker.domain.samples import Mask, Samples, Steps

NO_STEPS: Steps = np.empty(0, np.int64)


class Tail(NamedTuple):
    """Points of one attempt and writer that are in no chunk yet, in the order of arrival."""

    attempt: int
    writer: str
    samples: Samples


def mask_of(blob: bytes | None, count: int) -> Mask | None:
    """Which of `count` points are hidden; none: none is."""
    if blob is None:
        return None
    return np.unpackbits(np.frombuffer(blob, np.uint8), count=count).view(np.bool_)


def later_steps(tails: Iterable[Tail], attempt: int) -> Steps:
    """The steps in tails of later attempts, rising, each once."""
    steps = [tail.samples.steps for tail in tails if tail.attempt > attempt]
    return np.unique(np.concatenate(steps)) if steps else NO_STEPS


def holds_any(steps: Steps, low: int, high: int) -> bool:
    """Whether one of these rising steps lies in low…high."""
    return bool(np.searchsorted(steps, low, "left") < np.searchsorted(steps, high, "right"))


def without(samples: Samples, hiding: Sequence[Steps]) -> Samples:
    """The points whose step is in none of these (each rising)."""
    for steps in hiding:
        if len(steps) and len(samples):
            samples = samples.take(~among(samples.steps, steps))
    return samples


def among(steps: Steps, known: Steps) -> Mask:
    """Which of these steps are among the known ones, which are in order."""
    if not len(known):
        return np.zeros(len(steps), np.bool_)
    places = np.searchsorted(known, steps)
    places[places == len(known)] = 0
    found: Mask = known[places] == steps
    return found
