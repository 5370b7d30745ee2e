"""A nats-server with JetStream in memory, and connections to it, in virtual time.

`FakeConnection` stands in for `incl_shared.bus.connection.HardenedClient`: BusClient, the pull loop and nats-py's own
JetStreamContext run on it unchanged. The part of JetStream that this project uses behaves as the real one's; the same
contract suite runs over both (shared/tests/bus/test_fake_nats.py). What goes wrong on the way is asked of `Wire`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from incl_shared.bus import topology
from incl_shared.tasks import within
from incl_shared.testing.fake_jetstream import JetStream, Packet, matches
from incl_shared.testing.virtual import HOST

if TYPE_CHECKING:
    from incl_shared.bus.connection import Callbacks
    from incl_shared.testing.virtual import Host, VirtualLoop

PING_TIMEOUT_S = 25.0
"""So long after the network went away a connection breaks."""
_BUFFER = 4096
_NOTES = ("_received", "_answered")
"""Callbacks that note what came and wait for nothing: no task is made for each of their messages."""


@dataclass
class Wire:
    """How messages travel. latency_s: from, to. loss: the part that gets lost either way."""

    numbers: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311
    latency_s: tuple[float, float] = (0.0002, 0.002)
    loss: float = 0.0

    def delay(self) -> float:
        """Seconds that the next message takes."""
        least, most = self.latency_s
        return least + (most - least) * self.numbers.random()

    def lost(self) -> bool:
        """Whether the next message gets lost."""
        return self.loss > 0.0 and self.numbers.random() < self.loss


class FakeServer:
    """One server. `up` says whether it answers; `cut_off` names hosts that the network does not reach."""

    def __init__(self, loop: VirtualLoop, wire: Wire | None = None, streams: Iterable[Any] | None = None) -> None:
        self.loop = loop
        self.wire = wire or Wire()
        self.up = True
        self.cut_off: set[str] = set()
        self.connections: list[FakeConnection] = []
        self.jetstream = JetStream(loop, self.send, streams if streams is not None else topology.streams())
        self.context = contextvars.Context()
        self._exact: dict[str, list[FakeSubscription]] = {}
        self._star: dict[str, list[FakeSubscription]] = {}
        self._tails: list[FakeSubscription] = []
        self._inboxes = 0

    # --- faults

    def stop(self) -> None:
        """It is gone: every connection breaks."""
        self.up = False
        for connection in list(self.connections):
            connection.broke()
        self.jetstream.forget_pulls()

    def start(self, state: object | None = None) -> None:
        """It is there again; with an older state where one is given (see `state`)."""
        self.up = True
        if state is not None:
            self.jetstream.restore(state)
        for connection in list(self.connections):
            connection.reconnect()

    def state(self) -> object:
        """What it has on disk."""
        return self.jetstream.state()

    def separate(self, host: str) -> None:
        """The network of a host is gone: messages wait; after a while its connections break."""
        self.cut_off.add(host)
        for connection in self._of(host):
            connection.separated()

    def join(self, host: str) -> None:
        """The network of a host is back."""
        self.cut_off.discard(host)
        for connection in self._of(host):
            connection.joined()

    def _of(self, host: str) -> list[FakeConnection]:
        return [connection for connection in self.connections if connection.place == host]

    # --- connections

    async def open(self, callbacks: Callbacks, place: str, patience_s: float) -> FakeConnection:
        """A connection, or TimeoutError."""
        until = self.loop.time() + patience_s
        while not self.reachable(place):
            if self.loop.time() >= until:
                raise TimeoutError
            await asyncio.sleep(0.25)
        await asyncio.sleep(self.wire.delay())
        return FakeConnection(self, callbacks, place)

    def reachable(self, place: str) -> bool:
        """Whether a host can connect now."""
        return self.up and place not in self.cut_off

    def inbox(self) -> str:
        """A name that nobody has."""
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    def add(self, subscription: FakeSubscription) -> None:
        """Somebody listens."""
        self._list(subscription.subject).append(subscription)

    def remove(self, subscription: FakeSubscription) -> None:
        """Nobody listens any more."""
        with contextlib.suppress(ValueError):
            self._list(subscription.subject).remove(subscription)

    def _list(self, subject: str) -> list[FakeSubscription]:
        if subject.endswith(".>") or "*" in subject.removesuffix(".*"):
            return self._tails
        if subject.endswith(".*"):
            return self._star.setdefault(subject.removesuffix(".*"), [])
        return self._exact.setdefault(subject, [])

    def interested(self, subject: str) -> bool:
        """Whether anybody listens to a subject."""
        return bool(self._listeners(subject))

    def _listeners(self, subject: str) -> list[FakeSubscription]:
        found = [*self._exact.get(subject, ()), *self._star.get(subject.rpartition(".")[0], ())]
        if self._tails:
            found += [one for one in self._tails if matches(one.subject, subject)]
        return [one for one in found if one.connection.is_connected]

    # --- messages

    def receive(self, packet: Packet) -> None:
        """A message arrives."""
        if not self.up:
            return
        subject = packet.subject
        if subject.startswith("$JS."):
            self.jetstream.called(packet)
            return
        stored = self.jetstream.offered(packet)
        heard = self.send(packet)
        if packet.reply and not stored and not heard:
            self.send(Packet(packet.reply, b"", headers={"Status": "503"}))

    def send(self, packet: Packet) -> bool:
        """To everybody who listens; of a queue group to one. False: nobody does."""
        listeners = self._listeners(packet.to or packet.subject)
        if len(listeners) == 1 and not listeners[0].queue:
            listeners[0].connection.deliver(listeners[0], packet)
            return True
        groups: dict[str, list[FakeSubscription]] = {}
        for listener in listeners:
            if listener.queue:
                groups.setdefault(listener.queue, []).append(listener)
            else:
                listener.connection.deliver(listener, packet)
        for members in groups.values():
            member = self.wire.numbers.choice(members)
            member.connection.deliver(member, packet)
        return bool(listeners)


def _at_once(work: Any) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError(f"{work!r} waits for something")


class FakeSubscription:
    """What nats-py's Subscription is to us: one callback at a time."""

    def __init__(
        self, connection: FakeConnection, subject: str, queue: str, callback: Callable[[Msg], Awaitable[None]]
    ) -> None:
        self.connection = connection
        self.subject = subject
        self.queue = queue
        self._callback = callback
        self._notes = getattr(callback, "__name__", "") in _NOTES
        self._waiting: deque[Msg] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def arrive(self, epoch: int, packet: Packet) -> None:
        """A message is there."""
        connection = self.connection
        if self._closed or epoch != connection.epoch:
            return
        headers = dict(packet.headers) if packet.headers else None
        client: Any = connection
        message = Msg(client, packet.subject, packet.reply, packet.payload, headers)
        if self._notes:
            _at_once(self._callback(message))
            return
        self._waiting.append(message)
        if self._task is None or self._task.done():
            self._task = connection.loop.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            await self._callback(self._waiting.popleft())

    async def unsubscribe(self) -> None:
        """Hear nothing more."""
        self._closed = True
        self._waiting.clear()
        self.connection.server.remove(self)

    async def drain(self) -> None:
        """Hear nothing more, but take what is there."""
        self._closed = True
        self.connection.server.remove(self)
        while self._task is not None and not self._task.done() and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])


class _Version(NamedTuple):
    major: int = 2
    minor: int = 15


class FakeConnection:
    """A client's connection. It reconnects by itself for ever, as a HardenedClient does."""

    max_payload = 8 << 20

    def __init__(self, server: FakeServer, callbacks: Callbacks, place: str) -> None:
        self.server = server
        self.loop = server.loop
        self.place = place
        self.host: Host | None = HOST.get()
        self.epoch = 1
        self.is_connected = True
        self.is_closed = False
        self.stats = {"reconnects": 0}
        self.connected_server_version = _Version()
        self._inbox_prefix = bytearray(b"_INBOX")
        self._callbacks = callbacks
        self._context = contextvars.copy_context()
        self._subscriptions: list[FakeSubscription] = []
        self._out = self._in = 0.0
        self._buffer: list[Packet] = []
        self._stuck_out: list[Packet] = []
        self._stuck_in: list[tuple[FakeSubscription, Packet]] = []
        self._breaking: asyncio.TimerHandle | None = None
        server.connections.append(self)

    # --- nats-py's side

    def jetstream(self, **_: Any) -> JetStreamContext:
        """The JetStream API: nats-py's own, over this connection."""
        this: Any = self
        return JetStreamContext(this)

    def new_inbox(self) -> str:
        """A name for answers."""
        return self.server.inbox()

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send; what is sent while the server is away waits in a buffer."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        packet = Packet(subject, payload, reply, headers)
        if not self.is_connected:
            if len(self._buffer) >= _BUFFER:
                raise nats.errors.OutboundBufferLimitError
            self._buffer.append(packet)
            return
        self._transmit(packet)

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 0.5) -> Msg:  # noqa: ASYNC109
        """Send and wait for the answer."""
        future: asyncio.Future[Msg] = self.loop.create_future()

        async def _answered(message: Msg) -> None:
            if not future.done():
                future.set_result(message)

        inbox = self.new_inbox()
        subscription = await self.subscribe(inbox, cb=_answered)
        try:
            await self.publish(subject, payload, reply=inbox)
            message = await within(timeout, future)
        except TimeoutError:
            raise nats.errors.TimeoutError from None
        finally:
            await subscription.unsubscribe()
        if message.headers and message.headers.get("Status") == "503":
            raise nats.errors.NoRespondersError
        return message

    async def subscribe(
        self, subject: str, queue: str = "", cb: Callable[[Msg], Awaitable[None]] | None = None, **_: Any
    ) -> FakeSubscription:
        """Listen."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        assert cb is not None
        subscription = FakeSubscription(self, subject, queue, cb)
        self._subscriptions.append(subscription)
        self.server.add(subscription)
        return subscription

    async def force_reconnect(self) -> None:
        """Open the connection anew."""
        self.broke()

    async def flush(self, timeout: float = 10) -> None:  # noqa: ASYNC109
        """Wait until the server has what was sent."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if not self.is_connected or self.place in self.server.cut_off:
            await asyncio.sleep(timeout)
            raise nats.errors.FlushTimeoutError
        await asyncio.sleep(max(0.0, self._out - self.loop.time()) + 0.0005)

    async def close(self) -> None:
        """The end."""
        self.gone()

    # --- the wire's side

    def _transmit(self, packet: Packet) -> None:
        server = self.server
        if self.place in server.cut_off:
            self._stuck_out.append(packet)
            return
        if server.wire.lost():
            return
        self._out = max(self._out, self.loop.time() + server.wire.delay())
        self.loop.call_at(self._out, self._arrive, self.epoch, packet, context=server.context)

    def _arrive(self, epoch: int, packet: Packet) -> None:
        if epoch == self.epoch and self.is_connected:
            self.server.receive(packet)

    def deliver(self, subscription: FakeSubscription, packet: Packet) -> None:
        """From the server to a subscription."""
        if self.place in self.server.cut_off:
            self._stuck_in.append((subscription, packet))
            return
        if self.server.wire.lost():
            return
        self._in = max(self._in, self.loop.time() + self.server.wire.delay())
        self.loop.call_at(self._in, subscription.arrive, self.epoch, packet, context=self._context)

    def separated(self) -> None:
        """The network is gone."""
        if self._breaking is None and self.is_connected:
            self._breaking = self.loop.call_later(PING_TIMEOUT_S, self.broke, context=self.server.context)

    def joined(self) -> None:
        """The network is back."""
        if not self.is_connected:
            self.reconnect()
            return
        if self._breaking is not None:
            self._breaking.cancel()
            self._breaking = None
        out, self._stuck_out = self._stuck_out, []
        into, self._stuck_in = self._stuck_in, []
        for packet in out:
            self._transmit(packet)
        for subscription, packet in into:
            self.deliver(subscription, packet)

    def broke(self) -> None:
        """It broke: what is on the way is lost."""
        if self._breaking is not None:
            self._breaking.cancel()
            self._breaking = None
        if self.is_closed or not self.is_connected:
            return
        self.is_connected = False
        self.epoch += 1
        self._stuck_out.clear()
        self._stuck_in.clear()
        self.server.jetstream.forget_pulls(self.server.interested)
        if self._callbacks.disconnected is not None:
            self.loop.create_task(_call(self._callbacks.disconnected), context=self._context)
        self.reconnect()

    def reconnect(self) -> None:
        """Try again, a little later."""
        self.loop.call_later(self.server.wire.numbers.uniform(0.05, 2.0), self._again, context=self.server.context)

    def _again(self) -> None:
        dead = self.host is not None and self.host.dead
        if self.is_closed or self.is_connected or dead or not self.server.reachable(self.place):
            return
        self.is_connected = True
        self.epoch += 1
        self.loop.create_task(self._reconnected(self.epoch), context=self._context)

    async def _reconnected(self, epoch: int) -> None:
        if epoch != self.epoch:
            return
        self.stats["reconnects"] += 1
        buffered, self._buffer = self._buffer, []
        for packet in buffered:
            self._transmit(packet)
        if self._callbacks.reconnected is not None:
            await self._callbacks.reconnected()

    def gone(self) -> None:
        """Closed, or its process ended: the server knows it no more."""
        self.is_closed, self.is_connected = True, False
        self.epoch += 1
        for subscription in self._subscriptions:
            self.server.remove(subscription)
        with contextlib.suppress(ValueError):
            self.server.connections.remove(self)
        self.server.jetstream.forget_pulls(self.server.interested)


async def _call(callback: Callable[[], Awaitable[None]]) -> None:
    await callback()
