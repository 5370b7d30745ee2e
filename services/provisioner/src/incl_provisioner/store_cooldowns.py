"""The SQL of what is left alone in a cloud."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from incl_provisioner.domain.cloud.cooldowns import Cooling, CoolKey
from incl_provisioner.domain.cloud.errors import Scope
from incl_provisioner.tables import cooldowns

_c = cooldowns.c
_SPOT: dict[bool | None, str] = {True: "spot", False: "demand", None: "any"}
_KIND = {name: spot for spot, name in _SPOT.items()}
_REASON_MOST = 128


def load(connection: sa.Connection, latest: float) -> list[Cooling]:
    """Every cooldown. latest: none is taken to last longer: one that would was written while the clock was wrong."""
    found = []
    for row in connection.execute(sa.select(cooldowns)):
        key = CoolKey(Scope(row.scope), row.place, row.machine, _KIND[row.kind])
        found.append(Cooling(key, min(row.until, latest), row.level, row.reason, row.message, row.hint))
    return found


def save(connection: sa.Connection, changed: Iterable[Cooling], gone: Iterable[CoolKey]) -> None:
    """Write what has changed, and forget what is gone."""
    fresh = list(changed)
    for key in (*gone, *(each.key for each in fresh)):
        same = [_c[name] == value for name, value in _key(key).items()]
        connection.execute(sa.delete(cooldowns).where(*same))
    values = [
        {
            **_key(each.key), "until": each.until, "level": each.level, "reason": each.reason[:_REASON_MOST],
            "message": each.message, "hint": each.hint,
        }
        for each in fresh
    ]  # fmt: skip
    if values:
        connection.execute(sa.insert(cooldowns), values)


def _key(key: CoolKey) -> dict[str, Any]:
    return {"scope": key.scope.value, "place": key.place, "machine": key.machine, "kind": _SPOT[key.spot]}
