"""The streams and durables of the platform: declared here, and nowhere else.

`apply` is run by whoever owns the bus (`incl up`, the deployment), with a credential that may; services only make sure
of their own durables (`ensure_durable`), and never declare or change a stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nats.js import api
from nats.js.errors import APIError, NotFoundError

from incl_shared.errors import ConflictError, UnavailableError
from incl_shared.tasks import gather

if TYPE_CHECKING:
    from nats.js import JetStreamContext

DAY = 86_400.0
MIB = 1 << 20
_REPORTS_BYTES = 128 * MIB
_DEAD_BYTES = 128 * MIB
_LEAST_BYTES = 32 * MIB
REQUESTS, EVENTS, REPORTS, METRICS = "REQUESTS", "EVENTS", "REPORTS", "METRICS"
LOGS, LIVE, CONTROL, DEAD = "LOGS", "LIVE", "CONTROL", "DEAD"
ADVISORIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"
EVENTS_KEPT_S = 90 * DAY
PARTITIONS = 8
"""Into so many parts METRICS and LOGS are cut, by the hash of the experiment: more trackers than this are of no use.

The server does it as it stores (`_partitioned`), so that no sender knows the number. Another number moves experiments
to other partitions; `apply` therefore refuses the change until what the old number parted is consumed.
"""
INBOX_KEPT_S = EVENTS_KEPT_S + 7 * DAY
"""A consumer's inbox remembers ids for longer than any stream keeps messages: a recreated durable replays all."""


@dataclass(frozen=True)
class Limits:
    """What the operator may choose. Bytes are the most a stream takes on disk; a full METRICS or LOGS refuses more."""

    requests_bytes: int = 512 * MIB
    events_bytes: int = 1024 * MIB
    metrics_bytes: int = 1024 * MIB
    logs_bytes: int = 1024 * MIB
    live_bytes: int = 64 * MIB
    events_age_s: float = EVENTS_KEPT_S
    dead_age_s: float = 30 * DAY

    @property
    def file_bytes(self) -> int:
        """What the streams reserve on disk: the server's max_file_store must be at least this."""
        small = _REPORTS_BYTES + _DEAD_BYTES
        return self.requests_bytes + self.events_bytes + self.metrics_bytes + self.logs_bytes + small

    def within(self, room: int) -> Limits:
        """These limits, made smaller in proportion where they would reserve more than `room` bytes.

        Raises:
            UnavailableError: when there is too little room for a bus at all.
        """
        if self.file_bytes <= room:
            return self
        small = _REPORTS_BYTES + _DEAD_BYTES
        share = (room - small) / (self.file_bytes - small)
        if self.requests_bytes * share < _LEAST_BYTES:
            needed = small + (self.file_bytes - small) * _LEAST_BYTES // self.requests_bytes
            raise UnavailableError(
                f"the disk has room for {room // MIB} MiB of messages, the bus needs {needed // MIB} MiB",
                hint="make room, or choose another place: incl up --data DIR",
            )
        return replace(
            self,
            requests_bytes=int(self.requests_bytes * share),
            events_bytes=int(self.events_bytes * share),
            metrics_bytes=int(self.metrics_bytes * share),
            logs_bytes=int(self.logs_bytes * share),
        )


@dataclass(frozen=True)
class Durable:
    """A durable pull consumer. batch, batch_bytes: the most messages and bytes of one transaction.

    ack_wait: seconds after which what a killed process had in hand is delivered again. Whoever lives says in time that
    it works on it; an inbox skips what comes twice all the same.

    service: whose it is; the name by default. A message larger than batch_bytes comes alone.

    max_deliver is always unlimited: retry and dead letters are the runtime's, which knows an outage from poison.
    """

    stream: str
    name: str
    filters: tuple[str, ...]
    ack_wait: float = 4.0
    max_ack_pending: int = 1000
    batch: int = 100
    batch_bytes: int = 4 * MIB
    owner: str = ""

    @property
    def service(self) -> str:
        """The service that reads it."""
        return self.owner or self.name

    def config(self) -> api.ConsumerConfig:
        """What the server is asked for."""
        return api.ConsumerConfig(
            name=self.name,
            durable_name=self.name,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self.ack_wait,
            max_ack_pending=self.max_ack_pending,
            max_deliver=-1,
            filter_subjects=list(self.filters),
        )


PROVISIONER_REQUESTS = Durable(REQUESTS, "provisioner", ("incl.request.*.*.experiment.*", "incl.request.*.*.stop.*"))
PROVISIONER_REPORTS = Durable(REPORTS, "provisioner", ("incl.report.*",), max_ack_pending=2000)
PROVISIONER_EVENTS = Durable(
    EVENTS, "provisioner", ("incl.event.*.artifact.*", "incl.event.*.trash.*", "incl.event.*.settlement.*")
)
TRACKER_REQUESTS = Durable(
    REQUESTS, "tracker", tuple(f"incl.request.*.*.{kind}.*" for kind in ("run", "runend", "trash", "restore"))
)
TRACKER_EVENTS = Durable(EVENTS, "tracker", ("incl.event.*.experiment.*", "incl.event.*.artifact.*"))
TRACKER_HISTORY = Durable(EVENTS, "tracker-history", ("incl.event.>",), owner="tracker")
"""Every event, for the history that outlives the stream."""


def _telemetry(stream: str, kind: str) -> tuple[Durable, ...]:
    """A durable for each partition. Its batches take about 0.1 s to store, so that all partitions have their turn."""
    return tuple(
        Durable(
            stream, f"tracker-{partition}", (f"incl.{kind}.{partition}.*.*.*.*",), ack_wait=30.0, max_ack_pending=4000,
            batch=200, batch_bytes=2 * MIB, owner="tracker",
        )
        for partition in range(PARTITIONS)
    )  # fmt: skip


TRACKER_METRICS = _telemetry(METRICS, "metrics")
"""By partition."""
TRACKER_LOGS = _telemetry(LOGS, "logs")
"""By partition."""
REGISTRY_EVENTS = Durable(EVENTS, "registry", ("incl.event.*.experiment.*", "incl.event.*.trash.*"))
HPO_REQUESTS = Durable(
    REQUESTS, "hpo", tuple(f"incl.request.*.*.{kind}.*" for kind in ("sweep", "sweepstop", "sweepresume"))
)
HPO_EVENTS = Durable(EVENTS, "hpo", ("incl.event.*.experiment.*", "incl.event.*.settlement.*"))
DURABLES = (
    PROVISIONER_REQUESTS,
    PROVISIONER_REPORTS,
    PROVISIONER_EVENTS,
    TRACKER_REQUESTS,
    TRACKER_EVENTS,
    TRACKER_HISTORY,
    *TRACKER_METRICS,
    *TRACKER_LOGS,
    REGISTRY_EVENTS,
    HPO_REQUESTS,
    HPO_EVENTS,
)


def streams(limits: Limits | None = None, replicas: int = 1) -> tuple[api.StreamConfig, ...]:
    """Every stream as the server is asked for it. Requests, reports and telemetry are kept until handled."""
    limits = limits or Limits()
    queue, disk = api.RetentionPolicy.WORK_QUEUE, api.StorageType.FILE
    base = api.StreamConfig(
        num_replicas=replicas, storage=disk, retention=api.RetentionPolicy.LIMITS, discard=api.DiscardPolicy.NEW,
        duplicate_window=600.0, allow_direct=True, max_age=0.0, max_bytes=-1, max_msgs=-1, max_consumers=-1,
    )  # fmt: skip
    full = {"retention": queue, "duplicate_window": 120.0}
    return (
        base.evolve(name=REQUESTS, subjects=["incl.request.>"], retention=queue, max_bytes=limits.requests_bytes),
        base.evolve(
            name=EVENTS, subjects=["incl.event.>"], max_age=limits.events_age_s, max_bytes=limits.events_bytes,
            discard=api.DiscardPolicy.OLD, deny_delete=True, deny_purge=True,
        ),
        base.evolve(
            name=REPORTS, subjects=["incl.report.*"], retention=queue, max_age=7 * DAY, max_bytes=_REPORTS_BYTES,
        ),
        base.evolve(name=METRICS, max_bytes=limits.metrics_bytes, **full, **_partitioned("metrics")),
        base.evolve(name=LOGS, max_bytes=limits.logs_bytes, **full, **_partitioned("logs")),
        base.evolve(
            name=LIVE, subjects=["incl.live.>"], storage=api.StorageType.MEMORY, discard=api.DiscardPolicy.OLD,
            max_age=300.0, max_bytes=limits.live_bytes, duplicate_window=10.0,
        ),
        base.evolve(
            name=CONTROL, subjects=["incl.control.*"], max_msgs_per_subject=1, discard=api.DiscardPolicy.OLD,
        ),
        base.evolve(
            name=DEAD, subjects=["incl.dead.>", ADVISORIES], discard=api.DiscardPolicy.OLD,
            max_age=limits.dead_age_s, max_bytes=_DEAD_BYTES,
        ),
    )  # fmt: skip


def _partitioned(kind: str) -> dict[str, Any]:
    """incl.metrics.<project>.<experiment>.… is stored as incl.metrics.<partition>.<project>.<experiment>.…

    The wildcard of the stream has just as many tokens, so that nobody can publish to a partition of his choice.
    """
    sent = f"incl.{kind}.*.*.*.*"
    rest = ".".join(f"{{{{wildcard({token})}}}}" for token in range(1, 5))
    stored = f"incl.{kind}.{{{{partition({PARTITIONS},2)}}}}.{rest}"
    return {"subjects": [sent], "subject_transform": api.SubjectTransform(src=sent, dest=stored)}


def partition_of(experiment: str) -> int:
    """The partition that the server stores an experiment's telemetry in: FNV-1a of the token, 32 bits."""
    value = 2_166_136_261
    for byte in experiment.encode():
        value = ((value ^ byte) * 16_777_619) & 0xFFFF_FFFF
    return value % PARTITIONS


@dataclass
class Applied:
    """What `apply` did, by stream name."""

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)


async def apply(js: JetStreamContext, *, replicas: int = 1, limits: Limits | None = None) -> Applied:
    """Create or update every stream; done again, nothing happens.

    Raises:
        ConflictError: when an update would throw stored messages away or change how a stream keeps them.
        UnavailableError: the server has no room for a stream, or does not answer.
    """
    done = Applied()
    for wanted in streams(limits, replicas):
        try:
            await _apply_one(js, wanted, done)
        except APIError as error:
            raise UnavailableError(
                f"stream {wanted.name} cannot be made",
                cause=str(error.description),
                hint="give the server more room (max_file_store), or the streams lower limits",
            ) from error
    return done


async def _apply_one(js: JetStreamContext, wanted: api.StreamConfig, done: Applied) -> None:
    name = str(wanted.name)
    try:
        info = await js.stream_info(name)
    except NotFoundError:
        await js.add_stream(wanted)
        done.created.append(name)
        return
    changed = _differences(wanted, info.config)
    if changed:
        _refuse_loss(wanted, info, changed)
        await js.update_stream(wanted)
        done.updated.append(name)


_STREAM_FIELDS = (
    "subjects", "retention", "max_age", "max_bytes", "discard", "storage", "num_replicas", "duplicate_window",
    "max_msgs_per_subject", "allow_direct", "deny_delete", "deny_purge",
    "subject_transform",
)  # fmt: skip


def _differences(wanted: api.StreamConfig, found: api.StreamConfig) -> set[str]:
    return {name for name in _STREAM_FIELDS if _plain(getattr(wanted, name)) != _plain(getattr(found, name))}


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, list) else getattr(value, "value", value) or None


def _refuse_loss(wanted: api.StreamConfig, info: api.StreamInfo, changed: set[str]) -> None:
    found = info.config
    reasons = [
        f"{name} is {getattr(found, name)}, wanted {getattr(wanted, name)}"
        for name in ("retention", "storage")
        if name in changed
    ]
    if info.state.messages:
        limit = wanted.max_bytes or -1
        if 0 < limit < info.state.bytes:
            reasons.append(f"{info.state.bytes} bytes are stored, the new limit is {limit}")
        if wanted.max_age and (not found.max_age or wanted.max_age < found.max_age):
            reasons.append(f"messages are kept {found.max_age or 0:.0f} s, the new limit is {wanted.max_age:.0f} s")
        gone = set(found.subjects or ()) - set(wanted.subjects or ())
        if "subject_transform" in changed:
            reasons.append("it would be cut into other partitions")
        if gone:
            reasons.append(f"subjects would go: {', '.join(sorted(gone))}")
    if reasons:
        raise ConflictError(
            f"stream {wanted.name} cannot be changed without losing messages",
            cause="; ".join(reasons),
            hint="keep the old limits, or archive the stream and delete it first",
        )


_DURABLE_FIELDS = ("ack_wait", "max_ack_pending", "max_deliver")


def drifted(durable: Durable, found: api.ConsumerConfig) -> bool:
    """Whether the server's durable is not the declared one."""
    wanted = durable.config()
    filters = found.filter_subjects or ([found.filter_subject] if found.filter_subject else [])
    return sorted(filters) != sorted(durable.filters) or any(
        getattr(found, name) != getattr(wanted, name) for name in _DURABLE_FIELDS
    )


async def ensure_all(js: JetStreamContext, durables: Iterable[Durable]) -> None:
    """Make all of them be there, at once."""
    await gather(*(ensure_durable(js, durable) for durable in durables))


async def recreate(js: JetStreamContext, durable: Durable) -> None:
    """Make it anew: what was delivered and not acknowledged comes again at once, in its order.

    For a stream that keeps messages until they are acknowledged; any other would be read again from its beginning.
    """
    with contextlib.suppress(NotFoundError):
        await js.delete_consumer(durable.stream, durable.name)
    await ensure_durable(js, durable)


async def ensure_durable(js: JetStreamContext, durable: Durable) -> str:
    """Make the durable be there as declared: 'kept', 'created' or 'updated'.

    Raises:
        nats.js.errors.NotFoundError: when the stream is not there.
        nats.errors.Error: when the server cannot be asked.
    """
    try:
        info = await js.consumer_info(durable.stream, durable.name)
    except NotFoundError as error:
        if error.err_code == _STREAM_NOT_FOUND:
            raise
        await js.add_consumer(durable.stream, durable.config())
        return "created"
    if info.config is not None and not drifted(durable, info.config):
        return "kept"
    await js.add_consumer(durable.stream, durable.config())
    return "updated"


_STREAM_NOT_FOUND = 10_059


def renamed(durable: Durable, name: str) -> Durable:
    """The same durable under another name (a second reader of the same subjects)."""
    return replace(durable, name=name)
