"""`BusClient`: the bus for whoever is no service. nats-py alone, and quick to import.

Everything that is sent has an answer or an error: a publication is stored, or fails; a question is answered, or fails.
A permission that is missing fails at once (the server says it only to the connection's error callback, so that what
is in flight on that subject is looked up here). Whatever is in flight when the connection breaks is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import nats.errors
from nats.aio.msg import Msg

from incl_shared import subjects
from incl_shared.bus import envelope as wire
from incl_shared.bus.calls import MORE, Calls, Reply
from incl_shared.bus.connection import CONNECT_TIMEOUT_S, Callbacks, Credentials, HardenedClient, open_connection
from incl_shared.bus.errors import BackPressure, WrongSequence
from incl_shared.errors import DeniedError, ErrorEnvelope, InclError, InternalError, InvalidInput, UnavailableError
from incl_shared.ids import new_id
from incl_shared.settings import BusSettings
from incl_shared.tasks import within

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription
    from nats.js import JetStreamContext

    from incl_shared.events.base import Event
    from incl_shared.queries.base import AnswerT, Query

_log = logging.getLogger("incl.bus")

ERROR_HEADER = "Incl-Error"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
SETTLING_S = 5.0
"""So long after a reconnect a service that does not listen may be about to come back as well."""
_ATTEMPT_S = 5.0
_NOBODY_S = 0.1
_WRONG_SEQUENCE = {10_071, 10_164}
_FULL = ("maximum messages", "maximum bytes", "insufficient resources", "insufficient storage", "no space left")
_FULL_DISK = "resource limits exceeded for account"

MessageCallback = Callable[[str, bytes, Mapping[str, str]], Awaitable[None]]


class Ack(NamedTuple):
    """Where a message is stored. duplicate: it was there already, by its message id."""

    stream: str
    sequence: int
    duplicate: bool


class Stored(NamedTuple):
    """The last message of a subject."""

    sequence: int
    payload: bytes
    headers: Mapping[str, str]


class BusClient:
    """A connection to the bus. Make it with `connect`; `close` it, or use it as an async context manager."""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self._connection: HardenedClient | None = None
        self._calls = Calls()
        self._up = asyncio.Event()
        self.reconnects = 0
        self._back_since = -math.inf
        self._reconnect_listeners: list[Callable[[], None]] = []
        self._disconnect_listeners: list[Callable[[], None]] = []

    @classmethod
    async def connect(
        cls,
        settings: BusSettings,
        *,
        timeout: float = CONNECT_TIMEOUT_S,  # noqa: ASYNC109
        credentials: Credentials | None = None,
        patient: bool = False,
    ) -> Self:
        """Connect within `timeout` seconds. `credentials` gives (JWT, seed) anew at every reconnect.

        Raises:
            UnavailableError: nobody answers; the hint says how to start the platform.
            DeniedError: the credential is refused.
        """
        client = cls(settings)
        connection = await open_connection(
            settings, client.callbacks(), credentials=credentials, timeout=timeout, patient=patient
        )
        await client.adopt(connection)
        return client

    def callbacks(self) -> Callbacks:
        """What the connection must tell; for whoever opens it himself, before `adopt`."""
        return Callbacks(self._on_error, self._on_disconnected, self._on_reconnected, self._on_closed)

    async def adopt(self, connection: HardenedClient) -> None:
        """Use a connection that was opened with `callbacks()`."""
        self._connection = connection
        await self._calls.start(connection)
        self._up.set()

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        """Call this in the event loop after every reconnect. It must not raise."""
        self._reconnect_listeners.append(listener)

    def on_disconnect(self, listener: Callable[[], None]) -> None:
        """Call this in the event loop whenever the connection breaks. It must not raise."""
        self._disconnect_listeners.append(listener)

    @property
    def connection(self) -> HardenedClient:
        """nats-py's client, for what this class has no method for.

        Raises:
            UnavailableError: when it is closed.
        """
        if self._connection is None:
            raise UnavailableError("the connection to the bus is closed")
        return self._connection

    @property
    def connected(self) -> bool:
        """Whether the server is there now."""
        return self._connection is not None and bool(self._connection.is_connected)

    def jetstream(self) -> JetStreamContext:
        """The JetStream API (topology, administration)."""
        return self.connection.jetstream()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Send what is buffered, and close. What is in flight fails with UnavailableError."""
        connection, self._connection = self._connection, None
        self._calls.fail(UnavailableError("the connection to the bus was closed"))
        if connection is not None and not connection.is_closed:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                if connection.is_connected:
                    await connection.flush(timeout=1)
            with contextlib.suppress(nats.errors.Error, OSError):
                await connection.close()

    async def renew(self) -> None:
        """Open the connection anew: for whoever knows that the server is there while this connection hangs."""
        if self._connection is not None:
            await self._connection.force_reconnect()

    # --- the connection's callbacks

    async def _on_error(self, error: Exception) -> None:
        denied = _denied_subject(str(error))
        if denied is not None:
            operation, subject = denied
            message = f"not allowed to {operation} {subject}"
            _log.warning("%s", message)
            self._calls.deny(operation, subject, DeniedError(message, hint="log in again, or ask for a wider role"))
        elif not isinstance(error, ConnectionError):
            _log.debug("bus: %s", error)

    async def _on_disconnected(self) -> None:
        self._up.clear()
        self._calls.interrupt()
        for listener in self._disconnect_listeners:
            listener()

    async def _on_reconnected(self) -> None:
        self.reconnects += 1
        self._back_since = time.monotonic()
        self._up.set()
        for listener in self._reconnect_listeners:
            listener()

    async def _on_closed(self) -> None:
        self._up.clear()
        self._calls.fail(UnavailableError("the connection to the bus was closed"))

    # --- publishing

    async def publish_confirmed(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,  # noqa: ASYNC109
        expected_sequence: int | None = None,
    ) -> Ack:
        """Store a message: it is on disk when this returns. Sent again with the same id until then or `timeout`.

        expected_sequence: the sequence of the subject's last message (0: there is none), for a write that must not
        overwrite another one's.

        Raises:
            BackPressure: the stream is full.
            WrongSequence: the subject has another last message than expected.
            DeniedError: the credential does not allow the subject.
            InvalidInput: larger than the server takes.
            UnavailableError: not stored within `timeout` (it may still be).
        """
        sent = dict(headers or {})
        sent[wire.MESSAGE_ID] = message_id
        if expected_sequence is not None:
            sent[EXPECTED_SEQUENCE] = str(expected_sequence)
        self._check_size(subject, payload, sent)
        deadline, delay, cause = time.monotonic() + timeout, 0.05, "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                reply = await self._call(subject, payload, sent, min(left, _ATTEMPT_S))
                return _ack(reply)
            except _TryAgain as again:
                cause = str(again)
            await asyncio.sleep(min(delay, max(0.0, deadline - time.monotonic())) * random.uniform(0.5, 1))  # noqa: S311
            delay = min(delay * 2, 1.0)
        raise UnavailableError(
            f"the message on {subject} is not confirmed after {timeout:.0f} s", cause=cause, hint="see: incl doctor"
        )

    async def publish_event(
        self,
        event: Event,
        *,
        project: str,
        user: str | None = None,
        event_id: str | None = None,
        version: int = 0,
        timeout: float = 10.0,  # noqa: ASYNC109
    ) -> Ack:
        """Publish an event in its envelope on REQUESTS or EVENTS, confirmed. event_id: a new one unless given."""
        subject = wire.subject_of(event, project=project, user=user)
        said = wire.Envelope(
            id=event_id or new_id(), source=f"/incl/{self.settings.name}", type=event.type_name(), subject=event.key,
            time=time.time(), version=version, traceparent=wire.child_trace(),
        )  # fmt: skip
        payload, headers = wire.encode(event, said)
        return await self.publish_confirmed(subject, payload, message_id=said.id, headers=headers, timeout=timeout)

    async def publish_live(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send without an acknowledgement: for what is worth nothing when late. Lost when the server is away."""
        if self.connected:
            await self.connection.publish(subject, payload, headers=dict(headers) if headers else None)

    # --- asking

    async def ask(
        self,
        query: Query[AnswerT],
        *,
        project: str,
        user: str,
        timeout: float = 5.0,  # noqa: ASYNC109
        patience: float = 0.0,
    ) -> AnswerT:
        """Ask a service and wait for its whole answer, `timeout` seconds at most.

        patience: how long nobody may listen (the service is being started again) before that is an error. Right after
        a reconnect it is SETTLING_S at least: services come back a moment after the bus does, as we did.

        Raises:
            InclError: the error that the service answered with.
            UnavailableError: the service does not run, or does not answer in time.
            DeniedError: the credential does not allow the question.
        """
        kind = type(query)
        subject = subjects.query(project, user, kind.service, kind.name)
        payload = query.model_dump_json().encode()
        headers = {wire.TRACEPARENT: wire.child_trace(), "Incl-Timeout": f"{timeout:.3f}"}
        self._check_size(subject, payload, headers)
        cause = "no answer"
        deadline = time.monotonic() + timeout
        patient_until = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                reply = await self._call(subject, payload, headers, left)
            except _TryAgain as again:
                cause = str(again)
                if again.nobody and time.monotonic() > max(patient_until, self._back_since + SETTLING_S):
                    break
                if again.nobody:
                    await asyncio.sleep(_NOBODY_S)
                continue
            return _answer(kind, reply)
        raise UnavailableError(
            f"the {kind.service} does not answer", cause=cause, hint="is the platform up? see: incl status"
        )

    async def last(self, stream: str, subject: str, *, timeout: float = 5.0) -> Stored | None:  # noqa: ASYNC109
        """The last message of a subject by direct get, or none where there is none.

        Raises:
            UnavailableError: the stream cannot be asked.
            DeniedError: the credential does not allow it.
        """
        return await self._direct(stream, f".{subject}", b"", timeout)

    async def at(self, stream: str, sequence: int, *, timeout: float = 5.0) -> Stored | None:  # noqa: ASYNC109
        """The message with this sequence by direct get, or none where there is none.

        Raises:
            UnavailableError: the stream cannot be asked.
            DeniedError: the credential does not allow it.
        """
        return await self._direct(stream, "", json.dumps({"seq": sequence}).encode(), timeout)

    async def following(
        self,
        stream: str,
        sequence: int,
        subject: str,
        *,
        timeout: float = 5.0,  # noqa: ASYNC109
    ) -> Stored | None:
        """The first message from this sequence on whose subject fits a pattern, or none where there is none.

        Raises:
            UnavailableError: the stream cannot be asked.
            DeniedError: the credential does not allow it.
        """
        request = json.dumps({"seq": sequence, "next_by_subj": subject}).encode()
        return await self._direct(stream, "", request, timeout)

    async def _direct(self, stream: str, subject: str, request: bytes, patience: float) -> Stored | None:
        cause, deadline = "no answer", time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                reply = await self._call(f"$JS.API.DIRECT.GET.{stream}{subject}", request, {}, min(left, _ATTEMPT_S))
            except _TryAgain as again:
                cause = str(again)
                await asyncio.sleep(0.05)
                continue
            status = reply.headers.get("Status")
            if status == "404":
                return None
            if status is not None:
                raise InternalError(f"direct get of {stream}{subject}: status {status}", cause=str(reply.headers))
            return Stored(int(reply.headers["Nats-Sequence"]), reply.payload, reply.headers)
        raise UnavailableError(f"the stream {stream} cannot be read", cause=cause, hint="see: incl doctor")

    # --- listening

    async def subscribe(self, subject: str, callback: MessageCallback, *, queue: str = "") -> Subscription:
        """A core subscription: what is said from now on, while connected. It comes back after a reconnect.

        When this returns the server knows it (should it be connected): what is said elsewhere afterwards is heard.
        The callback gets (subject, payload, headers), one message at a time; what it raises is logged. End it with
        `await subscription.unsubscribe()`. A missing permission is only logged: the server refuses later, by itself.
        """

        async def received(message: Msg) -> None:
            try:
                await callback(message.subject, message.data, message.headers or {})
            except Exception:  # noqa: BLE001 - the edge of the subscription's loop
                _log.exception("a message on %s could not be handled", message.subject)

        subscription = await self.connection.subscribe(subject, queue=queue, cb=received)
        if self.connected:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self.connection.flush(timeout=2)
        return subscription

    # --- parts

    def _check_size(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        size = len(payload) + sum(len(key) + len(value.encode()) + 4 for key, value in headers.items()) + 16
        limit = int(self.connection.max_payload)
        if size > limit:
            raise InvalidInput(
                f"a message of {size} bytes on {subject} is larger than the bus takes ({limit} bytes)",
                hint="large things go to the artifact store",
            )

    async def _call(self, subject: str, payload: bytes, headers: Mapping[str, str], timeout: float) -> Reply:  # noqa: ASYNC109
        connection = self.connection
        if not self._up.is_set():
            try:
                await within(timeout, self._up.wait())
            except TimeoutError:
                raise _TryAgain("the server is away") from None
        try:
            reply = await self._calls.call(connection, subject, payload, headers, timeout)
        except TimeoutError:
            raise _TryAgain(f"no answer within {timeout:.1f} s") from None
        except (nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError, OSError) as error:
            raise _TryAgain(str(error)) from error
        if reply.headers.get("Status") == "503":
            raise _TryAgain("nobody listens", nobody=True)
        return reply


class _TryAgain(Exception):  # noqa: N818
    def __init__(self, cause: str, *, nobody: bool = False) -> None:
        super().__init__(cause)
        self.nobody = nobody


def _denied_subject(text: str) -> tuple[str, str] | None:
    """('publish' | 'subscribe', subject) of the server's word on permissions."""
    lower = text.lower()
    if "permissions violation for" not in lower:
        return None
    operation = "publish" if "for publish" in lower else "subscribe"
    parts = text.split('"')
    return operation, parts[1] if len(parts) > 2 else ""


def _ack(reply: Reply) -> Ack:
    body: dict[str, Any] = json.loads(reply.payload)
    error = body.get("error")
    if error is None:
        return Ack(body["stream"], int(body["seq"]), bool(body.get("duplicate", False)))
    code, text = int(error.get("err_code", 0)), str(error.get("description", ""))
    if code in _WRONG_SEQUENCE:
        raise WrongSequence("another one wrote meanwhile", cause=text)
    if _FULL_DISK in text.lower():
        raise BackPressure(
            "the bus takes nothing new: the disk of the platform's data is full", cause=text,
            hint="make room there, it goes on by itself; incl doctor says where",
        )  # fmt: skip
    if any(mark in text.lower() for mark in _FULL):
        raise BackPressure("the stream is full", cause=text, hint="see: incl doctor")
    if int(error.get("code", 500)) == 503:
        raise _TryAgain(text)
    raise InternalError("the bus refused the message", cause=f"{text} ({code})")


def _answer(kind: type[Query[AnswerT]], reply: Reply) -> AnswerT:
    if reply.headers.get(ERROR_HEADER):
        raise InclError.from_envelope(ErrorEnvelope.model_validate_json(reply.payload))
    answer: Any = kind.answer.model_validate_json(reply.payload)
    result: AnswerT = answer
    return result


__all__ = ["ERROR_HEADER", "MORE", "Ack", "BusClient", "MessageCallback", "Stored"]
