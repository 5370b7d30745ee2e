"""The envelope of an event: CloudEvents attributes and W3C trace context in NATS headers.

Sources: https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md (binary mode),
https://www.w3.org/TR/trace-context/. `ce-inclversion` is the version of the aggregate after the event.
"""

from __future__ import annotations

import contextvars
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from incl_shared.subjects import event as event_subject
from incl_shared.subjects import request as request_subject

if TYPE_CHECKING:
    from incl_shared.events.base import Event

MESSAGE_ID = "Nats-Msg-Id"
TRACEPARENT = "traceparent"
_TRACE = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")

current_trace: contextvars.ContextVar[str | None] = contextvars.ContextVar("incl_traceparent", default=None)
"""The traceparent of what is being done now; set while a delivery or a query is handled."""


@dataclass(frozen=True)
class Envelope:
    """What is said about an event. time: seconds since the epoch."""

    id: str
    source: str
    type: str
    subject: str
    time: float
    version: int
    traceparent: str | None = None


def new_trace() -> str:
    """The traceparent of a new trace."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def child_trace(parent: str | None = None) -> str:
    """A new span of the given trace, of the current one, or of a new one."""
    match = _TRACE.fullmatch(parent or current_trace.get() or "")
    return f"00-{match[1]}-{os.urandom(8).hex()}-01" if match else new_trace()


def trace_id(traceparent: str | None) -> str | None:
    """The 32 hexadecimal digits that name the trace."""
    match = _TRACE.fullmatch(traceparent or "")
    return match[1] if match else None


def subject_of(event: Event, *, project: str, user: str | None = None) -> str:
    """Where an event belongs: REQUESTS (needs a user) or EVENTS."""
    if type(event).stream == "REQUESTS":
        if user is None:
            raise ValueError(f"{event.type_name()} is a request: it needs a user")
        return request_subject(project, user, type(event).aggregate, event.key)
    return event_subject(project, type(event).aggregate, event.key)


def headers_of(envelope: Envelope) -> dict[str, str]:
    """The envelope as headers."""
    headers = {
        MESSAGE_ID: envelope.id,
        "ce-specversion": "1.0",
        "ce-id": envelope.id,
        "ce-source": envelope.source,
        "ce-type": envelope.type,
        "ce-subject": envelope.subject,
        "ce-time": datetime.fromtimestamp(envelope.time, UTC).isoformat(timespec="microseconds"),
        "ce-inclversion": str(envelope.version),
        "content-type": "application/json",
    }
    if envelope.traceparent is not None:
        headers[TRACEPARENT] = envelope.traceparent
    return headers


def encode(event: Event, envelope: Envelope) -> tuple[bytes, dict[str, str]]:
    """(payload, headers) of an event."""
    return event.model_dump_json().encode(), headers_of(envelope)


def decode(headers: Mapping[str, str]) -> Envelope | None:
    """The envelope in headers, or none where they hold none.

    Raises:
        ValueError: when it is there but broken.
    """
    if "ce-id" not in headers or "ce-type" not in headers:
        return None
    stamp = headers.get("ce-time")
    return Envelope(
        id=headers["ce-id"],
        source=headers.get("ce-source", ""),
        type=headers["ce-type"],
        subject=headers.get("ce-subject", ""),
        time=datetime.fromisoformat(stamp).timestamp() if stamp else 0.0,
        version=int(headers.get("ce-inclversion", "0")),
        traceparent=headers.get(TRACEPARENT),
    )
