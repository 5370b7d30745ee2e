"""Sends what the node has to say: the journal in order, and heartbeats beside it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable

from incl_agent.journal import Journal
from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.errors import InclError
from incl_shared.reports import AnyReport, NodeHeartbeat, Report

_log = logging.getLogger("incl.agent")
_RETRY_S = 1.0
_BATCH = 100


class Reporter:
    """One task publishes the journal's entries one after the other, so that they arrive in order, each once."""

    def __init__(self, client: BusClient, journal: Journal, node: str) -> None:
        self._client = client
        self._journal = journal
        self._node = node
        self._subject = subjects.report(node)
        self.failures = 0

    def say(self, key: str, body: AnyReport) -> asyncio.Future[None]:
        """Journal a report, once for each key; it is sent as soon as the bus is there. Done when it is on disk."""
        return self._journal.append(key, body)

    @property
    def unsent(self) -> int:
        """Reports that the bus has not taken yet."""
        return self._journal.waiting

    async def say_again(self) -> None:
        """Say once more what was said of the jobs that are here; who has heard it knows it by its number."""
        await self._journal.say_again()

    async def said(self, key: str) -> bool:
        """Whether this was journaled before."""
        return await self._journal.has(key)

    def forget(self, job: str) -> None:
        """The job's folder is gone: what was said of it need not be remembered."""
        self._journal.forget(job)

    async def send_all(self) -> None:
        """Send for ever."""
        while True:
            await self._journal.fresh.wait()
            self._journal.fresh.clear()
            try:
                while await self._send_batch():
                    pass
            except sqlite3.Error as error:  # what was sent and not noted is sent again under the same ids
                self.failures += 1
                _log.warning("reports wait for the disk: %s", error)
                self._journal.fresh.set()
                await asyncio.sleep(_RETRY_S)

    async def _send_batch(self) -> bool:
        """Send the oldest entries. Whether more may be waiting that `fresh` does not tell of."""
        entries = await self._journal.unsent(_BATCH)
        more = len(entries) == _BATCH
        sent: list[int] = []
        try:
            for entry in entries:
                await self._client.publish_confirmed(self._subject, entry.payload, message_id=entry.message_id)
                sent.append(entry.seq)
        except InclError as error:
            self.failures += 1
            _log.warning("reports wait: %s", error)
            await asyncio.sleep(_RETRY_S)
            more = True
        finally:
            if sent:
                await self._journal.confirm(sent)
        return more

    async def heartbeats(
        self, every_s: float, state: Callable[[], NodeHeartbeat], heard: Callable[[float], None]
    ) -> None:
        """Say for ever that the node lives. A beat that cannot be sent now is not sent later.

        heard: told, for each beat that the bus took, when it was sent (monotonic).
        """
        while True:
            if self._client.connected:
                sent = time.monotonic()
                if await self._beat(state(), every_s):
                    heard(sent)
            await asyncio.sleep(every_s)

    async def _beat(self, body: NodeHeartbeat, every_s: float) -> bool:
        now = time.time()
        report = Report(node=self._node, journal=self._journal.name, seq=0, time=now, body=body)
        try:
            await self._client.publish_confirmed(
                self._subject,
                report.model_dump_json().encode(),
                message_id=f"{self._node}:{self._journal.name}:beat:{now:.3f}",
                timeout=every_s,
            )
        except InclError as error:
            self.failures += 1
            _log.warning("a heartbeat was not taken: %s", error)
            return False
        return True
