"""The tracker as `incl up` makes it, alone in a process (support.serve), and questions put to it in there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from incl_shared.bus.metrics import BusMetrics
from incl_shared.bus.runtime import Bus
from incl_shared.bus.serve import QueryServer
from incl_shared.queries.base import Query
from incl_shared.settings import BusSettings
from incl_tracker.app import App, create_app
from incl_tracker.settings import TrackerSettings
from support.loops import Loop

PROJECT, USER = "default", "ann"
_loop = Loop()
_state: dict[str, App] = {}
_questions = QueryServer("tracker", BusMetrics("tracker"))


@dataclass
class _Message:
    """A question as the bus brings it; and the connection that its answer goes out on."""

    subject: str
    data: bytes
    reply: str = "here"
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    failed: bool = False

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """A part of the answer."""
        self.parts.append(payload)
        self.failed = self.failed or "Incl-Error" in (headers or {})


def start(database: str, bus: str) -> float:
    """Make and start it. Returns seconds."""
    began = time.monotonic()
    serve = Bus.serve

    def also_here(self: Bus, kind: type[Query[Any]], handler: Any) -> None:
        _questions.add(kind, handler)
        serve(self, kind, handler)

    Bus.serve = also_here  # type: ignore[method-assign,assignment]
    settings = TrackerSettings(database_url=database, bus=BusSettings(urls=(bus,), name="tracker"))
    _state["app"] = create_app(settings)
    _loop.run(_state["app"].start())
    return time.monotonic() - began


def stop() -> float:
    """Stop it. Returns seconds."""
    began = time.monotonic()
    _loop.run(_state.pop("app").stop())
    return time.monotonic() - began


def ask(questions: list[list[str]]) -> dict[str, list[Any]]:
    """Put (name, JSON) questions to it, one after the other, past the bus: milliseconds of each from the payload of the
    question to the payload of the answer, the answer's bytes, and the last answer's text."""
    taken, sizes, answer = [], [], b""
    for name, data in questions:
        message = _Message(f"incl.query.{PROJECT}.{USER}.tracker.{name}", data.encode())
        milliseconds = _loop.run(_answer(message))
        answer = b"".join(message.parts)
        assert not message.failed, answer.decode()
        taken.append(milliseconds)
        sizes.append(len(answer))
    return {"ms": taken, "bytes": sizes, "last": [answer.decode()] if len(questions) == 1 else []}


async def _answer(message: _Message) -> float:
    began = time.perf_counter()
    await _questions.answer(message, message)  # type: ignore[arg-type]
    return (time.perf_counter() - began) * 1000
