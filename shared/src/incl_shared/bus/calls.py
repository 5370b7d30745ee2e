"""Requests in flight on one connection: one inbox, answers of several parts, failure that is told at once.

An answer of several parts carries `Incl-More: 1` on all but the last, and `Incl-Part: <n>` (from 0) on each, so that a
part that got lost is noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from incl_shared.tasks import within

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

MORE = "Incl-More"
PART = "Incl-Part"


class Reply(NamedTuple):
    """A whole answer."""

    payload: bytes
    headers: Mapping[str, str]


class _Call:
    __slots__ = ("future", "parts", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.parts: list[bytes] = []
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()


class Calls:
    """The calls of one connection."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._inbox = ""
        self._next = 0
        self._deaf: Exception | None = None

    async def start(self, connection: Client) -> None:
        """Listen for answers."""
        self._deaf = None
        self._inbox = connection.new_inbox()
        await connection.subscribe(f"{self._inbox}.*", cb=self._received)

    async def call(
        self,
        connection: Client,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109
    ) -> Reply:
        """Send a message and wait for its answer.

        Raises:
            asyncio.TimeoutError: no answer, or no whole one, within `timeout` seconds.
            ConnectionAbortedError: the connection broke meanwhile.
            InclError: what `deny` or `fail` gave.
        """
        if self._deaf is not None:
            raise self._deaf
        self._next += 1
        token, call = str(self._next), _Call(subject)
        self._calls[token] = call
        try:
            await connection.publish(subject, payload, reply=f"{self._inbox}.{token}", headers=dict(headers) or None)
            return await within(timeout, call.future)
        finally:
            del self._calls[token]
            call.future.cancel()

    def deny(self, operation: str, subject: str, error: Exception) -> None:
        """The server does not allow a subject: fail what waits for it (all of it, where the inbox is not allowed).

        nats-py gives the subject in lower case.
        """
        name = subject.lower()
        if operation == "subscribe" and name.startswith(self._inbox.lower()):
            self._deaf = error
            self.fail(error)
        for call in self._calls.values():
            if operation == "publish" and call.subject.lower() == name:
                _fail(call, error)

    def interrupt(self) -> None:
        """The connection broke: who waits must send again."""
        self._deaf = None
        self.fail(ConnectionAbortedError("the connection broke"))

    def fail(self, error: Exception) -> None:
        """Fail all that waits."""
        for call in self._calls.values():
            _fail(call, error)

    async def _received(self, message: Msg) -> None:
        call = self._calls.get(message.subject.rpartition(".")[2])
        if call is None or call.future.done():
            return
        headers = message.headers or {}
        if int(headers.get(PART, len(call.parts))) != len(call.parts):
            _fail(call, ConnectionAbortedError("a part of the answer got lost"))
            return
        call.parts.append(message.data)
        if headers.get(MORE) is None:
            call.future.set_result(Reply(b"".join(call.parts), headers))


def _fail(call: _Call, error: Exception) -> None:
    if not call.future.done():
        call.future.set_exception(error)
