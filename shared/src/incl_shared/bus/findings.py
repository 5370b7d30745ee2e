"""What stands still in any service, told from what its bus runtime holds in memory; and by its own tables.

`serve_stuck(bus, ProvisionerStuck, more)` answers the question with both; a database that cannot be asked is a finding
itself, and holds the answer up for READ_S seconds at most.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    else:
        yield from _consumers(service, health.consumers, patience)
    if health.outbox_age > patience(OUTBOX_LATE_S):
        depth = bus.outbox_depth
        yield Finding(
            kind="outbox.waiting", severity="error", subject=service, since_s=health.outbox_age,
            reason=f"{depth} events are not sent: {health.outbox_trouble or 'the relay has not come to them'}",
            hint="they go by themselves once the bus takes them: incl status",
        )  # fmt: skip


def _consumers(
    service: str, consumers: Sequence[ConsumerHealth], patience: Callable[[float], float]
) -> Iterator[Finding]:
    """Those that stand still, one finding for all that do so for the same reason."""
    alike: dict[tuple[str, str], list[tuple[float, ConsumerHealth]]] = {}
    for consumer in consumers:
        kind, reason, since, usual = _standing(consumer)
        if kind and since > patience(usual):
            alike.setdefault((kind, reason), []).append((since, consumer))
    for (kind, reason), some in alike.items():
        since, first = max(some, key=lambda one: one[0])
        more = f" and {len(some) - 1} more" if len(some) > 1 else ""
        pending = sum(consumer.pending for _, consumer in some)
        severity, hint = _CONSUMER[kind]
        yield Finding(
            kind=kind, severity=severity, subject=f"{service} {first.stream}/{first.durable}{more}", since_s=since,
            reason=f"{reason}; {pending} more wait" if pending else reason, hint=hint.format(service=service),
        )  # fmt: skip


_CONSUMER: dict[str, tuple[Literal["warning", "error"], str]] = {
    "consumer.paused": ("error", "free the database (a lock, a full disk); no message is lost meanwhile"),
    "consumer.not-fetching": ("error", "it binds itself anew; if not: incl doctor"),
    "consumer.behind": ("warning", "see the log of the {service}"),
}


def _standing(consumer: ConsumerHealth) -> tuple[str, str, float, float]:
    """(kind, reason, seconds, seconds that are usual) of one consumer; no kind: it is well."""
    if consumer.paused:
        return "consumer.paused", f"waits for the database: {consumer.paused}", consumer.paused_s, _LEASE_S
    if consumer.trouble or not consumer.live:
        reason = consumer.trouble or "the server has said nothing for it"
        return "consumer.not-fetching", reason, consumer.fetch_age, BEHIND_S
    if consumer.lag:
        return "consumer.behind", "the oldest message at hand is not handled", consumer.lag, BEHIND_S
    return "", "", 0.0, 0.0


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
