"""The SQL of machines in a cloud: gangs, the machines that enrolled, what the installation is known by."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import sqlalchemy as sa

from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.gangs import LAST, Absent, Gang, Phase
from incl_provisioner.domain.cloud.names import rank_of
from incl_provisioner.tables import enrolments, experiments, gangs, installation, nodes
from incl_shared.db import Transaction, insert_ignore
from incl_shared.ids import new_id

Key = tuple[str, int]
_g = gangs.c
_e = enrolments.c
_LIVE = sa.text("gangs.live = 1")
_ONE = (_g.experiment == sa.bindparam("key"), _g.attempt == sa.bindparam("of_attempt"))
_LOAD = sa.select(gangs).where(*_ONE)
_LOAD_LIVE = sa.select(gangs).where(_LIVE)
_LOAD_ALL = sa.select(gangs).where(_g.experiment.in_(sa.bindparam("keys", expanding=True)))
_ANY_LIVE = sa.select(_g.attempt).where(_LIVE).limit(1)
_UNWANT = (
    sa.update(gangs)
    .where(_g.experiment == sa.bindparam("key"), _g.attempt > sa.bindparam("above"), _g.wanted == 1, _LIVE)
    .values(wanted=0)
)
_UNWANT_ONE = sa.update(gangs).where(*_ONE, _g.wanted == 1, _LIVE).values(wanted=0)
_PREEMPTIONS = sa.select(_g.experiment, _g.preempted).where(
    _g.experiment.in_(sa.bindparam("keys", expanding=True)), _g.preempted.is_not(None)
)
_OWNERS = sa.select(*(experiments.c[name] for name in ("id", "project", "user", "attempt", "live"))).where(
    experiments.c.id.in_(sa.bindparam("keys", expanding=True))
)
_ENROLLED = sa.select(_e.rank, _e.turn, _e.key, _e.at).where(
    _e.experiment == sa.bindparam("key"), _e.attempt == sa.bindparam("of_attempt")
)
_ENROLLED_ALL = sa.select(_e.experiment, _e.attempt, _e.rank, _e.turn, _e.key, _e.at).where(
    _e.experiment.in_(sa.bindparam("keys", expanding=True))
)
_UNENROL = sa.delete(enrolments).where(
    _e.experiment == sa.bindparam("key"), _e.attempt == sa.bindparam("of_attempt"), _e.rank == sa.bindparam("of_rank")
)
_ENROL = sa.insert(enrolments)
_PREEMPTED = (
    sa.update(gangs)
    .where(*_ONE, sa.or_(_g.preempted.is_(None), _g.preempted < _g.made))
    .values(preempted=sa.bindparam("at"))
)
_SPOT_LIVES = sa.select(_g.zone, _g.machine, _g.made, _g.ended, _g.preempted).where(
    _g.spot == 1, _g.made.is_not(None), _g.made >= sa.bindparam("since"), _g.zone != ""
)
_NAMED = nodes.c.node.in_(sa.bindparam("names", expanding=True))
_VERSIONS = sa.select(nodes.c.node, nodes.c.version).where(_NAMED)
_DROP = sa.delete(nodes).where(_NAMED)
_STRANGER = sa.update(nodes).where(nodes.c.node == sa.bindparam("key")).values(alive=0, life="", journal="", refused="")
_STATE = tuple(each.name for each in fields(Gang) if each.name != "wanted")
_KNOWN_BY = sa.select(installation.c.name, installation.c.value)


@dataclass(frozen=True, slots=True)
class GangRow:
    """A gang with what the platform keeps of it besides. Times: epoch seconds; `asked`, `made`: of the last try."""

    gang: Gang
    live: bool
    created: float
    asked: float | None
    made: float | None
    preempted: float | None
    ended: float | None
    absent: Absent


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A machine that traded the token: in which try, and for which public key."""

    turn: int
    key: str
    at: float


def want(connection: sa.Connection, gang: Gang, now: float) -> None:
    """An intent: machines are wanted, and nothing was asked for yet. One that is there is left alone."""
    values = {**_values(gang), "experiment": gang.experiment, "attempt": gang.attempt, "created": now}
    connection.execute(insert_ignore(connection, gangs), {**values, "live": 1, "wanted": int(gang.wanted)})


def load(connection: sa.Connection, experiment: str, attempt: int) -> GangRow | None:
    """One gang."""
    row = connection.execute(_LOAD, {"key": experiment, "of_attempt": attempt}).first()
    return None if row is None else _row(row)


def load_all(connection: sa.Connection, ids: Iterable[str]) -> dict[Key, GangRow]:
    """Every gang of these experiments."""
    found = connection.execute(_LOAD_ALL, {"keys": sorted(ids)})
    return {row.gang.key: row for row in map(_row, found)}


def holder(connection: sa.Connection, node: str) -> Key | None:
    """The attempt that a machine is for now: the last one that has it."""
    place = rank_of(node)
    if place is None:
        return None
    found = load_all(connection, [place.experiment])
    having = [key for key, row in found.items() if place.rank < row.gang.nodes and row.gang.names[place.rank] == node]
    return max(having, default=None)


def silent(connection: sa.Connection, names: Sequence[str]) -> set[str]:
    """Those of these machines that are not known to live."""
    alive = sa.select(nodes.c.node).where(nodes.c.node.in_(names), nodes.c.alive == 1)
    return set(names) - set(connection.execute(alive).scalars())


def refused(connection: sa.Connection) -> dict[str, str]:
    """Machines that get no work though they speak, and why."""
    found = sa.select(nodes.c.node, nodes.c.refused).where(nodes.c.refused != "")
    return {row.node: row.refused for row in connection.execute(found)}


def live(connection: sa.Connection) -> dict[Key, GangRow]:
    """Every gang of which something may be left."""
    return {row.gang.key: row for row in map(_row, connection.execute(_LOAD_LIVE))}


def any_live(connection: sa.Connection) -> bool:
    """Whether something may be left of any gang."""
    return connection.execute(_ANY_LIVE).first() is not None


def of_project(connection: sa.Connection, project: str, experiment: str | None, most: int) -> list[GangRow]:
    """The gangs of a project that are live, or all of one experiment of it; the newest first."""
    found = (
        sa.select(gangs)
        .join(experiments, experiments.c.id == _g.experiment)
        .where(experiments.c.project == project)
        .order_by(_g.created.desc(), _g.experiment, _g.attempt.desc())
        .limit(most)
    )
    found = found.where(_LIVE) if experiment is None else found.where(_g.experiment == experiment)
    return [_row(row) for row in connection.execute(found)]


def save(connection: sa.Connection, before: Gang, after: Gang, now: float) -> bool:
    """Replace a gang; False when it is not `before` any more, and nothing is changed."""
    values = _values(after)
    if after.phase is Phase.ASKED and before.phase is Phase.PLANNED:
        values |= {"asked": now, "made": None}
    if after.phase is Phase.MADE and before.phase is not Phase.MADE:
        values |= {"made": now, "absent": ""}
    if after.phase in LAST:
        values |= {"live": 0, "ended": now}
    fresh = {f"new_{name}": value for name, value in values.items()}
    one = {"key": before.experiment, "of_attempt": before.attempt}
    same = {**one, "old_state": dump(before), "old_wanted": int(before.wanted)}
    if connection.execute(_replacing(tuple(values)), {**same, **fresh}).rowcount:
        return True
    # A release that knew less of a gang wrote the same one as another text.
    row = connection.execute(_LOAD, one).one_or_none()
    if row is None or row.state == same["old_state"] or parse(row.state, wanted=bool(row.wanted)) != before:
        return False
    return bool(connection.execute(_replacing(tuple(values)), {**same, **fresh, "old_state": row.state}).rowcount)


@functools.cache
def _replacing(names: tuple[str, ...]) -> sa.Update:
    """Replaces these columns of a gang that is as it was."""
    same = (*_ONE, _g.state == sa.bindparam("old_state"), _g.wanted == sa.bindparam("old_wanted"))
    return sa.update(gangs).where(*same).values({name: sa.bindparam(f"new_{name}") for name in names})


def unwant(connection: sa.Connection, experiment: str, above: int) -> bool:
    """The machines of attempts that will not begin are wanted no more: those above a number. Whether any was."""
    return bool(connection.execute(_UNWANT, {"key": experiment, "above": above}).rowcount)


def unwant_one(connection: sa.Connection, experiment: str, attempt: int) -> bool:
    """The machines of one attempt are wanted no more. Whether they were."""
    return bool(connection.execute(_UNWANT_ONE, {"key": experiment, "of_attempt": attempt}).rowcount)


def note_absent(connection: sa.Connection, gang: Gang, absent: Absent) -> None:
    """What the provider shows no more of a gang, or is deleting."""
    text = "|".join(",".join(map(str, ranks)) for ranks in (absent.gone, absent.going))
    same = (_g.experiment == gang.experiment, _g.attempt == gang.attempt)
    connection.execute(sa.update(gangs).where(*same).values(absent="" if absent == Absent() else text))


def note_preempted(connection: sa.Connection, experiment: str, attempt: int, at: float) -> bool:
    """The provider took a machine of it: the first time since its machines were made. Whether that is news."""
    return bool(connection.execute(_PREEMPTED, {"key": experiment, "of_attempt": attempt, "at": at}).rowcount)


def preemptions(connection: sa.Connection, ids: Iterable[str]) -> dict[str, list[float]]:
    """When attempts of these experiments were taken."""
    found: dict[str, list[float]] = {}
    for experiment, at in connection.execute(_PREEMPTIONS, {"keys": sorted(ids)}):
        found.setdefault(experiment, []).append(at)
    return found


def owners(connection: sa.Connection, ids: Iterable[str]) -> dict[str, sa.Row[Any]]:
    """(id, project, user, attempt, live) of experiments."""
    return {row.id: row for row in connection.execute(_OWNERS, {"keys": sorted(ids)})}


def spot_lives(connection: sa.Connection, since: float) -> list[tuple[str, str, float, float | None, bool]]:
    """(zone, machine, made, ended, preempted) of spot gangs that were made since then: what zones are judged by."""
    return [
        (zone, machine, made, preempted or ended, preempted is not None)
        for zone, machine, made, ended, preempted in connection.execute(_SPOT_LIVES, {"since": since})
    ]


def forget(connection: sa.Connection, experiment: str) -> None:
    """Keep nothing of an experiment's machines that are gone."""
    for table in (enrolments, gangs):
        which = [table.c.experiment == experiment]
        if table is gangs:
            which.append(_g.live == 0)
        connection.execute(sa.delete(table).where(*which))


def enrolled(connection: sa.Connection, experiment: str, attempt: int) -> dict[int, Enrolled]:
    """The machines of a gang that traded its token, by rank."""
    found = connection.execute(_ENROLLED, {"key": experiment, "of_attempt": attempt})
    return {rank: Enrolled(turn, key, at) for rank, turn, key, at in found}


def enrolled_all(connection: sa.Connection, ids: Iterable[str]) -> dict[Key, dict[int, Enrolled]]:
    """The machines that traded their tokens, of all gangs of these experiments."""
    found: dict[Key, dict[int, Enrolled]] = {}
    for experiment, attempt, rank, turn, key, at in connection.execute(_ENROLLED_ALL, {"keys": sorted(ids)}):
        found.setdefault((experiment, attempt), {})[rank] = Enrolled(turn, key, at)
    return found


def put_enrolled(connection: sa.Connection, experiment: str, attempt: int, rank: int, one: Enrolled) -> None:
    """A machine traded the token; what an earlier try's had is forgotten."""
    connection.execute(_UNENROL, {"key": experiment, "of_attempt": attempt, "of_rank": rank})
    connection.execute(_ENROL, {"experiment": experiment, "attempt": attempt, "rank": rank, **asdict(one)})


def stranger(connection: sa.Connection, node: str) -> None:
    """Another machine has this name now: what is known is of the one before, until it says hello."""
    connection.execute(_STRANGER, {"key": node})


def drop_nodes(connection: sa.Connection, names: Sequence[str]) -> dict[str, int]:
    """These machines are gone for good. Name -> version, of those that had said hello."""
    known = connection.execute(_VERSIONS, {"names": list(names)}).all()
    found: dict[str, int] = {row.node: row.version for row in known}
    connection.execute(_DROP, {"names": list(names)})
    return found


def known_by(tx: Transaction) -> tuple[str, str]:
    """(the id in the labels of machines, the key of the tokens) of this installation; made at the first time."""
    rows = tx.connection.execute(_KNOWN_BY).all()
    fresh = {} if rows else {"platform": new_id(), "token_key": secrets.token_hex(32)}
    for name, value in fresh.items():
        tx.connection.execute(insert_ignore(tx.connection, installation), {"name": name, "value": value})
    rows = rows or tx.connection.execute(_KNOWN_BY).all()
    found: dict[str, str] = {row.name: row.value for row in rows}
    return found["platform"], found["token_key"]


# -- a gang as text --


@functools.lru_cache(maxsize=4096)
def dump(gang: Gang) -> str:
    """A gang but for `wanted`: the same gang is always the same text. What is saved is what the next save compares."""
    values: dict[str, Any] = {name: getattr(gang, name) for name in _STATE}
    values["verdict"] = None if gang.verdict is None else asdict(gang.verdict)
    if not gang.asking:
        del values["asking"]  # as rows have it that were written before it was kept
    values["tried"], values["given"] = sorted(gang.tried), sorted(gang.given)
    return json.dumps(values, sort_keys=True)


@functools.lru_cache(maxsize=4096)
def parse(text: str, *, wanted: bool) -> Gang:
    """The gang of a text. Every round reads all that are live, and few of them have changed."""
    values: dict[str, Any] = json.loads(text)
    said = values.pop("verdict")
    gang = Gang(**{**values, "verdict": None, "wanted": wanted})
    return replace(
        gang, phase=Phase(gang.phase), zones=tuple(gang.zones), tried=frozenset(gang.tried), verdict=verdict_of(said),
        origins=tuple(gang.origins), given=frozenset(gang.given), disks=tuple(gang.disks),
    )  # fmt: skip


def verdict_of(said: Mapping[str, Any] | None) -> Verdict | None:
    if said is None:
        return None
    return Verdict(**{**said, "meaning": Meaning(said["meaning"]), "scope": Scope(said["scope"])})


def _values(gang: Gang) -> dict[str, Any]:
    return {
        "phase": gang.phase, "state": dump(gang), "machine": gang.machine, "zone": gang.zone, "spot": int(gang.spot),
    }  # fmt: skip


def _row(row: sa.Row[Any]) -> GangRow:
    gang = parse(row.state, wanted=bool(row.wanted))
    absent = _absent(row.absent)
    return GangRow(gang, bool(row.live), row.created, row.asked, row.made, row.preempted, row.ended, absent)


def _absent(text: str) -> Absent:
    """gone|going, each a list of ranks."""
    gone, _, going = text.partition("|")
    return Absent(*(tuple(int(rank) for rank in part.split(",") if rank) for part in (gone, going)))
