"""FastStream, hardened. Everything that this project knows about its faults is here and in `connection` and `pull`.

Faults of FastStream 0.7.8 (and nats-py 2.16), found and reproduced; the tests of test_hardening.py show each, so that
an upgrade tells when a patch can go:

1. server away for longer than the reconnect limit: its loop spins for ever -> `open_connection` never gives up;
2. durable or stream deleted: silent zombie -> `pull.PullLoop`;
3. one authorization error during a reconnect: never reconnects -> `connection.HardenedClient`, and FastStream's own
   error callback is not used;
4. declare=True overwrites a stream's limits -> streams are never declared here;
5. a durable's drifted configuration is not noticed -> `pull.PullLoop`.

Its default acknowledgement (reject on error) deletes messages: here every acknowledgement is our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import nats.errors
from faststream._internal.broker.registrator import Registrator
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.message import StreamMessage
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.configs import NatsBrokerConfig
from faststream.nats.subscriber.config import NatsSubscriberConfig, NatsSubscriberSpecificationConfig
from faststream.nats.subscriber.specification import NatsSubscriberSpecification
from faststream.nats.subscriber.usecases import BatchPullStreamSubscriber
from nats.aio.msg import Msg

from incl_shared.bus.connection import Callbacks, Credentials, HardenedClient, open_connection
from incl_shared.bus.pull import CHECK_S, SILENCE_S, PullLoop, PullState
from incl_shared.bus.topology import Durable

if TYPE_CHECKING:
    from incl_shared.settings import BusSettings

GRACE_S = 10.0
_log = logging.getLogger("incl.bus.faststream")

BatchHandler = Callable[[list[Msg]], Awaitable[None]]
MessageHandler = Callable[[Msg], Awaitable[None]]


async def _raw(message: StreamMessage[Any]) -> Any:
    """A decoder that leaves the message as it is: FastStream's would parse every body as JSON."""
    return message.raw_message


class HardenedBroker(NatsBroker):
    """A NatsBroker on a `HardenedClient`, with consumers that are `HardenedPull`s."""

    def __init__(
        self,
        settings: BusSettings,
        callbacks: Callbacks,
        *,
        connect_timeout: float,
        credentials: Credentials | None = None,
    ) -> None:
        super().__init__(
            list(settings.urls), apply_types=False, ack_policy=AckPolicy.MANUAL, logger=_log, log_level=logging.DEBUG,
            graceful_timeout=GRACE_S, inbox_prefix=settings.inbox_prefix,
        )  # fmt: skip
        self._bus_settings = settings
        self._callbacks = callbacks
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self.pulls: list[HardenedPull] = []

    async def _connect(self) -> HardenedClient:
        connection = await open_connection(
            self._bus_settings, self._callbacks, credentials=self._credentials, timeout=self._connect_timeout,
            patient=True,
        )  # fmt: skip
        self.config.connect(connection)
        return connection

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        """Stop the consumers, let what they do end, and close, whether the server is there or not."""
        await super(NatsBroker, self).stop(exc_type, exc_val, exc_tb)
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                if connection.is_connected:
                    await connection.flush(timeout=2)
            with contextlib.suppress(nats.errors.Error, OSError, asyncio.CancelledError):
                await connection.close()
        self.config.disconnect()

    def pull(
        self, durable: Durable, handler: BatchHandler, *, check_every: float = CHECK_S, silence: float = SILENCE_S
    ) -> HardenedPull:
        """Consume a durable: the handler gets batches of messages, and acknowledges them itself."""
        outer, calls = cast("NatsBrokerConfig", self.config), CallsCollection[Any]()
        specification = NatsSubscriberSpecification(
            _outer_config=outer,
            calls=calls,
            specification_config=NatsSubscriberSpecificationConfig(
                subject="", queue=None, filter_subjects=list(durable.filters), title_=None, description_=None,
                include_in_schema=False,
            ),
        )  # fmt: skip
        config = NatsSubscriberConfig(
            subject="", sub_config=durable.config(), extra_options={}, no_reply=True, _outer_config=outer,
            _ack_policy=AckPolicy.MANUAL,
        )  # fmt: skip
        subscriber = HardenedPull(config, specification, calls, durable, check_every, silence)
        Registrator.subscriber(self, subscriber, persistent=False)
        subscriber.add_call(parser_=None, decoder_=_raw, dependencies_=())
        subscriber(handler)
        self.pulls.append(subscriber)
        return subscriber

    async def drop(self, pull: HardenedPull) -> None:
        """Stop consuming, while the others go on."""
        self.pulls.remove(pull)
        try:
            await pull.stop()
        finally:
            self._subscribers.discard(pull)

    def serve(self, subject: str, queue: str, handler: MessageHandler, *, workers: int) -> None:
        """Answer core requests in a queue group, at most `workers` at a time; the handler replies itself."""
        subscriber = self.subscriber(subject, queue, max_workers=workers, no_reply=True, decoder=_raw)
        subscriber(handler)


class HardenedPull(BatchPullStreamSubscriber):
    """A batch pull subscriber whose fetching is a `PullLoop`."""

    def __init__(
        self,
        config: NatsSubscriberConfig,
        specification: NatsSubscriberSpecification,
        calls: CallsCollection[Any],
        durable: Durable,
        check_every: float,
        silence: float,
    ) -> None:
        super().__init__(
            config, specification, calls, stream=JStream(durable.stream, declare=False),
            pull_sub=PullSub(batch_size=durable.batch, batch=True),
        )  # fmt: skip
        self.state = PullState(durable)
        self._check_every = check_every
        self._silence = silence
        self._loop: PullLoop | None = None

    async def _create_subscription(self) -> None:
        if self._loop is not None:
            return
        loop = PullLoop(
            self.connection, self.state.durable, self.consume, state=self.state, check_every=self._check_every,
            silence=self._silence,
        )  # fmt: skip
        self._loop = loop
        self.subscription = cast("Any", loop)
        self.add_task(loop.run)

    def wake(self) -> None:
        """The connection came back."""
        if self._loop is not None:
            self._loop.wake()

    async def stop(self) -> None:
        """Stop fetching, let the batch at hand end, give the rest back."""
        if self._loop is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._loop.finish(), GRACE_S)
        await super().stop()
        self._loop = None
