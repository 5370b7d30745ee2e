"""Processes that compute proposals: no question holds the service up, and none takes more than one core.

A sweep has one question at a time, and users take turns: neither long histories nor many sweeps push others aside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from incl_hpo.turns import Turns
from incl_hpo.worker import LENGTH
from incl_shared.errors import InternalError
from incl_shared.tasks import within

_log = logging.getLogger("incl.hpo")
_INHERITED = ("LD_LIBRARY_PATH", "PATH")
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_TRIES = 2


class ProposalError(InternalError):
    """A proposal could not be computed."""


class WorkerPool:
    """Up to `size` processes, begun when there is work, and ended when there was none for `idle_s` seconds."""

    def __init__(self, size: int, limit_s: float, idle_s: float = 60.0) -> None:
        self._limit_s, self._idle_s = limit_s, idle_s
        self._turns = Turns(size)
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False
        self._ending: set[asyncio.Task[None]] = set()

    async def ask(self, question: Mapping[str, Any] | Callable[[], bytes], user: str = "") -> dict[str, Any]:
        """The answer of a process; a process that dies or takes too long is replaced, once.

        question: or what gives its text, asked for when it is its turn. user: whose turn it takes.

        Raises:
            ProposalError: it cannot be computed.
        """
        async with self._turns.of(user):
            text = question() if callable(question) else json.dumps(question).encode()
            for left in reversed(range(_TRIES)):
                try:
                    answer = await self._ask(text)
                    break
                except (OSError, TimeoutError, EOFError, ValueError) as error:
                    why = str(error) or type(error).__name__
                    _log.warning("a process that computes proposals is replaced: %s", why)
                    if not left:
                        raise ProposalError("no proposal could be computed", cause=why) from error
        if "error" in answer:
            raise ProposalError("no proposal could be computed", cause=str(answer["error"]))
        return answer

    async def _ask(self, text: bytes) -> dict[str, Any]:
        process = self._idle.pop() if self._idle else await _Process.begin()
        self._busy.add(process)
        try:
            answer = await within(self._limit_s, process.ask(text))
        except BaseException:
            self._end(process)
            raise
        finally:
            self._busy.discard(process)
        if self._closed:
            self._end(process)
        else:
            self._idle.append(process)
            self._rest()
        return answer

    def _rest(self) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        self._reaper = asyncio.get_running_loop().call_later(self._idle_s, self._let_go)

    def _let_go(self) -> None:
        while self._idle:
            self._end(self._idle.pop())

    def _end(self, process: _Process) -> None:
        """End it at once, as it holds nothing, and see that it has."""
        process.kill()
        task = asyncio.create_task(process.gone())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    @property
    def processes(self) -> list[int]:
        """The ids of those that live."""
        return [one.pid for one in (*self._idle, *self._busy)]

    async def close(self) -> None:
        """End them all, and wait until they have."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        self._let_go()
        for process in self._busy:
            process.kill()
        await asyncio.gather(*(process.gone() for process in self._busy), *self._ending)


class _Process:
    """One of them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def begin(cls) -> _Process:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= dict.fromkeys(_ONE_THREAD, "1")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-m", "incl_hpo.worker", env=environment, cwd="/", start_new_session=True,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return cls(process)

    async def ask(self, text: bytes) -> dict[str, Any]:
        """One question and its answer.

        Raises:
            OSError, EOFError: it died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(LENGTH.pack(len(text)) + text)
        await self._process.stdin.drain()
        head = await self._process.stdout.readexactly(LENGTH.size)
        answer: dict[str, Any] = json.loads(await self._process.stdout.readexactly(LENGTH.unpack(head)[0]))
        return answer

    def kill(self) -> None:
        """It holds nothing."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def gone(self) -> None:
        """Wait until it is."""
        await self._process.communicate()
