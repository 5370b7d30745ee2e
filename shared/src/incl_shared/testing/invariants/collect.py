"""Gathers evidence from a running platform: over the bus as administrator and as a person, by SQL on the tables that
every service has, and by the process table.

Nothing here waits; `when_quiet` looks again until nothing is left, for what is on its way takes a moment.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from nats.errors import TimeoutError as NatsTimeout
from nats.js import api

from incl_shared.bus import envelope as wire
from incl_shared.bus.deadletters import list_dead
from incl_shared.bus.tables import leases, outbox
from incl_shared.bus.topology import EVENTS, LOGS, METRICS, REPORTS, REQUESTS
from incl_shared.db import make_engine
from incl_shared.errors import NotFoundError
from incl_shared.events import REGISTER
from incl_shared.holders import is_gone
from incl_shared.queries.tracker import SYSTEM_PREFIX, GetExperiment, GetLogs, GetPoints, ListMetrics
from incl_shared.testing.invariants.evidence import Dead, Fact, Leftover, Stored, Told, point
from incl_shared.testing.wait import until

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from incl_shared.bus.client import BusClient
    from incl_shared.queries.base import AnswerT, Query

_FETCH = 500
_ASK_S = 20.0


@dataclass(frozen=True)
class Person:
    """Who asks the tracker: a connection with a person's credential."""

    client: BusClient
    project: str
    user: str

    async def ask(self, query: Query[AnswerT]) -> AnswerT:
        """The answer, or the InclError that came back."""
        return await self.client.ask(query, project=self.project, user=self.user, timeout=_ASK_S)


async def facts(admin: BusClient) -> tuple[Fact, ...]:
    """Every event in EVENTS. What is none is no fact: that it is buried is told by the dead letters."""
    js, found = admin.jetstream(), []
    config = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE, deliver_policy=api.DeliverPolicy.ALL)
    reader = await js.pull_subscribe("incl.event.>", stream=EVENTS, config=config)
    try:
        left = (await reader.consumer_info()).num_pending or 0
        while left > 0:
            messages = await reader.fetch(min(_FETCH, left), timeout=_ASK_S)
            left -= len(messages)
            found += [fact for fact in map(_fact, messages) if fact is not None]
    except NatsTimeout:
        raise AssertionError("the events could not be read in time") from None
    finally:
        name = (await reader.consumer_info()).name
        await reader.unsubscribe()
        await js.delete_consumer(EVENTS, name)
    return tuple(found)


def _fact(message: Any) -> Fact | None:
    said = wire.decode(message.headers or {})
    if said is None or said.type not in REGISTER:
        return None
    try:
        event = REGISTER[said.type].read(message.data)
    except ValueError:
        return None
    return Fact(int(message.metadata.sequence.stream), said.id, said.version, event, said.time)


async def dead_letters(admin: BusClient) -> tuple[Dead, ...]:
    """Every dead letter."""
    found = await list_dead(admin)
    return tuple(Dead(letter.stream, letter.durable, letter.id, letter.reason) for letter in found)


async def told(person: Person, experiment: str) -> Told | None:
    """What the tracker says; None: it does not know the experiment."""
    try:
        view = await person.ask(GetExperiment(ref=experiment))
    except NotFoundError:
        return None
    lost = {attempt.attempt: attempt.gaps for attempt in view.attempts if attempt.gaps}
    return Told(experiment, view.row.state, view.row.attempts, view.settled, lost)


async def stored(person: Person, experiment: str, attempts: Iterable[int], rank: int = 0) -> tuple[Stored, ...]:
    """Every point and every line of its own that the tracker has of one rank (no samples, no words of the platform)."""
    found: list[Stored] = []
    names = [metric.name for metric in await _metrics(person, experiment)]
    for attempt in attempts:
        for name in names:
            found += await _points(person, experiment, attempt, rank, name)
        found += await _lines(person, experiment, attempt, rank)
    return tuple(found)


async def _metrics(person: Person, experiment: str) -> list[Any]:
    found, cursor = [], None
    while True:
        page = await person.ask(ListMetrics(experiment=experiment, cursor=cursor))
        found += [metric for metric in page.metrics if not metric.name.startswith(SYSTEM_PREFIX)]
        cursor = page.cursor
        if cursor is None:
            return found


async def _points(person: Person, experiment: str, attempt: int, rank: int, metric: str) -> list[Stored]:
    found: list[Stored] = []
    cursor = None
    while True:
        query = GetPoints(experiment=experiment, metric=metric, attempt=attempt, rank=rank, cursor=cursor)
        page = await person.ask(query)
        pairs = zip(page.steps, page.values, strict=True)
        found += [Stored(experiment, attempt, rank, "metrics", point(metric, s, float(v))) for s, v in pairs]
        cursor = page.cursor
        if cursor is None:
            return found


async def _lines(person: Person, experiment: str, attempt: int, rank: int) -> list[Stored]:
    found: list[Stored] = []
    after, more = 0, True
    while more:
        page = await person.ask(GetLogs(experiment=experiment, attempt=attempt, rank=rank, after=after))
        own = [line for line in page.lines if line.stream != "sys"]
        found += [Stored(experiment, attempt, rank, "logs", line.text) for line in own]
        after, more = page.cursor, page.more
    return found


async def waiting_messages(admin: BusClient) -> list[Leftover]:
    """What lies in the streams that keep messages until they are handled."""
    js, found = admin.jetstream(), []
    for stream in (REQUESTS, REPORTS, METRICS, LOGS):
        count = (await js.stream_info(stream)).state.messages
        if count:
            found.append(Leftover("message", f"{count} in {stream}{await _whose(js, stream)}"))
    return found


async def _whose(js: JetStreamContext, stream: str) -> str:
    """Who has them: a message that no durable waits for was handled, and the bus did not take it away."""
    said = [
        f"{info.name} has {info.num_ack_pending} and waits for {info.num_pending}, redelivered {info.num_redelivered}"
        for info in await js.consumers_info(stream)
        if info.num_ack_pending or info.num_pending
    ]
    return f" ({'; '.join(said) or 'no durable waits for them'})"


def database_leftovers(name: str, url: str, *, stopped: bool = False) -> list[Leftover]:
    """Events that are not sent, and leases that somebody holds who lives no more; once it is stopped, any lease."""
    engine = make_engine(url, write=False, size=1)
    try:
        with engine.connect() as connection:
            unsent = connection.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one()
            held = connection.execute(
                sa.select(leases.c.name, leases.c.holder).where(leases.c.holder != "", leases.c.expires > time.time())
            ).all()
    finally:
        engine.dispose()
    left = [Leftover("outbox", f"{unsent} events of {name}")] if unsent else []
    gone = [row for row in held if stopped or is_gone(row.holder)]
    return left + [Leftover("lease", f"{row.name} of {name}, by {row.holder}") for row in gone]


def folder_leftovers(folder: Path) -> list[Leftover]:
    """Job folders below the agent's `jobs`."""
    if not folder.exists():
        return []
    return [Leftover("folder", str(path.name)) for path in sorted(folder.iterdir())]


def credential_leftovers(data: Path, known: Path) -> list[Leftover]:
    """Files of credentials and seeds that lie anywhere but where the platform's own do."""
    found = [path for path in data.rglob("*") if path.suffix in (".creds", ".jwt", ".nk", ".seed")]
    mine = [path for path in found if not path.is_relative_to(known) and "keys" not in path.relative_to(data).parts]
    return [Leftover("credential", str(path.relative_to(data))) for path in mine]


def process_leftovers(jobs: Path) -> list[Leftover]:
    """Processes of jobs, and their shims: those that carry the folder of a job in their words or environment."""
    mark = f"{jobs}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        words = environment = b""
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        if words and (mark in words or mark in environment):
            text = words.replace(b"\0", b" ").decode(errors="replace").strip()
            found.append(Leftover("process", f"{entry.name}: {text[:160]}"))
    return found


async def when_quiet(
    look: Callable[[], Awaitable[list[Leftover]]],
    timeout: float = 30.0,  # noqa: ASYNC109
) -> tuple[Leftover, ...]:
    """What is left once nothing is, or when the time is over."""
    left: list[Leftover] = []

    async def nothing() -> bool:
        left[:] = await look()
        return not left

    with contextlib.suppress(AssertionError):
        await until(nothing, timeout, every=0.25, what="nothing to be left")
    return tuple(left)
