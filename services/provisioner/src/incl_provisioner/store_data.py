"""The SQL of read-only disks of snapshots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from incl_provisioner import store_gangs
from incl_provisioner.domain.cloud.data_disks import DataDisk, Phase, disk_name
from incl_provisioner.domain.cloud.gangs import Gang
from incl_provisioner.store_gangs import Key, verdict_of
from incl_provisioner.tables import data_disks
from incl_shared.db import insert_ignore

_d = data_disks.c
_LIVE = sa.text("data_disks.live = 1")


def of_all(connection: sa.Connection, since: float) -> dict[str, DataDisk]:
    """Every disk of which something may be left, and those that are gone since then; by name."""
    found = sa.select(_d.state).where(sa.or_(_LIVE, _d.ended >= since))
    return {disk.name: disk for disk in map(parse, connection.execute(found).scalars())}


def any_open(connection: sa.Connection) -> bool:
    """Whether something is to be done about a disk soon."""
    rows = connection.execute(sa.select(_d.state).where(_LIVE)).scalars()
    return any(parse(text).phase is not Phase.READY for text in rows)


def load(connection: sa.Connection, name: str) -> DataDisk | None:
    """One disk."""
    text = connection.execute(sa.select(_d.state).where(_d.name == name)).scalar()
    return None if text is None else parse(text)


def want(connection: sa.Connection, platform: str, snapshot: str, zone: str, kind: str, now: float) -> DataDisk:
    """An intent: another disk of a snapshot is wanted, and nothing was asked for yet."""
    mine = (_d.snapshot == snapshot, _d.zone == zone, _d.kind == kind)
    count = connection.execute(sa.select(sa.func.count()).where(*mine)).scalar() or 0
    name = disk_name(platform, snapshot, zone, kind, count + 1)
    disk = DataDisk(name, zone, snapshot, kind, created=now, since=now, used=now)
    values = {
        "name": name, "zone": zone, "snapshot": snapshot, "kind": kind, "live": 1, "state": dump(disk), "created": now,
    }  # fmt: skip
    connection.execute(insert_ignore(connection, data_disks), values)
    return load(connection, name) or disk


def save(connection: sa.Connection, before: DataDisk, after: DataDisk, now: float) -> bool:
    """Replace a disk; False when it is not `before` any more, or a gang has it now; nothing is changed then."""
    ending = after.phase is Phase.ENDING and before.phase is Phase.READY
    if ending and holders(connection).get(before.name):
        return False
    values: dict[str, Any] = {"state": dump(after)}
    if not after.live:
        values |= {"live": 0, "ended": now}
    # Compared as it is read, not as text: a release that knew less of a disk wrote the same one otherwise.
    text = connection.execute(sa.select(_d.state).where(_d.name == before.name)).scalar()
    if text is None or parse(text) != before:
        return False
    same = (_d.name == before.name, _d.state == text)
    return bool(connection.execute(sa.update(data_disks).where(*same).values(values)).rowcount)


def hold(connection: sa.Connection, names: Sequence[str], now: float) -> bool:
    """A gang is about to have these. False: one is not ready (any more)."""
    for name in names:
        disk = load(connection, name)
        if disk is None or disk.phase is not Phase.READY or not save(connection, disk, replace(disk, used=now), now):
            return False
    return True


def holders(connection: sa.Connection) -> dict[str, list[Gang]]:
    """Who has, or is about to have, each disk: the gangs of which something may be left."""
    return by_disk({key: row.gang for key, row in store_gangs.live(connection).items()})


def by_disk(gangs: Mapping[Key, Gang]) -> dict[str, list[Gang]]:
    """The gangs of each disk."""
    found: dict[str, list[Gang]] = {}
    for gang in gangs.values():
        for name in gang.disks:
            found.setdefault(name, []).append(gang)
    return found


def loads(gangs: Iterable[Gang]) -> dict[str, int]:
    """How many machines each disk has, or is about to have."""
    found: dict[str, int] = {}
    for gang in gangs:
        for name in gang.disks:
            found[name] = found.get(name, 0) + gang.nodes
    return found


# -- a disk as text --


def dump(disk: DataDisk) -> str:
    """A disk: the same one is always the same text."""
    return json.dumps(asdict(disk), sort_keys=True)


def parse(text: str) -> DataDisk:
    """The disk of a text."""
    values: dict[str, Any] = json.loads(text)
    return DataDisk(**{**values, "phase": Phase(values["phase"]), "verdict": verdict_of(values["verdict"])})
