"""The pull loop of one durable, in place of FastStream's.

One inbox, requests that overlap, idle heartbeats. What FastStream's loop does not do (each with a regression test):

- a durable or a stream that was deleted is noticed (status message, or silence of the heartbeats) and the durable is
  made again; while that fails it waits, growing, and the health says why: no spinning, no silent zombie;
- a durable whose configuration drifted is noticed, at every (re)connect and every minute, and mended;
- a part of a batch is handled at once: FastStream 0.7.8 waits for the full batch until its timeout;
- a message larger than a batch may be is asked for by itself: the server gives nothing more of the durable else;
- messages that were fetched and not begun are given back when it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nats.errors

from incl_shared.bus.topology import Durable, ensure_durable
from incl_shared.tasks import within

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

_log = logging.getLogger("incl.bus")
EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
SILENCE_S = 12.0
CHECK_S = 60.0
PENDING_S = 15.0
_MAX_BACKOFF_S = 5.0
_DRAIN_S = 1.0


@dataclass
class PullState:
    """How a durable's consumption is. alive: monotonic time of the server's last word; trouble: empty when well.

    pending: messages that are not fetched yet, when last told. oldest: when the first of the batch at hand was stored
    (epoch s), none while there is no batch. changed: called in the event loop when it was bound, or got into trouble.
    """

    durable: Durable
    alive: float = field(default_factory=time.monotonic)
    bound: bool = False
    trouble: str = ""
    rebound: int = 0
    pending: int = 0
    oldest: float | None = None
    changed: Callable[[], None] = lambda: None


class PullLoop:
    """Fetches batches of one durable and hands them over, one after the other."""

    def __init__(
        self,
        connection: Client,
        durable: Durable,
        consume: Callable[[list[Msg]], Awaitable[Any]],
        *,
        state: PullState,
        check_every: float = CHECK_S,
        silence: float = SILENCE_S,
    ) -> None:
        self._connection = connection
        self._durable = durable
        self._consume = consume
        self.state = state
        self._check_every = check_every
        self._silence = silence
        self._waiting: deque[Msg] = deque()
        self._held: list[Msg] = []
        self._wake = asyncio.Event()
        self._handling = asyncio.Lock()
        self._open = 0
        self._lost = False
        self._too_large = False
        self._checked = 0.0
        self._told = time.monotonic()
        self._reconnects = 0
        self._stopped = False
        self._inbox = ""
        self._subscription: Subscription | None = None

    def wake(self) -> None:
        """Look again now: the connection came back."""
        self._wake.set()

    async def finish(self) -> None:
        """Begin no batch any more, let the one at hand end, give the rest back.

        To be called before FastStream stops the subscriber: from then on it drops silently what it is given.
        """
        self._stopped = True
        self._wake.set()
        async with self._handling:
            await self.unsubscribe()

    async def unsubscribe(self) -> None:
        """Stop: nothing more is fetched, what was not begun is given back. (FastStream's name for it.)"""
        self._stopped = True
        self._wake.set()
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._connection.is_closed:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                ending: Any = subscription.drain if self._connection.is_connected else subscription.unsubscribe
                await asyncio.wait_for(ending(), _DRAIN_S)
        while self._waiting:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._waiting.popleft().nak()

    async def run(self) -> None:
        """Until it is stopped."""
        keeping = asyncio.create_task(self._keep_alive())
        try:
            await self._run_until_stopped()
        finally:
            keeping.cancel()

    async def _run_until_stopped(self) -> None:
        while not self._stopped:
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001 - the edge of the loop: it goes on, slowly
                _log.warning("the pull loop of %s failed", self._durable.name, exc_info=error)
                await self._trouble(f"{type(error).__name__}: {error}", 1.0)

    async def _run(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        self._open = 0
        self._inbox = self._connection.new_inbox()
        self._subscription = await self._connection.subscribe(self._inbox, cb=self._received, pending_bytes_limit=0)
        self._reconnects = self._connection.stats["reconnects"]
        await self._bind()
        while not self._stopped:
            await self._refresh()
            await self._request()
            async with self._handling:
                batch = self._held = [] if self._stopped else self._take()
                if batch:
                    self._tell(batch)
                    await self._consume(batch)
                self._held, self.state.oldest = [], None
            if not batch:
                await self._wait()

    async def _keep_alive(self) -> None:
        """Tell the server that what is here is worked on, so that it does not deliver it again."""
        while True:
            await asyncio.sleep(self._durable.ack_wait / 3)
            if time.monotonic() - self._told > PENDING_S and self._connection.is_connected:
                await self._ask_pending()
            for message in [*self._held, *self._waiting]:
                if not message.is_acked:
                    with contextlib.suppress(nats.errors.Error, OSError):
                        await message.in_progress()

    def _tell(self, batch: list[Msg]) -> None:
        """What the messages themselves say: how old they are, and how many are behind them."""
        first, last = batch[0].metadata, (self._waiting[-1] if self._waiting else batch[-1]).metadata
        self.state.oldest = first.timestamp.timestamp()
        self.state.pending = last.num_pending
        self._told = time.monotonic()

    async def _ask_pending(self) -> None:
        """Nothing came for a while: because there is nothing, or because nothing is fetched."""
        self._told = time.monotonic()
        with contextlib.suppress(nats.errors.Error, OSError):
            info = await self._connection.jetstream().consumer_info(self._durable.stream, self._durable.name)
            self.state.pending = info.num_pending or 0

    # --- the durable

    async def _refresh(self) -> None:
        reconnects = self._connection.stats["reconnects"]
        if reconnects != self._reconnects:
            self._reconnects, self._open = reconnects, 0
            await self._bind()
        elif self._lost or time.monotonic() - self._checked > self._check_every:
            await self._bind()

    async def _bind(self) -> None:
        """Make sure that the durable is there as declared; wait, growing, as long as it cannot be."""
        backoff, lost, self._lost = 0.05, self._lost, False
        while not self._stopped:
            try:
                done = await ensure_durable(self._connection.jetstream(), self._durable)
            except (nats.errors.Error, OSError) as error:
                await self._trouble(str(error) or type(error).__name__, backoff)
                backoff = min(backoff * 2, _MAX_BACKOFF_S)
                continue
            if done != "kept" or lost or not self.state.bound:
                _log.info("durable %s of %s: %s", self._durable.name, self._durable.stream, done)
                self.state.rebound += self.state.bound
                if done != "kept" or lost:
                    self._open = 0
            self.state.bound, self.state.trouble = True, ""
            self.state.alive = self._checked = time.monotonic()
            self.state.changed()
            return

    async def _trouble(self, text: str, seconds: float) -> None:
        if self.state.trouble != text:
            self.state.trouble = text
            _log.warning("durable %s of %s cannot be used: %s", self._durable.name, self._durable.stream, text)
            self.state.changed()
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await within(seconds * random.uniform(0.7, 1.3), self._wake.wait())  # noqa: S311

    # --- fetching

    async def _request(self) -> None:
        """Ask for more, so that the next batch comes while this one is handled."""
        held = self._open + len(self._waiting)
        if held > self._durable.batch // 2 or not self._connection.is_connected or self._stopped:
            return
        count = self._durable.batch - held
        body = {
            "batch": count, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9),
            "max_bytes": self._durable.batch_bytes,
        }  # fmt: skip
        if self._too_large:
            self._too_large = False
            count = body["batch"] = 1
            del body["max_bytes"]
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._durable.stream}.{self._durable.name}"
        self._open += count
        try:
            await self._connection.publish(subject, json.dumps(body).encode(), reply=self._inbox)
        except (nats.errors.Error, OSError) as error:
            self._open -= count
            await self._trouble(str(error), 0.5)

    def _take(self) -> list[Msg]:
        """The next batch: one message at least, then as many as its limits allow."""
        taken: list[Msg] = []
        size = 0
        while self._waiting and len(taken) < self._durable.batch:
            size += len(self._waiting[0].data)
            if taken and size > self._durable.batch_bytes:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _wait(self) -> None:
        self._wake.clear()
        if self._waiting or self._lost or self._stopped or self._connection.stats["reconnects"] != self._reconnects:
            return
        try:
            await within(min(self._silence, self._check_every), self._wake.wait())
        except TimeoutError:
            if self._connection.is_connected and time.monotonic() - self.state.alive > self._silence:
                self._lost = True

    async def _received(self, message: Msg) -> None:
        self.state.alive = time.monotonic()
        headers = message.headers
        status = headers.get("Status") if headers and not message.reply.startswith("$JS.ACK") else None
        if status is None:
            self._open = max(0, self._open - 1)
            self._waiting.append(message)
            self._wake.set()
        elif status != "100":
            self._status(status, headers or {})
            self._wake.set()

    def _status(self, status: str, headers: dict[str, str]) -> None:
        """The end of a request: 404 and 408 are usual, with what was left open; others mean that something changed."""
        left = headers.get("Nats-Pending-Messages")
        self._open = max(0, self._open - int(left)) if left is not None else 0
        text = headers.get("Description", "").lower()
        self._too_large = self._too_large or (status == "409" and "maxbytes" in text.replace(" ", ""))
        if status == "503" or (status == "409" and ("deleted" in text or "not found" in text)) or status == "400":
            self._open, self._lost = 0, True
