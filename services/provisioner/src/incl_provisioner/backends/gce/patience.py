"""Waits for answers, and says so while there is none: what is told does not depend on how long a call may last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import replace
from typing import Any, TypeVar

from incl_provisioner.backends.gce.port import CloudFailure
from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.gangs import NO_ANSWER
from incl_shared.clock import Clock

T = TypeVar("T")
_TIMEOUT = "timeout"
Late = Callable[[Verdict], Awaitable[None]]


def no_answer(seconds: float) -> Verdict:
    """What is said of a call that had no answer for so long."""
    span = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return Verdict(
        Meaning.TRANSIENT, Scope.NONE, 0.0, NO_ANSWER, f"Compute Engine has not answered for {span}",
        "nothing to do: it is asked again and again; is it well, and does the platform reach it?",
    )  # fmt: skip


class Patience:
    """Args: quiet_s: after so long (s) without an answer it is said, and again each time that has doubled."""

    def __init__(self, clock: Clock, quiet_s: float) -> None:
        self._clock, self._quiet_s = clock, quiet_s
        self._since: dict[Hashable, float] = {}
        """When the first call of those that had no answer was made (monotonic), by what it is about."""

    async def answer(self, about: Hashable, call: Coroutine[Any, Any, T], late: Late) -> T:
        """The answer of a call. late: told while there is none.

        Raises:
            CloudFailure: of the call; where that had no answer in time, it says for how long there was none.
        """
        since = self._since.setdefault(about, self._clock.monotonic())
        task = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait((task,), timeout=self._next(since)))[0]:
                await late(no_answer(self._clock.monotonic() - since))
            found = task.result()
        except CloudFailure as error:
            if error.status is None and error.verdict.reason == _TIMEOUT:
                said = no_answer(self._clock.monotonic() - since)
                error.verdict = replace(error.verdict, message=said.message, hint=said.hint)
            else:
                self._since.pop(about, None)
            raise
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
        self._since.pop(about, None)
        return found

    def forget(self, kept: Callable[[Hashable], bool]) -> None:
        """Of what is waited for no more nothing is remembered."""
        self._since = {about: at for about, at in self._since.items() if kept(about)}

    def _next(self, since: float) -> float:
        """Seconds until it is said the next time."""
        silent, limit = self._clock.monotonic() - since, self._quiet_s
        while limit <= silent:
            limit *= 2.0
        return limit - silent
