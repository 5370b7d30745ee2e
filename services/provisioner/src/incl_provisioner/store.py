"""All SQL of the provisioner. Functions take the connection of a transaction (or of a read) and give plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam

from incl_provisioner.domain.attempt import RankState
from incl_provisioner.domain.cloud.names import Place, rank_of
from incl_provisioner.domain.placement import Demand, Room, Runtime, Slot
from incl_provisioner.tables import changes, experiments, nodes, ranks, timers
from incl_shared.states import AttemptState, ExperimentState

K = TypeVar("K")
_LIVE_EXPERIMENT = sa.text("experiments.live = 1")
_LIVE_RANK = sa.text("ranks.live = 1")
_CHUNK = 500


@dataclass(slots=True)
class Execution:
    """The row of an experiment, but for its request. What changes is written back by `save`."""

    id: str
    project: str
    user: str
    name: str
    live: bool
    state: ExperimentState
    version: int
    priority: int
    demand: Demand
    retry: str
    grace: float
    created: float
    not_before: float = 0.0
    waiting: str = ""
    blocked_since: float | None = None
    attempt: int = 0
    attempt_state: AttemptState | None = None
    """The last that was told: the quiet states between follow from the ranks."""
    attempt_stopping: bool = False
    attempt_checkpoint: str | None = None
    port: int | None = None
    checkpoint: str | None = None
    reason: str | None = None
    ended: float | None = None
    cloud: bool = False
    """Whether its machines are made for it."""


@dataclass(slots=True)
class RankRow:
    """The row of a rank."""

    experiment: str
    attempt: int
    rank: int
    live: bool
    node: str
    address: str
    gpus: tuple[int, ...]
    state: RankState
    times: str
    finish: str | None
    said: int = 0

    @property
    def slot(self) -> Slot:
        """Where it is."""
        return Slot(self.rank, self.node, self.address, self.gpus)


@dataclass(slots=True)
class NodeRow:
    """The row of a machine."""

    node: str
    alive: bool
    version: int
    address: str
    cpu: int
    memory: int
    gpus: int
    runtimes: tuple[str, ...]
    seen: float
    generation: int
    life: str = ""
    journal: str = ""
    said: int = 0
    refused: str = ""

    @property
    def made_for(self) -> Place | None:
        """Which rank it was made for; none: it is there for all."""
        return rank_of(self.node)

    def room(self) -> Room:
        """The machine, empty, for the scheduler."""
        runtimes = frozenset(self.runtimes)
        return Room(self.node, self.address, self.cpu, self.memory, self.gpus, runtimes, alive=self.alive)


_FIELDS = fields(Execution)
_HEAVY = {"request", "digest"}
_COLUMNS = [column for column in experiments.c if column.name not in _HEAVY]
_MUTABLE = (
    "live", "state", "version", "not_before", "waiting", "blocked_since", "attempt", "attempt_state",
    "attempt_stopping", "attempt_checkpoint", "port", "checkpoint", "reason", "ended",
)  # fmt: skip
_LOAD = sa.select(*_COLUMNS).where(experiments.c.id == bindparam("key")).with_for_update()
_PEEK = sa.select(*_COLUMNS).where(experiments.c.id == bindparam("key"))
_LOAD_MANY = sa.select(*_COLUMNS).where(experiments.c.id.in_(bindparam("keys", expanding=True))).with_for_update()
_PEEK_MANY = sa.select(*_COLUMNS).where(experiments.c.id.in_(bindparam("keys", expanding=True)))
_LOAD_LIVE = sa.select(*_COLUMNS).where(_LIVE_EXPERIMENT)
_QUEUE = (
    sa.select(*_COLUMNS)
    .where(_LIVE_EXPERIMENT, experiments.c.state == "queued", experiments.c.project == bindparam("of_project"))
    .order_by(experiments.c.priority.desc(), experiments.c.created, experiments.c.id)
    .limit(bindparam("most"))
)
_STATES = sa.select(experiments.c.state, sa.func.count()).where(_LIVE_EXPERIMENT).group_by(experiments.c.state)
_SAVE = (
    sa.update(experiments)
    .where(experiments.c.id == bindparam("key"))
    .values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)
_REQUESTS = sa.select(experiments.c.id, experiments.c.request).where(
    experiments.c.id.in_(bindparam("keys", expanding=True))
)
_IDENTITY = sa.select(experiments.c.project, experiments.c.user, experiments.c.digest).where(
    experiments.c.id == bindparam("key")
)
_INSERT = sa.insert(experiments)
_PREFIX = "rank_"
_WITH_RANK = (
    sa.select(*_COLUMNS, *(column.label(f"{_PREFIX}{column.name}") for column in ranks.c))
    .join(ranks, sa.and_(ranks.c.experiment == experiments.c.id, ranks.c.attempt == experiments.c.attempt))
    .where(
        experiments.c.id == bindparam("key"),
        ranks.c.attempt == bindparam("of_attempt"),
        ranks.c.rank == bindparam("of_rank"),
    )
    .with_for_update()
)
_RANKS = (
    sa.select(ranks)
    .where(ranks.c.experiment == bindparam("key"), ranks.c.attempt == bindparam("of_attempt"))
    .order_by(ranks.c.rank)
)
_RANKS_NOW = sa.select(ranks).join(
    experiments, sa.and_(experiments.c.id == ranks.c.experiment, experiments.c.attempt == ranks.c.attempt)
)
_RANKS_MANY = _RANKS_NOW.where(ranks.c.experiment.in_(bindparam("keys", expanding=True)))
_RANKS_LIVE = _RANKS_NOW.where(_LIVE_EXPERIMENT)
_ON_NODE = sa.select(ranks).where(_LIVE_RANK, ranks.c.node == bindparam("key"))
_COUNTS = (
    sa.select(ranks.c.state, sa.func.count())
    .where(ranks.c.experiment == bindparam("key"), ranks.c.attempt == bindparam("of_attempt"))
    .group_by(ranks.c.state)
)
_SAVE_RANK = (
    sa.update(ranks)
    .where(
        ranks.c.experiment == bindparam("key"),
        ranks.c.attempt == bindparam("of_attempt"),
        ranks.c.rank == bindparam("of_rank"),
    )
    .values({name: bindparam(f"new_{name}") for name in ("live", "state", "times", "finish", "said")})
)
_RANK_FIELDS = ("experiment", "attempt", "rank", "live", "node", "address", "gpus", "state", "times", "finish", "said")
_INSERT_RANKS = sa.insert(ranks)
_NODE = sa.select(nodes).where(nodes.c.node == bindparam("key")).with_for_update()
_NODES = sa.select(nodes).order_by(nodes.c.node)
_NODES_MANY = _NODES.where(nodes.c.node.in_(bindparam("keys", expanding=True)))
_INSERT_NODE = sa.insert(nodes)
_PUT_NODE = (
    sa.update(nodes)
    .where(nodes.c.node == bindparam("key"))
    .values({column.name: bindparam(f"new_{column.name}") for column in nodes.c if column.name != "node"})
)
_BEAT = (
    sa.update(nodes)
    .where(nodes.c.node == bindparam("key"), nodes.c.alive == 1, nodes.c.generation >= bindparam("of_generation"))
    .values(seen=bindparam("new_seen"))
)
_GENERATION = sa.update(nodes).where(nodes.c.node == bindparam("key")).values(generation=bindparam("new_generation"))
_CHANGED = sa.insert(changes)
_CHANGES = sa.select(changes).order_by(changes.c.id)
_FORGET = sa.delete(changes).where(changes.c.id.in_(bindparam("keys", expanding=True)))
_DUE = sa.select(timers).where(timers.c.due <= bindparam("now")).order_by(timers.c.due).limit(500)
_NEXT_DUE = sa.select(sa.func.min(timers.c.due))
_ARM = sa.insert(timers)
_DISARM = sa.delete(timers).where(timers.c.kind == bindparam("of_kind"), timers.c.key == bindparam("of_key"))
_HASTEN = sa.update(timers).where(timers.c.kind == bindparam("of_kind")).values(due=0.0)


# experiments


def identity(connection: sa.Connection, experiment: str) -> tuple[str, str, str] | None:
    """(project, user, digest) of an experiment that is known."""
    row = connection.execute(_IDENTITY, {"key": experiment}).first()
    return None if row is None else (row.project, row.user, row.digest)


def insert(connection: sa.Connection, execution: Execution, request: str, digest: str) -> None:
    """A new experiment."""
    demand = execution.demand
    values = {field.name: _plain(getattr(execution, field.name)) for field in _FIELDS}
    del values["demand"]
    amounts = {
        "nodes": demand.nodes, "cpu": demand.cpu, "memory": demand.memory, "gpus": demand.gpus,
        "runtime": demand.runtime, "wire": demand.wire,
    }  # fmt: skip
    connection.execute(_INSERT, {**values, **amounts, "request": request, "digest": digest})


def load(connection: sa.Connection, experiment: str) -> Execution | None:
    """One experiment, locked until the end of the transaction."""
    row = connection.execute(_LOAD, {"key": experiment}).first()
    return None if row is None else _execution(row)


def load_many(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Execution]:
    """Several, locked."""
    found: dict[str, Execution] = {}
    for keys in _chunks(sorted(set(ids))):
        for row in connection.execute(_LOAD_MANY, {"keys": keys}):
            found[row.id] = _execution(row)
    return found


def load_live(connection: sa.Connection) -> list[Execution]:
    """Every one that is not finished."""
    return [_execution(row) for row in connection.execute(_LOAD_LIVE)]


def requests(connection: sa.Connection, ids: Iterable[str]) -> dict[str, str]:
    """The ExperimentSubmitted (JSON) of each."""
    found: dict[str, str] = {}
    for keys in _chunks(list(ids)):
        found.update({row.id: row.request for row in connection.execute(_REQUESTS, {"keys": keys})})
    return found


def save(connection: sa.Connection, *executions: Execution) -> None:
    """Write back what may have changed."""
    rows = [
        {"key": each.id, **{f"new_{name}": _plain(getattr(each, name)) for name in _MUTABLE}} for each in executions
    ]
    if rows:
        connection.execute(_SAVE, rows if len(rows) > 1 else rows[0])


def _plain(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def _execution(row: sa.Row[Any]) -> Execution:
    demand = Demand(row.nodes, row.cpu, row.memory, row.gpus, Runtime(row.runtime), row.wire)
    return Execution(
        id=row.id, project=row.project, user=row.user, name=row.name, live=bool(row.live),
        state=ExperimentState(row.state), version=row.version, priority=row.priority, demand=demand, retry=row.retry,
        grace=row.grace, created=row.created, not_before=row.not_before, waiting=row.waiting,
        blocked_since=row.blocked_since, attempt=row.attempt,
        attempt_state=AttemptState(row.attempt_state) if row.attempt_state else None,
        attempt_stopping=bool(row.attempt_stopping), attempt_checkpoint=row.attempt_checkpoint, port=row.port,
        checkpoint=row.checkpoint, reason=row.reason, ended=row.ended, cloud=bool(row.cloud),
    )  # fmt: skip


def peek(connection: sa.Connection, experiment: str) -> Execution | None:
    """One experiment, as a read sees it."""
    row = connection.execute(_PEEK, {"key": experiment}).first()
    return None if row is None else _execution(row)


def peek_many(connection: sa.Connection, ids: Iterable[str]) -> list[Execution]:
    """Several, as a read sees them."""
    found: list[Execution] = []
    for keys in _chunks(sorted(set(ids))):
        found += [_execution(row) for row in connection.execute(_PEEK_MANY, {"keys": keys})]
    return found


def queue_head(connection: sa.Connection, project: str, most: int) -> list[Execution]:
    """Those of a project that wait, the first first."""
    rows = connection.execute(_QUEUE, {"of_project": project, "most": most})
    return [_execution(row) for row in rows]


def state_counts(connection: sa.Connection) -> dict[ExperimentState, int]:
    """How many live experiments are in each state."""
    return {ExperimentState(state): count for state, count in connection.execute(_STATES)}


# ranks


def forget(connection: sa.Connection, experiment: str) -> None:
    """Keep nothing of an experiment that has ended but its row, so that its id is not taken for a new one's."""
    values = {"name": "", "request": "", "checkpoint": None, "attempt_checkpoint": None}
    ended = sa.and_(experiments.c.id == experiment, experiments.c.live == 0)
    if connection.execute(sa.update(experiments).where(ended).values(values)).rowcount:
        connection.execute(sa.delete(ranks).where(ranks.c.experiment == experiment))


def load_rank(connection: sa.Connection, experiment: str, attempt: int, rank: int) -> tuple[Execution, RankRow] | None:
    """One rank of a current attempt with its experiment, locked; none where there is none, or the attempt is old."""
    row = connection.execute(_WITH_RANK, {"key": experiment, "of_attempt": attempt, "of_rank": rank}).first()
    return None if row is None else (_execution(row), _rank(row, _PREFIX))


def load_ranks(connection: sa.Connection, experiment: str, attempt: int) -> list[RankRow]:
    """All ranks of an attempt, in their order."""
    rows = connection.execute(_RANKS, {"key": experiment, "of_attempt": attempt})
    return [_rank(row) for row in rows]


def current_ranks(connection: sa.Connection, ids: Iterable[str] | None = None) -> dict[str, list[RankRow]]:
    """The ranks of the current attempts of these experiments (none named: of all that are live)."""
    found: dict[str, list[RankRow]] = {}
    if ids is None:
        batches: Iterator[sa.CursorResult[Any]] = iter([connection.execute(_RANKS_LIVE)])
    else:
        batches = (connection.execute(_RANKS_MANY, {"keys": keys}) for keys in _chunks(sorted(set(ids))))
    for batch in batches:
        for row in batch:
            found.setdefault(row.experiment, []).append(_rank(row))
    return found


def ranks_on(connection: sa.Connection, node: str) -> list[RankRow]:
    """The live ranks of a machine."""
    return [_rank(row) for row in connection.execute(_ON_NODE, {"key": node})]


def rank_counts(connection: sa.Connection, experiment: str, attempt: int) -> Counter[RankState]:
    """How many ranks of an attempt are in each state."""
    rows = connection.execute(_COUNTS, {"key": experiment, "of_attempt": attempt})
    return Counter({RankState(state): count for state, count in rows})


def save_rank(connection: sa.Connection, row: RankRow) -> None:
    """Write back what may have changed."""
    connection.execute(
        _SAVE_RANK,
        {
            "key": row.experiment, "of_attempt": row.attempt, "of_rank": row.rank, "new_live": int(row.live),
            "new_state": row.state, "new_times": row.times, "new_finish": row.finish, "new_said": row.said,
        },
    )  # fmt: skip


def insert_ranks(connection: sa.Connection, rows: Sequence[tuple[str, int, Demand, Slot, str]]) -> None:
    """New ranks: (experiment, attempt, demand, slot, times)."""
    values = [
        {
            "experiment": experiment, "attempt": attempt, "rank": slot.rank, "live": 1, "node": slot.node,
            "address": slot.address, "gpus": ",".join(map(str, slot.gpus)), "cpu": demand.cpu,
            "memory": demand.memory, "state": RankState.ASSIGNED, "times": times, "finish": None,
        }
        for experiment, attempt, demand, slot, times in rows
    ]  # fmt: skip
    if values:
        connection.execute(_INSERT_RANKS, values)


def _rank(row: sa.Row[Any], prefix: str = "") -> RankRow:
    values = {name: getattr(row, prefix + name) for name in _RANK_FIELDS}
    gpus, state = values.pop("gpus"), RankState(values.pop("state"))
    live = bool(values.pop("live"))
    return RankRow(**values, live=live, state=state, gpus=tuple(map(int, gpus.split(","))) if gpus else ())


# nodes


def load_node(connection: sa.Connection, node: str) -> NodeRow | None:
    """One machine, locked."""
    row = connection.execute(_NODE, {"key": node}).first()
    return None if row is None else _node(row)


def load_nodes(connection: sa.Connection, names: Iterable[str] | None = None) -> list[NodeRow]:
    """Every machine that has said hello, or those of these names."""
    if names is None:
        return [_node(row) for row in connection.execute(_NODES)]
    found = (connection.execute(_NODES_MANY, {"keys": keys}) for keys in _chunks(sorted(set(names))))
    return [_node(row) for rows in found for row in rows]


def shared_rooms(connection: sa.Connection) -> list[Room]:
    """The machines that are there for all, empty."""
    return [node.room() for node in load_nodes(connection) if node.made_for is None]


def put_node(connection: sa.Connection, row: NodeRow, *, new: bool) -> None:
    """Write a machine."""
    values = {
        "alive": int(row.alive), "version": row.version, "address": row.address, "cpu": row.cpu, "memory": row.memory,
        "gpus": row.gpus, "runtimes": ",".join(row.runtimes), "seen": row.seen, "generation": row.generation,
        "life": row.life, "journal": row.journal, "said": row.said,
        "refused": row.refused,
    }  # fmt: skip
    if new:
        connection.execute(_INSERT_NODE, {"node": row.node, **values})
    else:
        new_values = {f"new_{name}": value for name, value in values.items()}
        connection.execute(_PUT_NODE, {"key": row.node, **new_values})


def seen(connection: sa.Connection, node: str, now: float, generation: int) -> bool:
    """A machine lives; False, and nothing is changed, where it was not known to, or has seen a newer wanted list."""
    done = connection.execute(_BEAT, {"key": node, "new_seen": now, "of_generation": generation})
    return bool(done.rowcount)


def set_generation(connection: sa.Connection, node: str, generation: int) -> None:
    """The generation of a machine's wanted state."""
    connection.execute(_GENERATION, {"key": node, "new_generation": generation})


def _node(row: sa.Row[Any]) -> NodeRow:
    return NodeRow(
        row.node, bool(row.alive), row.version, row.address, row.cpu, row.memory, row.gpus,
        tuple(row.runtimes.split(",")) if row.runtimes else (), row.seen, row.generation,
        row.life, row.journal, row.said, row.refused,
    )  # fmt: skip


# what the scheduler must look at


def changed(connection: sa.Connection, kind: str, key: str) -> None:
    """Tell the scheduler, with the commit."""
    connection.execute(_CHANGED, {"kind": kind, "key": key})


def take_changes(connection: sa.Connection) -> list[tuple[str, str]]:
    """What was told since the last time: (kind, key). It is forgotten with the commit."""
    rows = connection.execute(_CHANGES).all()
    for keys in _chunks([row.id for row in rows]):
        connection.execute(_FORGET, {"keys": keys})
    return [(row.kind, row.key) for row in rows]


def arm(connection: sa.Connection, kind: str, key: str, due: float) -> None:
    """Set a timer, or set it anew."""
    disarm(connection, kind, key)
    connection.execute(_ARM, {"kind": kind, "key": key, "due": due})


def disarm(connection: sa.Connection, kind: str, key: str) -> None:
    """Take a timer away."""
    connection.execute(_DISARM, {"of_kind": kind, "of_key": key})


def hasten(connection: sa.Connection, kind: str) -> None:
    """All timers of a kind are due now."""
    connection.execute(_HASTEN, {"of_kind": kind})


def due_timers(connection: sa.Connection, now: float) -> list[tuple[str, str, float]]:
    """(kind, key, due) of what is due, the oldest first, at most 500."""
    return [(row.kind, row.key, row.due) for row in connection.execute(_DUE, {"now": now})]


def next_due(connection: sa.Connection) -> float | None:
    """When the next timer is due."""
    value: float | None = connection.execute(_NEXT_DUE).scalar()
    return value


def _chunks(keys: Sequence[K]) -> Iterator[Sequence[K]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]
