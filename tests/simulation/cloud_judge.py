"""What must hold in a world with a cloud when all is over, and what was noted while it was not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from incl_shared.events.experiments import AttemptAssigned, NodeDeleted
from incl_shared.testing.invariants import Fact
from simulation.world import World


def violations(world: World, facts: Iterable[Fact]) -> list[str]:
    """In words; empty when all is well."""
    return [*_left(world), *_told(world, list(facts)), *_noted(world)]


def _left(world: World) -> Iterator[str]:
    """No VM, no disk, no open row, no machine that is known still."""
    assert world.clouds is not None
    state = world.clouds.cloud.state
    for zone, name in state.instances:
        yield f"VM {name} is left in {zone} ({state.instances[zone, name].status})"
    yield from (f"disk {name} is left in {zone}" for zone, name in state.disks)
    for row in world.rows("SELECT experiment, attempt, phase, wanted FROM gangs WHERE live = 1"):
        yield f"the row of {row['experiment']}-{row['attempt']} is open: {row['phase']}, wanted {row['wanted']}"
    for row in world.rows("SELECT name, zone FROM data_disks WHERE live = 1"):
        yield f"the row of the disk {row['name']} in {row['zone']} is open"
    yield from (f"{row['node']} is still known" for row in world.rows("SELECT node FROM nodes"))


def _told(world: World, facts: list[Fact]) -> Iterator[str]:
    """An attempt begins when all of its machines have been let in; each machine is said to be deleted once."""
    assert world.clouds is not None
    first: dict[str, float] = {}
    for one in world.clouds.admitted:
        first.setdefault(one.name, one.at)
    deleted: dict[str, str] = {}
    for fact in facts:
        event = fact.event
        if isinstance(event, AttemptAssigned):
            yield from _assigned(world, event, first)
        elif isinstance(event, NodeDeleted) and deleted.setdefault(event.node, fact.id) != fact.id:
            yield f"{event.node} is said to be deleted twice"


def _assigned(world: World, event: AttemptAssigned, first: dict[str, float]) -> Iterator[str]:
    asked = next((each for each in world.plan.experiments if each.experiment == event.experiment), None)
    if asked is None:
        return
    nodes = [each.node for each in event.placements]
    if len(set(nodes)) != asked.spec["nodes"]:
        yield f"{event.experiment}-{event.attempt} began on {len(set(nodes))} of {asked.spec['nodes']} machines"
    for node in nodes:
        if node not in first:
            yield f"{event.experiment}-{event.attempt} began on {node}, which was never let in"


def _noted(world: World) -> Iterator[str]:
    assert world.clouds is not None
    yield from world.clouds.wrong
    if world.clouds.cloud.operations.failures:
        yield f"the fake cloud itself failed {world.clouds.cloud.operations.failures} times"
