"""Answering queries: typed, bounded in number and time, always a value or an error envelope, large answers in parts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import nats.errors
from pydantic import ValidationError

from incl_shared.bus import envelope as wire
from incl_shared.bus.calls import MORE, PART
from incl_shared.bus.client import ERROR_HEADER
from incl_shared.errors import DeniedError, InclError, InternalError, InvalidInput, NotFoundError, UnavailableError
from incl_shared.subjects import SYSTEM_PROJECT, Asker, parse_query

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from incl_shared.bus.metrics import BusMetrics
    from incl_shared.queries.base import Answer, Query

_log = logging.getLogger("incl.bus")
PART_BYTES = 256 * 1024
WORKERS = 32
TIME_LIMIT_S = 30.0

QueryHandler = Callable[[Asker, Any], Awaitable["Answer"]]


class QueryServer:
    """The questions of one service."""

    def __init__(self, service: str, metrics: BusMetrics, *, time_limit: float = TIME_LIMIT_S) -> None:
        self.service = service
        self._metrics = metrics
        self._time_limit = time_limit
        self._handlers: dict[str, tuple[type[Query[Any]], QueryHandler]] = {}

    @property
    def subject(self) -> str:
        """What the service listens on."""
        return f"incl.query.*.*.{self.service}.*"

    @property
    def names(self) -> tuple[str, ...]:
        """The questions that have a handler."""
        return tuple(self._handlers)

    def add(self, kind: type[Query[Any]], handler: QueryHandler) -> None:
        """Answer a question."""
        if kind.service != self.service:
            raise ValueError(f"{kind.__name__} is a question to {kind.service}, not to {self.service}")
        if kind.name in self._handlers:
            raise ValueError(f"{kind.name} has a handler already")
        self._handlers[kind.name] = (kind, handler)

    async def answer(self, connection: Client, message: Msg) -> None:
        """Answer one message; nothing is raised."""
        if not message.reply:
            return
        headers = message.headers or {}
        token = wire.current_trace.set(headers.get(wire.TRACEPARENT))
        try:
            payload, error = await self._result(message, headers)
            await _reply(connection, message.reply, payload, {ERROR_HEADER: "1"} if error else {})
        except (nats.errors.Error, OSError) as error:
            _log.warning("an answer could not be sent: %s", error)
        finally:
            wire.current_trace.reset(token)

    async def _result(self, message: Msg, headers: dict[str, str]) -> tuple[bytes, bool]:
        name, started = "unknown", time.perf_counter()
        try:
            asker, _, asked = parse_query(message.subject)
            found = self._find(asked)
            name = asked
            answer = await self._ask(found, asker, message.data, _limit(headers, self._time_limit))
            return answer.model_dump_json().encode(), False
        except InclError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the asker gets an answer
            _log.error("the question %s failed", name, exc_info=error)
            failure = InternalError(
                f"the {self.service} could not answer {name}", cause=type(error).__name__,
                hint=f"see the log of the {self.service}",
            )  # fmt: skip
        finally:
            self._metrics.query_seconds.labels(name).observe(time.perf_counter() - started)
        self._metrics.query_errors.labels(name, failure.code).inc()
        return failure.envelope().model_dump_json().encode(), True

    def _find(self, asked: str) -> tuple[type[Query[Any]], QueryHandler]:
        found = self._handlers.get(asked)
        if found is None:
            raise NotFoundError(f"the {self.service} does not know the question {asked!r}")
        return found

    async def _ask(
        self, found: tuple[type[Query[Any]], QueryHandler], asker: Asker, payload: bytes, limit: float
    ) -> Answer:
        kind, handler = found
        if kind.operators and asker.project != SYSTEM_PROJECT:
            raise DeniedError(f"only the platform's operator may ask {kind.name}", hint="incl admin, as its owner")
        try:
            query = kind.model_validate_json(payload)
        except ValidationError as error:
            raise InvalidInput(f"not a valid {kind.name}", cause=str(error)) from error
        try:
            return await asyncio.wait_for(handler(asker, query), limit)
        except TimeoutError as error:
            raise UnavailableError(
                f"the {self.service} took longer than {limit:.0f} s", hint="ask for less, or try again"
            ) from error


def _limit(headers: dict[str, str], longest: float) -> float:
    try:
        return min(longest, max(0.1, float(headers.get("Incl-Timeout", longest))))
    except ValueError:
        return longest


async def _reply(connection: Client, inbox: str, payload: bytes, headers: dict[str, str]) -> None:
    count = max(1, -(-len(payload) // PART_BYTES))
    for index in range(count):
        said = dict(headers)
        if count > 1:
            said[PART] = str(index)
        if index < count - 1:
            said[MORE] = "1"
        await connection.publish(inbox, payload[index * PART_BYTES : (index + 1) * PART_BYTES], headers=said or None)
