"""The part of JetStream that this project uses, in memory: streams, and durable pull consumers.

Streams: sequences, message ids within the duplicate window, the last message of a subject (kept alone where the stream
says so), expected-last-subject-sequence, direct get, work queues. Consumers: explicit ack, nak with a delay, in
progress, term, redelivery after ack_wait, pull requests with expiry and idle heartbeats. What a stream keeps is never
aged or bounded here.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import heapq
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nats.js import api

from incl_shared.testing.virtual import EPOCH, VirtualLoop

_WRONG_LAST, _NO_STREAM, _NO_CONSUMER = 10_071, 10_059, 10_014
_NS = 1_000_000_000
_STAMP = "2027-01-15T08:00:00Z"


class Packet(NamedTuple):
    """A message on the wire. to: the subject that it is sent by, where its own is another (pulled messages)."""

    subject: str
    payload: bytes
    reply: str = ""
    headers: Mapping[str, str] | None = None
    to: str = ""


class Message(NamedTuple):
    """A message in a stream. time: epoch s."""

    sequence: int
    subject: str
    payload: bytes
    headers: Mapping[str, str]
    time: float


@functools.lru_cache(maxsize=65_536)
def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one of a pattern's."""
    wanted, found = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(found) > index
        if index >= len(found) or token not in ("*", found[index]):
            return False
    return len(wanted) == len(found)


class Stream:
    """One stream."""

    def __init__(self, config: api.StreamConfig) -> None:
        self.name = str(config.name)
        self.subjects = tuple(config.subjects or ())
        self.window = float(config.duplicate_window or 120.0)
        self.one_each = config.max_msgs_per_subject == 1
        self.queue = config.retention == api.RetentionPolicy.WORK_QUEUE
        self.messages: dict[int, Message] = {}
        self.last = 0
        self.newest: dict[str, int] = {}
        self.ids: dict[str, tuple[int, float]] = {}

    def put(self, packet: Packet, now: float) -> dict[str, Any]:
        """Store a message; what the server answers."""
        headers = dict(packet.headers or {})
        name = headers.get("Nats-Msg-Id")
        expected = headers.get("Nats-Expected-Last-Subject-Sequence")
        newest = self.newest.get(packet.subject, 0)
        if expected is not None and int(expected) != newest:
            return _error(400, _WRONG_LAST, f"wrong last sequence: {newest}")
        known = self.ids.get(name) if name is not None else None
        if known is not None and now - known[1] < self.window:
            return {"stream": self.name, "seq": known[0], "duplicate": True}
        self.last += 1
        if self.one_each and newest:
            self.messages.pop(newest, None)
        self.messages[self.last] = Message(self.last, packet.subject, packet.payload, headers, now)
        self.newest[packet.subject] = self.last
        if name is not None:
            self.ids[name] = (self.last, now)
        return {"stream": self.name, "seq": self.last}

    def delete(self, sequence: int) -> None:
        """A message of a work queue is done."""
        message = self.messages.pop(sequence, None)
        if message is not None and self.newest.get(message.subject) == sequence:
            older = [one.sequence for one in self.messages.values() if one.subject == message.subject]
            self.newest.pop(message.subject)
            if older:
                self.newest[message.subject] = older[-1]

    def state(self) -> tuple[Any, ...]:
        """What is on disk."""
        return dict(self.messages), self.last, dict(self.newest), dict(self.ids)

    def restore(self, state: Any) -> None:
        """Be as then."""
        messages, self.last, newest, ids = state
        self.messages, self.newest, self.ids = dict(messages), dict(newest), dict(ids)


@dataclass(eq=False)
class _Pull:
    """A request for messages. left: how many more it wants; until, beat_s: loop seconds."""

    inbox: str
    left: int
    until: float
    beat_s: float
    heard: float
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class Consumer:
    """One durable. pending: sequence -> loop time at which it comes again; again: what is to come again, by time."""

    stream: Stream
    config: dict[str, Any]
    cursor: int = 0
    sent: int = 0
    pending: dict[int, float] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    again: list[tuple[float, int]] = field(default_factory=list)
    pulls: deque[_Pull] = field(default_factory=deque)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config["durable_name"])

    @property
    def ack_wait(self) -> float:
        """Seconds until what is not acknowledged comes again."""
        return float(self.config.get("ack_wait", 30 * _NS)) / _NS

    def wants(self, subject: str) -> bool:
        """Whether its filters let a subject through."""
        filters = self.config.get("filter_subjects") or [self.config.get("filter_subject") or ">"]
        return any(matches(one, subject) for one in filters)

    def next(self, now: float) -> Message | None:
        """The next message that is due."""
        while self.again and self.again[0][0] <= now:
            _, sequence = heapq.heappop(self.again)
            message = self.stream.messages.get(sequence)
            if message is not None and sequence in self.counts and sequence not in self.pending:
                return message
        while self.cursor < self.stream.last:
            self.cursor += 1
            message = self.stream.messages.get(self.cursor)
            if message is not None and self.wants(message.subject):
                return message
        return None

    def waiting(self) -> int:
        """About how many are left."""
        return max(0, self.stream.last - self.cursor)


class JetStream:
    """All streams of a server."""

    def __init__(self, loop: VirtualLoop, send: Callable[[Packet], bool], configs: Iterable[api.StreamConfig]) -> None:
        self.loop = loop
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self.stored: list[tuple[str, Message]] = []
        """Every message that was ever taken, with its stream, also those that a restore has lost."""
        self._send = send
        self._context = contextvars.Context()
        self._routes: dict[str, Stream | None] = {}
        for config in configs:
            stream = Stream(config)
            self.streams[stream.name] = stream

    def now(self) -> float:
        """The server's wall clock, epoch s."""
        return EPOCH + self.loop.time()

    # --- what comes in

    def offered(self, packet: Packet) -> bool:
        """A message on a subject that a stream may have. False: none has."""
        stream = self._stream_of(packet.subject)
        if stream is None:
            return False
        before = stream.last
        answer = stream.put(packet, self.now())
        if packet.reply:
            self._answer(packet.reply, answer)
        if stream.last != before:
            self.stored.append((stream.name, stream.messages[stream.last]))
            for (name, _), consumer in self.consumers.items():
                if name == stream.name:
                    self._serve(consumer)
        return True

    def called(self, packet: Packet) -> None:
        """A call of the API, or an acknowledgement."""
        parts = packet.subject.split(".")
        if parts[1] == "ACK":
            self._acknowledged(parts, packet.payload)
        elif parts[2] == "DIRECT":
            self._direct(parts[4], ".".join(parts[5:]), packet)
        elif parts[3] == "MSG":
            self._pulled(parts[5], parts[6], packet)
        elif parts[2] == "CONSUMER":
            self._answer(packet.reply, self._consumer_call(parts[3], parts[4], parts[-1], packet.payload))

    def _stream_of(self, subject: str) -> Stream | None:
        if subject not in self._routes:
            found = [one for one in self.streams.values() if any(matches(p, subject) for p in one.subjects)]
            self._routes[subject] = found[0] if found else None
        return self._routes[subject]

    def _answer(self, inbox: str, answer: Mapping[str, Any]) -> None:
        self._send(Packet(inbox, json.dumps(answer).encode()))

    # --- reading

    def _direct(self, name: str, subject: str, packet: Packet) -> None:
        stream, inbox = self.streams[name], packet.reply
        sequence = stream.newest.get(subject, 0) if subject else int(json.loads(packet.payload)["seq"])
        message = stream.messages.get(sequence)
        if message is None:
            self._send(Packet(inbox, b"", headers={"Status": "404", "Description": "Message Not Found"}))
            return
        headers = {**message.headers, "Nats-Sequence": str(message.sequence), "Nats-Subject": message.subject}
        self._send(Packet(inbox, message.payload, headers=headers))

    # --- consumers

    def _consumer_call(self, verb: str, name: str, durable: str, payload: bytes) -> dict[str, Any]:
        stream = self.streams.get(name)
        if stream is None:
            return _error(404, _NO_STREAM, "stream not found")
        consumer = self.consumers.get((name, durable))
        if verb == "CREATE":
            config = json.loads(payload)["config"]
            if consumer is None:
                consumer = self.consumers[name, durable] = Consumer(stream, config)
            consumer.config = config
        if consumer is None:
            return _error(404, _NO_CONSUMER, "consumer not found")
        if verb == "DELETE":
            self.delete(name, durable)
            return {"success": True}
        delivered, floor = consumer.cursor, min(consumer.counts, default=consumer.cursor + 1) - 1
        return {
            "stream_name": name, "name": durable, "created": _STAMP, "config": consumer.config,
            "num_ack_pending": len(consumer.counts), "num_pending": consumer.waiting(),
            "delivered": {"consumer_seq": consumer.sent, "stream_seq": delivered},
            "ack_floor": {"consumer_seq": consumer.sent, "stream_seq": floor},
        }  # fmt: skip

    def delete(self, name: str, durable: str) -> None:
        """A durable goes, with all that it knew."""
        consumer = self.consumers.pop((name, durable), None)
        for pull in consumer.pulls if consumer is not None else ():
            self._status(pull, "409", "Consumer Deleted")

    def _pulled(self, name: str, durable: str, packet: Packet) -> None:
        consumer = self.consumers.get((name, durable))
        if consumer is None:
            self._send(Packet(packet.reply, b"", headers={"Status": "503"}))
            return
        asked, now = json.loads(packet.payload), self.loop.time()
        beat = asked.get("idle_heartbeat", 0) / _NS
        pull = _Pull(packet.reply, asked["batch"], now + asked["expires"] / _NS, beat or 1e9, now)
        consumer.pulls.append(pull)
        self._serve(consumer)
        self._tick(consumer, pull)

    def _tick(self, consumer: Consumer, pull: _Pull) -> None:
        """The next heartbeat, or the end of a request."""
        if pull not in consumer.pulls:
            return
        now = self.loop.time()
        if now >= pull.until:
            consumer.pulls.remove(pull)
            self._status(pull, "408", "Request Timeout")
            return
        if now >= pull.heard + pull.beat_s:
            pull.heard = now
            self._send(Packet(pull.inbox, b"", headers={"Status": "100", "Description": "Idle Heartbeat"}))
        when = min(pull.until, pull.heard + pull.beat_s)
        pull.timer = self.loop.call_at(when, self._tick, consumer, pull, context=self._context)

    def _status(self, pull: _Pull, status: str, text: str) -> None:
        if pull.timer is not None:
            pull.timer.cancel()
        headers = {"Status": status, "Description": text, "Nats-Pending-Messages": str(pull.left)}
        self._send(Packet(pull.inbox, b"", headers=headers))

    def _serve(self, consumer: Consumer) -> None:
        """Send what is due to whoever asked."""
        most = int(consumer.config.get("max_ack_pending") or 1000)
        while consumer.pulls and len(consumer.pending) < most:
            message = consumer.next(self.loop.time())
            if message is None:
                break
            self._deliver(consumer, consumer.pulls[0], message)

    def _deliver(self, consumer: Consumer, pull: _Pull, message: Message) -> None:
        now, sequence = self.loop.time(), message.sequence
        consumer.sent += 1
        count = consumer.counts[sequence] = consumer.counts.get(sequence, 0) + 1
        self._expect(consumer, sequence)
        pull.left -= 1
        pull.heard = now
        if pull.left <= 0:
            consumer.pulls.popleft()
            if pull.timer is not None:
                pull.timer.cancel()
        place = f"{consumer.stream.name}.{consumer.name}.{count}.{sequence}.{consumer.sent}"
        reply = f"$JS.ACK.{place}.{int(message.time * _NS)}.{consumer.waiting()}"
        self._send(Packet(message.subject, message.payload, reply, message.headers or None, to=pull.inbox))

    def _expect(self, consumer: Consumer, sequence: int) -> None:
        """An acknowledgement until then, or it comes again."""
        deadline = self.loop.time() + consumer.ack_wait
        consumer.pending[sequence] = deadline
        self.loop.call_at(deadline, self._overdue, consumer, sequence, deadline, context=self._context)

    def _overdue(self, consumer: Consumer, sequence: int, deadline: float) -> None:
        if consumer.pending.get(sequence) == deadline:
            self._later(consumer, sequence, 0.0)

    def _later(self, consumer: Consumer, sequence: int, delay: float) -> None:
        consumer.pending.pop(sequence, None)
        when = self.loop.time() + delay
        heapq.heappush(consumer.again, (when, sequence))
        self.loop.call_at(when, self._serve, consumer, context=self._context)

    def _acknowledged(self, parts: list[str], payload: bytes) -> None:
        consumer = self.consumers.get((parts[2], parts[3]))
        sequence = int(parts[5])
        if consumer is None or sequence not in consumer.counts:
            return
        if payload.startswith(b"+WPI"):
            if sequence in consumer.pending:
                self._expect(consumer, sequence)
        elif payload.startswith(b"-NAK"):
            if sequence in consumer.pending:
                rest = payload[4:].strip()
                self._later(consumer, sequence, json.loads(rest).get("delay", 0) / _NS if rest else 0.0)
        else:
            consumer.pending.pop(sequence, None)
            del consumer.counts[sequence]
            if consumer.stream.queue:
                consumer.stream.delete(sequence)
            self._serve(consumer)

    def forget_pulls(self, interested: Callable[[str], bool] = lambda _: False) -> None:
        """Requests to which nobody listens any more."""
        for consumer in self.consumers.values():
            for pull in [one for one in consumer.pulls if not interested(one.inbox)]:
                consumer.pulls.remove(pull)
                if pull.timer is not None:
                    pull.timer.cancel()

    # --- the disk

    def state(self) -> object:
        """Everything that a backup would have."""
        streams = {name: stream.state() for name, stream in self.streams.items()}
        consumers = {
            key: (dict(one.config), one.cursor, one.sent, dict(one.counts)) for key, one in self.consumers.items()
        }
        return streams, consumers

    def restore(self, state: Any) -> None:
        """Be as then. What was delivered and not acknowledged comes again."""
        streams, consumers = state
        for name, kept in streams.items():
            self.streams[name].restore(kept)
        self.consumers.clear()
        for (name, durable), (config, cursor, sent, counts) in consumers.items():
            again = [(self.loop.time(), sequence) for sequence in sorted(counts)]
            self.consumers[name, durable] = Consumer(
                self.streams[name], dict(config), cursor, sent, counts=dict(counts), again=again
            )


def _error(code: int, number: int, text: str) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": number, "description": text}}
