"""What a consumer's handler gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

import incl_shared.events  # noqa: F401 - fills the register
from incl_shared import subjects
from incl_shared.bus import envelope as wire
from incl_shared.bus.errors import Poison
from incl_shared.events.base import REGISTER, Event

if TYPE_CHECKING:
    from nats.aio.msg import Msg


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of a durable.

    subject: on which it was sent (without the partition that METRICS and LOGS store).
    id: the event's (CloudEvents), else the message id, else stream and sequence. time: epoch s, when it was said, else
    stored. version: of the aggregate, 0 where there is none. sequence: in the stream. deliveries: 1 the first time.
    """

    subject: str
    payload: bytes
    headers: Mapping[str, str]
    id: str
    type: str
    time: float
    version: int
    stream: str
    sequence: int
    deliveries: int
    traceparent: str | None

    def event(self) -> Event:
        """The event of its type, read tolerantly.

        Raises:
            Poison: unknown type, or not what the type says.
        """
        kind = REGISTER.get(self.type)
        if kind is None:
            raise Poison(f"unknown event type {self.type!r}")
        try:
            return kind.read(self.payload)
        except ValidationError as error:
            raise Poison(f"not a valid {self.type}: {error}") from error


def delivery_of(message: Msg) -> Delivery:
    """A message of JetStream as a delivery.

    Raises:
        Poison: when its envelope is broken.
    """
    headers, metadata = message.headers or {}, message.metadata
    try:
        said = wire.decode(headers)
    except ValueError as error:
        raise Poison(f"broken envelope: {error}") from error
    sequence = metadata.sequence.stream
    return Delivery(
        subject=subjects.unpartitioned(message.subject),
        payload=message.data,
        headers=headers,
        id=said.id if said else headers.get(wire.MESSAGE_ID) or f"{metadata.stream}-{sequence}",
        type=said.type if said else "",
        time=said.time if said and said.time else metadata.timestamp.timestamp(),
        version=said.version if said else 0,
        stream=metadata.stream,
        sequence=sequence,
        deliveries=metadata.num_delivered,
        traceparent=headers.get(wire.TRACEPARENT),
    )
