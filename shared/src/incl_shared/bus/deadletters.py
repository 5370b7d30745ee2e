"""Dead letters: messages that can never be handled, kept with the reason; listed and replayed by an administrator.

A dead letter is the message as it was (payload and headers), with `Incl-Dead-*` headers that say where it came from
and why it is here. A replay publishes it again on its own subject, with its own event id: the consumer that gave it up
has no trace of it in its inbox and handles it, others skip what they have handled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nats.js.errors import NotFoundError as StreamNotFound

from incl_shared import subjects
from incl_shared.bus import envelope as wire
from incl_shared.bus.topology import ADVISORIES, DEAD
from incl_shared.errors import ConflictError, InvalidInput, NotFoundError

if TYPE_CHECKING:
    from incl_shared.bus.client import BusClient
    from incl_shared.bus.delivery import Delivery

PREFIX = "Incl-Dead-"
_REASON_MAX = 1000
_TRUNCATED = 512 * 1024


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter. sequence: in DEAD. time: epoch s when it died. truncated: too large to be kept whole."""

    sequence: int
    subject: str
    stream: str
    durable: str
    reason: str
    deliveries: int
    time: float
    type: str
    id: str
    size: int
    truncated: bool = False


async def bury(client: BusClient, delivery: Delivery, durable: str, reason: str) -> None:
    """Store a message as a dead letter; it may be acknowledged once this returns.

    Raises:
        UnavailableError: it is not stored.
    """
    headers = {key: value for key, value in delivery.headers.items() if not key.lower().startswith("nats-")}
    headers |= {
        f"{PREFIX}Subject": delivery.subject,
        f"{PREFIX}Reason": " ".join(reason.split())[:_REASON_MAX],
        f"{PREFIX}Stream": delivery.stream,
        f"{PREFIX}Durable": durable,
        f"{PREFIX}Sequence": str(delivery.sequence),
        f"{PREFIX}Deliveries": str(delivery.deliveries),
        f"{PREFIX}Time": f"{time.time():.3f}",
        f"{PREFIX}Id": delivery.id,
    }
    subject = subjects.dead(delivery.stream, durable)
    message_id = f"dead:{delivery.stream}:{durable}:{delivery.sequence}"
    try:
        await client.publish_confirmed(subject, delivery.payload, message_id=message_id, headers=headers)
    except InvalidInput:
        headers[f"{PREFIX}Truncated"] = str(len(delivery.payload))
        part = delivery.payload[:_TRUNCATED]
        await client.publish_confirmed(subject, part, message_id=message_id, headers=headers)


async def list_dead(client: BusClient, *, limit: int = 1000, after: int = 0) -> list[DeadLetter]:
    """The oldest dead letters beyond a sequence."""
    found: list[DeadLetter] = []
    js, sequence = client.jetstream(), after + 1
    while len(found) < limit:
        try:
            message = await js.get_msg(DEAD, seq=sequence, subject=">", next=True)
        except StreamNotFound:
            break
        number = int(message.seq or 0)
        found.append(_letter(number, message.subject or "", message.data or b"", message.headers or {}))
        sequence = number + 1
    return found


async def replay(client: BusClient, sequence: int) -> DeadLetter:
    """Publish a dead letter again where it came from, and delete it once that is stored.

    Raises:
        NotFoundError: no such dead letter.
        ConflictError: it was not kept whole.
    """
    js = client.jetstream()
    try:
        message = await js.get_msg(DEAD, seq=sequence)
    except StreamNotFound as error:
        raise NotFoundError(f"no dead letter {sequence}", hint="see: incl admin dead-letters ls") from error
    headers, payload = dict(message.headers or {}), message.data or b""
    letter = _letter(sequence, message.subject or "", payload, headers)
    if letter.truncated:
        raise ConflictError(
            f"dead letter {sequence} was too large to be kept whole", hint="send it again at its source"
        )
    subject = letter.subject
    if (message.subject or "").startswith(_ADVISORY):
        subject, payload, headers = await _original(client, letter)
    sent = {key: value for key, value in headers.items() if not key.startswith((PREFIX, "Nats-"))}
    await client.publish_confirmed(subject, payload, message_id=f"replay:{sequence}:{letter.id}"[:120], headers=sent)
    await js.delete_msg(DEAD, sequence)
    return letter


_ADVISORY = ADVISORIES.removesuffix(">")


async def _original(client: BusClient, letter: DeadLetter) -> tuple[str, bytes, dict[str, str]]:
    try:
        message = await client.jetstream().get_msg(letter.stream, seq=int(letter.id))
    except StreamNotFound as error:
        raise NotFoundError(f"message {letter.id} of {letter.stream} is gone") from error
    return subjects.unpartitioned(message.subject or ""), message.data or b"", dict(message.headers or {})


def _letter(sequence: int, subject: str, payload: bytes, headers: Mapping[str, str]) -> DeadLetter:
    if subject.startswith(_ADVISORY):
        return _advisory(sequence, payload)
    return DeadLetter(
        sequence=sequence,
        subject=headers.get(f"{PREFIX}Subject", ""),
        stream=headers.get(f"{PREFIX}Stream", ""),
        durable=headers.get(f"{PREFIX}Durable", ""),
        reason=headers.get(f"{PREFIX}Reason", ""),
        deliveries=int(headers.get(f"{PREFIX}Deliveries", "0")),
        time=float(headers.get(f"{PREFIX}Time", "0")),
        type=headers.get("ce-type", ""),
        id=headers.get(f"{PREFIX}Id", headers.get(wire.MESSAGE_ID, "")),
        size=int(headers.get(f"{PREFIX}Truncated", len(payload))),
        truncated=f"{PREFIX}Truncated" in headers,
    )


def _advisory(sequence: int, payload: bytes) -> DeadLetter:
    said = json.loads(payload)
    return DeadLetter(
        sequence=sequence, subject="", stream=said.get("stream", ""), durable=said.get("consumer", ""),
        reason="delivered too often", deliveries=int(said.get("deliveries", 0)), time=0.0, type="advisory",
        id=str(said.get("stream_seq", "")), size=len(payload),
    )  # fmt: skip
