"""What stands still in any service, told from what its bus runtime holds in memory; and by its own tables.

`serve_stuck(bus, ProvisionerStuck, more)` answers the question with both; a database that cannot be asked is a finding
itself, and holds the answer up for READ_S seconds at most.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from incl_shared.bus.runtime import OUTBOX_LATE_S, ConsumerHealth
from incl_shared.bus.tables import leases
from incl_shared.db import DatabaseUnavailable
from incl_shared.disk import disk
from incl_shared.queries.stuck import MOST, Finding, Findings

if TYPE_CHECKING:
    from incl_shared.bus.runtime import Bus
    from incl_shared.db import Database
    from incl_shared.subjects import Asker

READ_S = 2.0
BEHIND_S = 30.0
"""Older than this must no message at hand be, nor any that waits be unfetched for."""
_LEASE_S = 5.0
More = Callable[[Any], Awaitable[Sequence[Finding]]]
"""What a service adds: gets the question."""


def serve_stuck(bus: Bus, kind: type[Any], more: More | None = None) -> None:
    """Answer a `…Stuck` question. Before the bus starts."""

    async def answer(_: Asker, query: Any) -> Findings:
        found = [*of_bus(bus, query.patience)]
        if bus.database is not None:
            found += [*of_disk(bus), *await _asked(bus, query, more)]
        return bounded(found)

    bus.serve(kind, answer)


def bounded(found: Sequence[Finding]) -> Findings:
    """At most MOST of each kind, the longest first."""
    count: Counter[str] = Counter()
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda one: -(one.since_s or 0.0)):
        count[finding.kind] += 1
        if count[finding.kind] <= MOST:
            kept.append(finding)
    return Findings(findings=tuple(kept), more={kind: n - MOST for kind, n in count.items() if n > MOST})


async def _asked(bus: Bus, query: Any, more: More | None) -> list[Finding]:
    assert bus.database is not None
    service, database, now = bus.service, bus.database, bus.clock.now()
    try:
        async with asyncio.timeout(READ_S):
            held = await database.read(lambda connection: list(of_leases(connection, now, query.patience(_LEASE_S))))
            return [*held, *(await more(query) if more is not None else ())]
    except TimeoutError:
        text = f"no answer within {READ_S:.0f} s"
    except DatabaseUnavailable as error:
        text = error.cause or error.message
    return [
        Finding(
            kind="database.away", severity="error", subject=service, reason=f"the {service} cannot read: {text}",
            hint="make it answer again; everything goes on by itself then",
        )
    ]  # fmt: skip


def of_bus(bus: Bus, patience: Callable[[float], float]) -> Iterator[Finding]:
    """Consumers that do not consume, and events that are not sent."""
    health, service = bus.health(), bus.service
    if health.started and not health.connected:
        yield Finding(
            kind="bus.away", severity="error", subject=service, since_s=bus.metrics.recovery.bus.seconds,
            reason=f"the {service} does not reach the bus", hint="incl status",
        )  # fmt: skip
    for consumer in health.consumers:
        yield from _consumer(service, consumer, patience)
    if health.outbox_age > patience(OUTBOX_LATE_S):
        depth = bus.outbox_depth
        yield Finding(
            kind="outbox.waiting", severity="error", subject=service, since_s=health.outbox_age,
            reason=f"{depth} events are not sent: {health.outbox_trouble or 'the relay has not come to them'}",
            hint="they go by themselves once the bus takes them: incl status",
        )  # fmt: skip


def _consumer(service: str, consumer: ConsumerHealth, patience: Callable[[float], float]) -> Iterator[Finding]:
    subject, behind = f"{service} {consumer.stream}/{consumer.durable}", _behind(consumer)
    if consumer.paused:
        if consumer.paused_s > patience(_LEASE_S):
            yield Finding(
                kind="consumer.paused", severity="error", subject=subject, since_s=consumer.paused_s,
                reason=f"waits for the database: {consumer.paused}{behind}",
                hint="free the database (a lock, a full disk); no message is lost meanwhile",
            )  # fmt: skip
    elif consumer.trouble or not consumer.live:
        if consumer.fetch_age > patience(BEHIND_S):
            yield Finding(
                kind="consumer.not-fetching", severity="error", subject=subject, since_s=consumer.fetch_age,
                reason=(consumer.trouble or "the server has said nothing for it") + behind,
                hint="it binds itself anew; if not: incl doctor",
            )  # fmt: skip
    elif consumer.lag > patience(BEHIND_S):
        yield Finding(
            kind="consumer.behind", severity="warning", subject=subject, since_s=consumer.lag,
            reason=f"the oldest message at hand is not handled{behind}", hint=f"see the log of the {service}",
        )  # fmt: skip


def _behind(consumer: ConsumerHealth) -> str:
    return f"; {consumer.pending} more wait" if consumer.pending else ""


def of_leases(connection: sa.Connection, now: float, patience: float) -> Iterator[Finding]:
    """Work of one at a time that nobody does, by who had it."""
    free = sa.select(leases).where(leases.c.expires < now - patience, leases.c.name.not_like("%member.%"))
    names: dict[str, list[str]] = {}
    since: dict[str, float] = {}
    for row in connection.execute(free.order_by(leases.c.name)):
        names.setdefault(row.holder, []).append(row.name)
        since[row.holder] = max(since.get(row.holder, 0.0), row.expires)
    for holder, some in names.items():
        who = f"{holder} has not renewed it" if holder else "it was given up, and nobody has taken it"
        more = f" and {len(some) - 1} more" if len(some) > 1 else ""
        yield Finding(
            kind="lease.free", severity="error", subject=f"{some[0]}{more}",
            since_s=now - since[holder] if since[holder] else None, reason=f"nobody holds {', '.join(some)}: {who}",
            hint="is the service up, and does its database answer? incl status",
        )  # fmt: skip


def of_disk(bus: Bus) -> Iterator[Finding]:
    """Room for the database, where it is a file."""
    path = _file_of(bus.database)
    if path is None:
        return
    yield from disk(str(Path(path).parent))


def _file_of(database: Database | None) -> str | None:
    if database is None or database.dialect != "sqlite":
        return None
    return sa.make_url(database.url).database
