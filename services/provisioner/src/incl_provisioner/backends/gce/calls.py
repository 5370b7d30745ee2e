"""One call: at a pace, tried again where that makes sense."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from incl_provisioner.backends.gce.port import CloudFailure
from incl_provisioner.domain.cloud.errors import Meaning
from incl_shared.clock import Clock

T = TypeVar("T")
AGAIN = frozenset({Meaning.TRANSIENT, Meaning.BACK_OFF})


@dataclass(frozen=True, slots=True)
class Limits:
    """How calls are made. Durations in seconds.

    Attributes:
        threads: calls at once.
        per_s: calls a second; the provider allows 20 of most kinds.
        read_s, write_s: for one try.
        tries: of one call; 1: no retry.
        first_s, longest_s: the pauses between tries grow from the one to the other, each between a half and the whole.
    """

    threads: int = 10
    per_s: float = 18.0
    read_s: float = 20.0
    write_s: float = 30.0
    tries: int = 4
    first_s: float = 0.5
    longest_s: float = 8.0


class Calls:
    """Makes calls.

    Args:
        chance: of the pauses: gives numbers from 0 to 1.

    Attributes:
        made, failed: how often each was tried, and how often that failed, by reason.
    """

    def __init__(self, limits: Limits, clock: Clock, chance: Callable[[], float] = random.random) -> None:
        self._limits, self._clock, self._chance = limits, clock, chance
        self._next = 0.0
        self.made: Counter[str] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()

    async def make(self, name: str, once: Callable[[float], Awaitable[T]], *, write: bool) -> T:
        """The answer of a call.

        Args:
            name: such as instances.insert.
            once: one try; takes its timeout in seconds and raises CloudFailure. A write must be safe to repeat.

        Raises:
            CloudFailure: of the last try.
        """
        limit = self._limits.write_s if write else self._limits.read_s
        turn = 0
        unsure = False
        while True:
            await self._turn()
            self.made[name] += 1
            turn += 1
            try:
                return await once(limit)
            except CloudFailure as error:
                self.failed[name, error.verdict.reason] += 1
                error.unsure = unsure = unsure or error.unsure
                if error.verdict.meaning not in AGAIN or turn >= self._limits.tries:
                    raise
            pause = min(self._limits.longest_s, self._limits.first_s * 2.0 ** (turn - 1))
            await asyncio.sleep(pause * (0.5 + self._chance() / 2.0))

    async def _turn(self) -> None:
        """Wait until the next call may begin."""
        now = self._clock.monotonic()
        begin = max(now, self._next)
        self._next = begin + 1.0 / self._limits.per_s
        if begin > now:
            await asyncio.sleep(begin - now)
