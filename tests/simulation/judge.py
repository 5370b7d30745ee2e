"""What must hold when all is over: the invariants of every run (`incl_shared.testing.invariants`) over evidence of this
world, and beside them what only a simulation can look at."""

from __future__ import annotations

from collections.abc import Iterator

from incl_shared.bus import envelope as wire
from incl_shared.bus.deadletters import PREFIX
from incl_shared.events import REGISTER
from incl_shared.states import FINAL_STATES, ExperimentState
from incl_shared.testing import invariants
from incl_shared.testing.invariants import Dead, Evidence, Fact, Leftover, Ran, Submitted
from simulation import cloud_judge
from simulation.world import World


def violations(world: World) -> list[str]:
    """In words; empty when all is well."""
    found = [*map(str, invariants.violations(evidence(world))), *_rows(world), *_broken(world)]
    return found if world.clouds is None else [*found, *cloud_judge.violations(world, _facts(world))]


def evidence(world: World) -> Evidence:
    """What is known of a world that has come to its end. There is no tracker, and nothing is logged."""
    dead = tuple(_dead(world))
    return Evidence(
        submitted=tuple(_submitted(world)), facts=tuple(_facts(world)), ran=tuple(_ran(world)),
        leftovers=tuple(_leftovers(world)), dead=dead, poisoned=_poisoned(world, dead),
        tracked=False,
    )  # fmt: skip


def _submitted(world: World) -> Iterator[Submitted]:
    for asked in world.plan.experiments:
        right = FINAL_STATES if asked.experiment in world.stopped else FINAL_STATES - {ExperimentState.STOPPED}
        yield Submitted(asked.experiment, right, attempts=asked.spec["retry"]["attempts"])


def _facts(world: World) -> Iterator[Fact]:
    """In the order of their storing: a bus that was restored gives its numbers again."""
    for sequence, (stream, message) in enumerate(world.server.jetstream.stored, 1):
        if stream == "EVENTS":
            said = wire.decode(message.headers)
            assert said is not None
            yield Fact(sequence, said.id, said.version, REGISTER[said.type].read(message.payload), said.time)


def _ran(world: World) -> Iterator[Ran]:
    for ran in world.ran:
        yield Ran(*ran.key, ran.began, world.loop.time() if ran.ended is None else ran.ended)


def _dead(world: World) -> Iterator[Dead]:
    for stream, message in world.server.jetstream.stored:
        if stream == "DEAD":
            said = [message.headers.get(f"{PREFIX}{name}", "") for name in ("Stream", "Durable", "Id", "Reason")]
            yield Dead(*said)


def _poisoned(world: World, dead: tuple[Dead, ...]) -> frozenset[str]:
    """A bus that was restored may have lost what was poisoned before anybody read it."""
    seen = {letter.id for letter in dead}
    return frozenset(name for name in world.poisoned if not world.restored or name in seen)


def _leftovers(world: World) -> Iterator[Leftover]:
    yield from (Leftover("process", f"{ran.job} on {ran.node}") for ran in world.ran if ran.ended is None)
    yield from (Leftover("outbox", str(row["subject"])) for row in world.rows("SELECT subject FROM outbox"))
    yield from (Leftover("rank", str(tuple(row))) for row in world.rows("SELECT * FROM ranks WHERE live = 1"))
    yield from (Leftover("timer", str(tuple(row))) for row in world.rows("SELECT * FROM timers"))
    for machine in world.machines:
        folders = sorted((machine.folder / "jobs").glob("*"))
        yield from (Leftover("folder", f"{folder.name} on {machine.name}") for folder in folders)


def _rows(world: World) -> Iterator[str]:
    """The provisioner's own rows say what the events do, and of nothing that nobody asked for."""
    rows = {row["id"]: row for row in world.rows("SELECT id, state, attempt, reason FROM experiments")}
    for asked in world.plan.experiments:
        row = rows.get(asked.experiment)
        if asked.experiment not in world.known:
            yield f"{asked.experiment} could not be submitted"
        elif row is None:
            yield f"{asked.experiment} is lost"
        elif row["state"] not in FINAL_STATES:
            yield f"{asked.experiment} is {row['state']} (attempt {row['attempt']})"
        elif row["state"] == "failed" and row["reason"] in ("completed", "stopped"):
            yield f"{asked.experiment} failed with {row['reason']}"
        elif row["state"] == "finished":
            codes = sorted((ran.key[2], ran.code) for ran in world.ran if ran.key[:2] == (row["id"], row["attempt"]))
            if codes != [(rank, 0) for rank in range(asked.spec["nodes"])]:
                yield f"{asked.experiment} is finished, but the ranks of its last attempt ended with {codes}"
    yield from (f"{name} was never submitted" for name in rows if name not in world.known)


def _broken(world: World) -> Iterator[str]:
    """No agent is away, and no task has broken."""
    for machine in world.machines:
        if machine.agent is None or machine.agent.manager is None:
            yield f"the agent of {machine.name} is not there"
    yield from (f"broke: {error}" for error in world.loop.errors)
    for task in world.tasks:
        if task.done() and not task.cancelled() and task.exception() is not None:
            yield f"broke: {task.exception()!r}"
    yield from (f"logged as a fault: {text}" for text in world.logged)
