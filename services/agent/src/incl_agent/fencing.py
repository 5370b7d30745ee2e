"""The node fences itself: when it is cut off, its jobs end before the server gives their work to another machine.

The server counts the silence of a node from its last word, and only while it hears the bus itself. The node counts from
when it sent the last word that the bus has confirmed, which is earlier. It cannot know whether it is cut off or the bus
is away (the jobs are to go on then), so it asks the network: an address of the bus that answers at all, be it with a
refusal, is reached, and the bus is what is away. Only where nothing answers its silence counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from urllib.parse import urlsplit

from incl_shared.clock import Clock

_log = logging.getLogger("incl.agent")
ASK_AT = 1 / 3
"""Of the lease: silent for so long, the network is asked."""
STOP_AT = 0.65
"""Of the lease: the jobs are told to end (SIGTERM)."""
KILL_AT = 0.9
"""Of the lease: what has not ended is killed. The rest is the margin for the kernel, and for a busy machine."""
PROBE_S = 2.0
_LOOK_S = 1.0
_DEFAULT_PORT = 4222


class Reach(Enum):
    """What an address of the bus says to a new connection."""

    SPEAKS = "speaks"
    """The bus is there."""
    DUMB = "dumb"
    """Its machine answers (it refuses, or is silent once connected), the bus does not: the bus is away."""
    CUT = "cut"
    """Nothing answers."""


async def probe(urls: Iterable[str], seconds: float = PROBE_S) -> Reach:
    """Ask all addresses at once; the best answer counts."""
    found = await asyncio.gather(*(_probe(url, seconds) for url in urls))
    return next((reach for reach in (Reach.SPEAKS, Reach.DUMB) if reach in found), Reach.CUT)


async def _probe(url: str, seconds: float) -> Reach:
    place = urlsplit(url if "//" in url else f"nats://{url}")
    try:
        opening = asyncio.open_connection(place.hostname, place.port or _DEFAULT_PORT)
        reader, writer = await asyncio.wait_for(opening, seconds)
    except (ConnectionRefusedError, ConnectionResetError):
        return Reach.DUMB
    except (OSError, TimeoutError):
        return Reach.CUT
    try:
        word = await asyncio.wait_for(reader.read(4), seconds)
    except (OSError, TimeoutError):
        word = b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return Reach.SPEAKS if word == b"INFO" else Reach.DUMB


class Fence:
    """Counts the node's silence by the monotonic clock. `heard` after each word that the bus took.

    stop(message): the jobs are to end. kill(): what of them still runs is killed. renew(): open a new connection, the
    old one may hang on packets that got lost.
    """

    def __init__(
        self,
        clock: Clock,
        ask: Callable[[], Awaitable[Reach]],
        *,
        stop: Callable[[str], None],
        kill: Callable[[], None],
        renew: Callable[[], Awaitable[None]],
    ) -> None:
        self.lease_s: float | None = None
        """What the server said; none: it did not say, and nothing is fenced."""
        self.renewed: Callable[[float], None] = lambda _: None
        """Told the same as `heard`, and when the bus was seen to be away itself."""
        self.fenced = self.failures = 0
        """How often jobs were ended; how often looking at the silence failed."""
        self._clock = clock
        self._ask = ask
        self._stop = stop
        self._kill = kill
        self._renew = renew
        self._last = clock.monotonic()
        self._stopped = self._killed = False

    @property
    def silence_s(self) -> float:
        """Seconds since the bus took our last word, without the time in which it was away itself."""
        return self._clock.monotonic() - self._last

    def heard(self, sent: float) -> None:
        """The bus took what was sent at this monotonic time."""
        if sent > self._last:
            self.renewed(sent)
            self._begin_again(sent)

    def _begin_again(self, since: float) -> None:
        self._last = since
        self._stopped = self._killed = False

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._pause_s())
            try:
                await self.step()
            except Exception:  # noqa: BLE001 - the edge of the loop
                self.failures += 1
                _log.exception("the silence of this node could not be looked at")

    def _pause_s(self) -> float:
        """Until the next look: a word that was just heard lasts for a while."""
        lease = self.lease_s
        if lease is None:
            return _LOOK_S
        return min(_LOOK_S, max(lease / 30, lease * ASK_AT - self.silence_s))

    async def step(self) -> None:
        """Look once."""
        lease = self.lease_s
        if lease is None or self.silence_s < lease * ASK_AT:
            return
        asked = self._clock.monotonic()
        reach = await self._ask()
        if reach is Reach.DUMB:
            self.heard(asked)
        elif reach is Reach.SPEAKS:  # no word of ours was taken: shims are promised nothing
            self._begin_again(asked)
            await self._renew()
        elif self.silence_s >= lease * STOP_AT:
            self._act(lease)

    def _act(self, lease: float) -> None:
        silence = self.silence_s
        if not self._stopped:
            self._stopped = True
            self.fenced += 1
            _log.error(
                "cut off from the bus for %.0f s: the jobs end before their lease of %.0f s does", silence, lease
            )
            self._stop(f"this machine was cut off from the bus for {silence:.0f} s, its lease is {lease:.0f} s")
        if silence >= lease * KILL_AT and not self._killed:
            self._killed = True
            self._kill()
