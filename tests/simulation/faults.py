"""What each kind of fault does to a world, and how it heals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from incl_shared.bus.topology import PROVISIONER_EVENTS, PROVISIONER_REPORTS, PROVISIONER_REQUESTS
from incl_shared.testing.virtual import Host
from simulation import cloud_faults
from simulation.plan import Fault
from simulation.world import World

_OF_MACHINES = frozenset(
    {
        "kill agent", "kill agent at a step", "pause agent", "restart agent", "machine off", "machine lost", "cut off",
        "machine clock",
    }
)  # fmt: skip
"""Kinds that strike a machine: in a world with a cloud there may be none."""
_DURABLES = (PROVISIONER_REQUESTS, PROVISIONER_REPORTS, PROVISIONER_EVENTS)


async def strike(world: World, fault: Fault) -> None:
    """Wait for its moment, do it, heal it."""
    await asyncio.sleep(fault.at)
    world.note(f"FAULT {fault}")
    world.struck += 1
    world.striking += 1
    if fault.kind in cloud_faults.FAULTS:
        await cloud_faults.FAULTS[fault.kind](world, fault)
    elif world.machines or fault.kind not in _OF_MACHINES:
        await _FAULTS[fault.kind](world, fault)
    world.striking -= 1
    world.note(f"      {fault.kind} is over")


async def _kill_provisioner(world: World, fault: Fault) -> None:
    world.provisioners[fault.whom % len(world.provisioners)].kill(fault.seconds)


async def _kill_provisioner_at(world: World, fault: Fault) -> None:
    """At a step: between a commit and its ack, between an outbox row and its publication, wherever it falls."""
    provisioner = world.provisioners[fault.whom % len(world.provisioners)]
    _light(provisioner.host, int(fault.extra * 1500), lambda: provisioner.kill(fault.seconds))


async def _kill_provisioner_at_commit(world: World, fault: Fault) -> None:
    """Some steps after it gave its database something to do: before that is done, before its ack, or later."""
    provisioner = world.provisioners[fault.whom % len(world.provisioners)]
    host = provisioner.host
    if host is None:
        return
    steps = 1 + int(fault.extra * 1000) % 12

    def given() -> None:
        world.on_work.pop(host, None)
        _light(host, steps, lambda: provisioner.kill(fault.seconds))

    world.on_work[host] = given


def _light(host: Host | None, steps: int, kill: Callable[[], None]) -> None:
    if host is not None:
        host.on_fuse, host.fuse = kill, host.steps + steps


async def _pause_provisioner(world: World, fault: Fault) -> None:
    await _pause(world, world.provisioners[fault.whom % len(world.provisioners)].host, fault.seconds)


async def _pause(world: World, host: Host | None, seconds: float) -> None:
    if host is None or host.paused:
        return
    host.pause()
    await asyncio.sleep(seconds)
    if not host.dead:
        world.loop.go_on(host)


async def _restart_provisioner(world: World, fault: Fault) -> None:
    await world.provisioners[fault.whom % len(world.provisioners)].restart()


def _machine(world: World, fault: Fault) -> Any:
    """One that runs a job, where there is one: there it hurts."""
    busy = [each for each in world.machines if any(shim.alive and shim.ran for shim in each.shims.values())]
    machines = busy if busy and fault.extra < 0.8 else world.machines
    return machines[fault.whom % len(machines)]


async def _kill_agent(world: World, fault: Fault) -> None:
    machine = _machine(world, fault)
    if machine.on:
        machine.kill_agent(fault.seconds)


async def _kill_agent_at(world: World, fault: Fault) -> None:
    machine = _machine(world, fault)
    _light(machine.host, int(fault.extra * 300), lambda: machine.kill_agent(fault.seconds))


async def _pause_agent(world: World, fault: Fault) -> None:
    await _pause(world, _machine(world, fault).host, fault.seconds)


async def _restart_agent(world: World, fault: Fault) -> None:
    """As systemd does it: asked to stop, then started."""
    machine = _machine(world, fault)
    agent, host = machine.agent, machine.host
    if agent is None or host is None or host.paused:
        return
    stopping = host.run(agent.stop(), world.loop)
    await asyncio.wait({stopping}, timeout=20.0)
    if machine.host is host:
        machine.kill_agent(0.5)


async def _machine_off(world: World, fault: Fault) -> None:
    machine = _machine(world, fault)
    if not machine.on:
        return
    machine.power_off(lose=max(0.0, fault.extra - 0.5))
    await asyncio.sleep(fault.seconds)
    machine.power_on()


async def _machine_lost(world: World, fault: Fault) -> None:
    """Gone with its disk; another one comes by its name."""
    machine = _machine(world, fault)
    if not machine.on:
        return
    machine.power_off(keep_disk=False)
    await asyncio.sleep(fault.seconds)
    machine.power_on()


async def _kill_shim(world: World, fault: Fault) -> None:
    """Not while its agent is dead, stopped, or about to die as well: then nobody is left who could end the job."""
    living = [each for each in world.machines if each.host and not each.host.paused and each.host.fuse is None]
    shims = [shim for machine in living for shim in machine.shims.values() if shim.alive]
    if shims:
        shims[fault.whom % len(shims)].kill()


async def _kill_job(world: World, fault: Fault) -> None:
    """The process alone, by somebody else (out of memory)."""
    shims = [shim for machine in world.machines for shim in machine.shims.values() if shim.alive and shim.ran]
    if shims:
        shims[fault.whom % len(shims)].killed.set()


async def _bus_down(world: World, fault: Fault) -> None:
    if not world.server.up:
        return
    world.server.stop()
    await asyncio.sleep(fault.seconds)
    world.server.start()


async def _bus_restored(world: World, fault: Fault) -> None:
    """It comes back as it was some time ago: what came since is lost."""
    state = world.server.state()
    await asyncio.sleep(1.0 + 20.0 * fault.extra)
    if not world.server.up:
        return
    world.server.stop()
    await asyncio.sleep(fault.seconds)
    world.server.start(state)
    world.restored = True
    await asyncio.sleep(5.0)
    await asyncio.wait({world.people.run(world.insist(), world.loop)}, timeout=300.0)


async def _cut_off(world: World, fault: Fault) -> None:
    await _separate(world, _machine(world, fault).name, fault.seconds)


async def _provisioner_cut_off(world: World, fault: Fault) -> None:
    await _separate(world, world.provisioners[fault.whom % len(world.provisioners)].name, fault.seconds)


async def _separate(world: World, name: str, seconds: float) -> None:
    world.server.separate(name)
    await asyncio.sleep(seconds)
    world.server.join(name)


async def _connection_breaks(world: World, fault: Fault) -> None:
    connections = world.server.connections
    if connections:
        connections[fault.whom % len(connections)].broke()


async def _lossy(world: World, fault: Fault) -> None:
    world.wire.loss = 0.02 + 0.3 * fault.extra**2
    await asyncio.sleep(fault.seconds)
    world.wire.loss = 0.0


async def _slow(world: World, fault: Fault) -> None:
    world.wire.latency_s = (0.0, 6.0 * fault.extra**2)
    await asyncio.sleep(fault.seconds)
    world.wire.latency_s = (0.0002, 0.002)


async def _durable_deleted(world: World, fault: Fault) -> None:
    durable = _DURABLES[fault.whom % len(_DURABLES)]
    world.server.jetstream.delete(durable.stream, durable.name)


async def _server_clock(world: World, fault: Fault) -> None:
    by = 3600.0 if fault.extra > 0.5 else -3600.0
    await _clock(world, fault.seconds, by, [provisioner.host for provisioner in world.provisioners])


async def _machine_clock(world: World, fault: Fault) -> None:
    by = 3600.0 if fault.extra > 0.5 else -3600.0
    await _clock(world, fault.seconds, by, [_machine(world, fault).host])


async def _clock(world: World, seconds: float, by: float, hosts: list[Host | None]) -> None:
    jumped = [host for host in hosts if host is not None]
    for host in jumped:
        host.wall += by
    await asyncio.sleep(seconds)
    for host in jumped:
        host.wall -= by


async def _database_slow(world: World, fault: Fault) -> None:
    world.database_slow = 0.2 + 4.0 * fault.extra**2
    await asyncio.sleep(fault.seconds)
    world.database_slow = 0.0


async def _database_away(world: World, fault: Fault) -> None:
    world.database_away = True
    await asyncio.sleep(fault.seconds)
    world.database_away = False


_FAULTS: dict[str, Callable[[World, Fault], Coroutine[Any, Any, None]]] = {
    "kill provisioner": _kill_provisioner,
    "kill provisioner at a step": _kill_provisioner_at,
    "kill provisioner at a commit": _kill_provisioner_at_commit,
    "pause provisioner": _pause_provisioner,
    "restart provisioner": _restart_provisioner,
    "kill agent": _kill_agent,
    "kill agent at a step": _kill_agent_at,
    "pause agent": _pause_agent,
    "restart agent": _restart_agent,
    "machine off": _machine_off,
    "machine lost": _machine_lost,
    "kill shim": _kill_shim,
    "kill job": _kill_job,
    "bus down": _bus_down,
    "bus restored": _bus_restored,
    "cut off": _cut_off,
    "provisioner cut off": _provisioner_cut_off,
    "connection breaks": _connection_breaks,
    "lossy": _lossy,
    "slow": _slow,
    "durable deleted": _durable_deleted,
    "server clock": _server_clock,
    "machine clock": _machine_clock,
    "database slow": _database_slow,
    "database away": _database_away,
}
