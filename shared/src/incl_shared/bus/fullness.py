"""How full the streams are that a service reads: those that take nothing more when they are full."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import nats.errors
from nats.js.api import DiscardPolicy

if TYPE_CHECKING:
    from incl_shared.bus.client import BusClient

EVERY_S = 15.0
_log = logging.getLogger("incl.bus")


async def watch(
    client: BusClient, streams: Iterable[str], tell: Callable[[str, float], None], every_s: float = EVERY_S
) -> None:
    """Until it is cancelled: `tell(stream, used)`, used from 0 to 1 of the stream's max_bytes."""
    wanted = sorted(set(streams))
    while wanted:
        for stream in wanted:
            try:
                used = await _used(client, stream)
            except (nats.errors.Error, OSError) as error:  # the bus is away, or has no such stream: others tell of it
                _log.debug("how full %s is, is not known: %s", stream, error)
                continue
            if used is not None:
                tell(stream, used)
        await asyncio.sleep(every_s)


async def _used(client: BusClient, stream: str) -> float | None:
    """None: it has no limit, or drops the oldest instead of refusing."""
    info = await client.jetstream().stream_info(stream)
    limit = info.config.max_bytes or -1
    return info.state.bytes / limit if limit > 0 and info.config.discard == DiscardPolicy.NEW else None
