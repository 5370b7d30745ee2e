"""Streams into files and back: what a backup has of the bus.

A copy holds messages, not the server's own files: a stream that is filled from it has other sequences, and its durables
begin anew. Whoever consumes knows by the ids what he has handled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats.errors
from nats.js.errors import NotFoundError

from incl_shared.archive.frames import BadFrames, FrameWriter, read_frames
from incl_shared.bus import envelope as wire
from incl_shared.errors import UnavailableError
from incl_shared.subjects import unpartitioned

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from incl_shared.bus.client import BusClient

KIND = "incl-stream"
_BATCH, _BATCH_BYTES = 500, 4 << 20
_PATIENCE_S = 10.0
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Message:
    """One stored message. subject: as it was sent."""

    sequence: int
    subject: str
    headers: dict[str, str]
    payload: bytes


async def last_sequence(client: BusClient, stream: str) -> int:
    """The sequence of a stream's newest message, 0 where there was none yet.

    Raises:
        UnavailableError: the server does not say.
    """
    try:
        info = await client.jetstream().stream_info(stream)
    except NotFoundError:
        return 0
    except (nats.errors.Error, TimeoutError) as error:
        raise UnavailableError(f"the stream {stream} cannot be read", cause=str(error), hint="incl doctor") from error
    return int(info.state.last_seq)


async def messages(client: BusClient, stream: str, *, after: int = 0, upto: int) -> AsyncIterator[Message]:
    """The messages of a stream in their order, with sequences in (after, upto].

    Raises:
        UnavailableError: the server does not give them.
    """
    following = after + 1
    while following <= upto:
        batch = await _batch(client, stream, following)
        for message in batch:
            if message.sequence > upto:
                return
            yield message
        if not batch:
            return
        following = batch[-1].sequence + 1


async def _batch(client: BusClient, stream: str, following: int) -> list[Message]:
    """As many as come at once (direct get of a batch), from a sequence on."""
    connection = client.connection
    inbox = connection.new_inbox()
    request = {"seq": following, "next_by_subj": ">", "batch": _BATCH, "max_bytes": _BATCH_BYTES}
    found: list[Message] = []
    try:
        subscription = await connection.subscribe(inbox)
        try:
            await connection.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
            while (message := await subscription.next_msg(timeout=_PATIENCE_S)) and _is_message(message):
                found.append(_read(message))
        finally:
            await subscription.unsubscribe()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise UnavailableError(f"the stream {stream} cannot be read", cause=str(error), hint="incl doctor") from error
    return found


def _is_message(message: Msg) -> bool:
    """False at the end of a batch (204), and where nothing is left (404)."""
    status = (message.headers or {}).get("Status")
    if status in (None, ""):
        return True
    if status in ("204", "404"):
        return False
    raise UnavailableError("the bus refuses to give its messages", cause=str(message.headers))


def _read(message: Msg) -> Message:
    headers = dict(message.headers or {})
    sequence, subject = int(headers["Nats-Sequence"]), headers["Nats-Subject"]
    kept = {key: value for key, value in headers.items() if not key.startswith("Nats-") or key == wire.MESSAGE_ID}
    return Message(sequence, unpartitioned(subject), kept, message.data)


async def write_copy(path: Path, stream: str, found: AsyncIterator[Message]) -> int:
    """Write messages to a file. Returns how many."""
    with FrameWriter(path, [KIND, 1, stream]) as file:
        async for message in found:
            file.add([message.sequence, message.subject, message.headers, message.payload])
    return file.count


def read_copy(path: Path, stream: str) -> Iterable[Message]:
    """The messages of a file.

    Raises:
        BadFrames: it is no copy of this stream, or not whole.
    """
    frames: Iterable[list[Any]] = read_frames(path, KIND)
    for number, frame in enumerate(frames):
        if number:
            yield Message(*frame)
        elif frame[2:] != [stream]:
            raise BadFrames(f"it is a copy of {frame[2:]}, not of {stream}")


async def fill(client: BusClient, found: Iterable[Message]) -> int:
    """Send messages again, in their order. Returns how many. What the server has already it does not store twice.

    Raises:
        UnavailableError, BackPressure: the server does not take them.
    """
    count, window = 0, []
    for message in found:
        window.append(message)
        if len(window) == _AT_ONCE:
            count += await _send(client, window)
            window = []
    return count + await _send(client, window)


async def _send(client: BusClient, window: list[Message]) -> int:
    await asyncio.gather(*(_send_one(client, message) for message in window))
    return len(window)


async def _send_one(client: BusClient, message: Message) -> None:
    headers = dict(message.headers)
    identifier = headers.pop(wire.MESSAGE_ID, "") or f"copied:{message.subject}:{message.sequence}"
    await client.publish_confirmed(
        message.subject, message.payload, message_id=identifier, headers=headers, timeout=60.0
    )
