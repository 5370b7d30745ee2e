"""When a message that could not be handled is delivered again, and when it is given up."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """Delays grow by two from `base` to `cap` seconds, with jitter.

    attempts: failures of the handler (not outages, not redeliveries) before the dead letter; about five minutes by
    default. early_attempts: how often a message may say that it came too early; about a day by default.
    """

    attempts: int = 12
    base: float = 0.2
    cap: float = 60.0
    early_base: float = 0.05
    early_cap: float = 30.0
    early_attempts: int = 2900

    def delay(self, failures: int) -> float:
        """Seconds until the next delivery after that many failures (from 1)."""
        return _jitter(min(self.cap, self.base * 2.0 ** min(failures - 1, 30)))

    def early_delay(self, times: int) -> float:
        """Seconds until the next delivery of a message that came too early that many times (from 1)."""
        return _jitter(min(self.early_cap, self.early_base * 2.0 ** min(times - 1, 30)))


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311


class Failures:
    """How often each message failed here, by its sequence; forgets the oldest beyond `limit`."""

    def __init__(self, limit: int = 10_000) -> None:
        self._counts: dict[int, int] = {}
        self._limit = limit

    def add(self, sequence: int) -> int:
        """One more; gives the count."""
        count = self._counts.pop(sequence, 0) + 1
        self._counts[sequence] = count
        if len(self._counts) > self._limit:
            del self._counts[next(iter(self._counts))]
        return count

    def forget(self, sequence: int) -> None:
        """It was handled, or given up."""
        self._counts.pop(sequence, None)
