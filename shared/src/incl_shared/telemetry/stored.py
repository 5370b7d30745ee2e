"""What the tracker has stored of one job: heard as it happens, and asked for when nothing is heard."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from incl_shared.errors import InclError, NotFoundError
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.telemetry")
FIRST_S, LAST_S = 1.0, 10.0
"""Between two questions; jittered, so that the jobs of a node, or of a cluster, do not ask at the same time."""


class Tracker(Protocol):
    """The way to the tracker that a job has: a port."""

    async def watermarks(self) -> Mapping[str, int]:
        """Ask up to which record each writer ('<stream>/<writer>') is stored.

        Raises:
            NotFoundError: the experiment is purged.
            InclError: no answer.
        """
        ...

    async def listen(self, heard: Callable[[Mapping[str, int]], None]) -> None:
        """From now on tell of watermarks as the tracker says them. Raises an InclError when it cannot now."""
        ...


class Stored:
    """Watermarks of one job, for its shippers. every_s: seconds between two questions, at first."""

    def __init__(self, tracker: Tracker, *, every_s: float = FIRST_S) -> None:
        self._every_s = every_s
        self.marks: dict[str, int] = {}
        self.answers = 0
        """How often the tracker answered."""
        self.silent = False
        """The last question had no answer."""
        self.gone = False
        """The experiment is purged: nobody wants its telemetry any more."""
        self._tracker = tracker
        self._wanted = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this whenever something is known anew."""
        self._listeners.append(listener)

    def of(self, stream: str) -> dict[str, int]:
        """The watermarks of one stream, by writer."""
        start = f"{stream}/"
        return {key.removeprefix(start): mark for key, mark in self.marks.items() if key.startswith(start)}

    def start(self) -> None:
        """Listen in the background."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="stored")

    async def stop(self) -> None:
        """Listen no more."""
        task, self._task = self._task, None
        await end_all((task,))

    def ask(self) -> None:
        """Somebody waits for news."""
        self._wanted.set()

    def heard(self, marks: Mapping[str, int]) -> None:
        """The tracker said, unasked. It may be older than an answer."""
        for key, mark in marks.items():
            self.marks[key] = max(mark, self.marks.get(key, 0))
        self.silent = False
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    async def _run(self) -> None:
        delay = self._every_s
        while not await self._listening():
            delay = await self._rest(delay, 2.0)
        delay = self._every_s
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            known = self.marks
            if await self._asked() and self.marks != known:
                delay = self._every_s
            delay = await self._rest(delay, 1.5)

    async def _rest(self, delay: float, slower: float) -> float:
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
        return min(delay * slower, LAST_S / FIRST_S * self._every_s)

    async def _listening(self) -> bool:
        try:
            await self._tracker.listen(self.heard)
        except (InclError, OSError, TimeoutError) as error:
            _log.debug("no word of what is stored yet: %s", error)
            return False
        return True

    async def _asked(self) -> bool:
        try:
            answer = dict(await self._tracker.watermarks())
        except NotFoundError:
            self.gone = True
            self._tell()
            return False
        except (InclError, OSError, TimeoutError) as error:
            _log.debug("the tracker does not say what is stored: %s", error)
            self.silent = True
            self._tell()
            return False
        self.marks, self.silent = answer, False
        self.answers += 1
        self._tell()
        return True


def read_marks(payload: bytes) -> dict[str, int]:
    """The watermarks of a message on incl.stored.…; none of one that is not understood."""
    with suppress(ValueError, AttributeError, TypeError):
        return {str(key): int(mark) for key, mark in json.loads(payload).items()}
    return {}
