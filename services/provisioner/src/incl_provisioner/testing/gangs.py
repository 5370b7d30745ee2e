"""A keeper of gangs in a world of its own: a fake cloud without guests, rows in memory, virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from incl_provisioner.backends.gce.calls import Calls, Limits
from incl_provisioner.backends.gce.keeper import Keeper
from incl_provisioner.backends.gce.port import Order
from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.errors import Verdict
from incl_provisioner.domain.cloud.gangs import Gang, Phase, Where
from incl_provisioner.domain.cloud.plan import Image
from incl_provisioner.domain.cloud.prices import Disk
from incl_provisioner.fakes.gce import CloudSettings, FakeCloud
from incl_provisioner.fakes.gce.direct import DirectCompute
from incl_provisioner.fakes.gce.pace import REAL
from incl_shared.clock import SystemClock
from incl_shared.ids import new_id
from incl_shared.testing import virtual

PLACES = [
    Where("us-central1", ("us-central1-a", "us-central1-b")),
    Where("us-central1", ("us-central1-c",)),
    Where("europe-west4", ("europe-west4-a", "europe-west4-b")),
]
ORDER = Order(
    machine="a2-highgpu-1g", image=Image("debian-cloud", "debian-12"), disks=[Disk("pd-balanced", 20)], metadata={},
    labels={"incl-platform": "p"}, spot=True, longest_s=4 * 3600, terminates=True,
)  # fmt: skip


class Table:
    """Rows in memory: they outlive a keeper."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Gang] = {}
        self.begun: set[tuple[str, int]] = set()
        """Those whose attempts have begun."""

    async def gangs(self) -> Mapping[tuple[str, int], Gang]:
        return dict(self.rows)

    async def save(self, before: Gang, after: Gang) -> Gang | None:
        if self.rows.get(before.key) != before:
            return None
        removed = (Phase.CLEANING, Phase.ENDING)
        last = self.rows.get((before.experiment, before.attempt - 1))
        given_up = after.origins and before.phase not in removed and after.phase in removed
        if given_up and before.key not in self.begun and last is not None and last.phase not in gangs.LAST:
            after, self.rows[last.key] = gangs.given_back(after, last)
        self.rows[before.key] = after
        return after

    def able(self, gang: Gang) -> bool:
        """Whether another attempt may take machines of it over."""
        last = (gang.experiment, gang.attempt + 1) not in self.rows
        return last and gang.phase is Phase.MADE and bool(gang.zone) and gang.nodes > 1 and not gang.given

    def take_over(self, gang: Gang, *healthy: int) -> Gang:
        """The next attempt has the healthy machines of one."""
        self.rows[gang.key], after = gangs.taken_over(self.rows[gang.key], healthy, 0.0, 60.0)
        self.rows[after.key] = after
        return after

    def add(self, nodes: int, turn: int = 0) -> Gang:
        gang = Gang(new_id(), 1, nodes, turn=turn)
        self.rows[gang.key] = gang
        return gang

    def unwanted(self, key: tuple[str, int]) -> None:
        self.rows[key] = replace(self.rows[key], wanted=False)


class Plans:
    """The next place is the next of the list; what failed is counted. `keeps`: whether machines are kept."""

    def __init__(self) -> None:
        self.keeps = True
        self.failures: Counter[str] = Counter()

    async def where(self, gang: Gang, now: float) -> Where | None:
        return PLACES[gang.turn % len(PLACES)]

    def again(self, gang: Gang, now: float) -> Where | None:
        return Where(gang.region, (gang.zone,), gang.machine, gang.spot) if self.keeps else None

    def order(self, gang: Gang) -> Order:
        return ORDER

    def failed(self, gang: Gang, verdict: Verdict, now: float) -> None:
        self.failures[verdict.reason] += 1


class World:
    """A cloud, rows, and keepers that come and go."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.clock = SystemClock()
        settings = CloudSettings(vms="none", pace=REAL, clock=self.clock.now, monotonic=self.clock.monotonic, seed=seed)
        self.cloud = FakeCloud(settings)
        self.compute = DirectCompute(self.cloud, Calls(Limits(), self.clock, self.chance.random))
        self.table, self.plans = Table(), Plans()
        self.keeper = Keeper("p", self.compute, self.table, self.plans, self.clock)
        self.task: asyncio.Task[None] | None = None

    async def _keep(self) -> None:
        while True:
            await self.keeper.round()
            await asyncio.sleep(10)

    def start(self) -> None:
        self.keeper = Keeper("p", self.compute, self.table, self.plans, self.clock)
        self.task = asyncio.ensure_future(self._keep())

    async def crash(self) -> None:
        """The keeper is gone in the middle of whatever it does."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait((self.task,))
        await self.keeper.stop()

    def running(self) -> Counter[str]:
        """name -> in how many zones a VM of it runs."""
        vms = self.cloud.state.instances.values()
        return Counter(
            vm.name for vm in vms if vm.status in ("PROVISIONING", "STAGING", "RUNNING") and vm.ending is None
        )

    def phases(self) -> set[Phase]:
        return {gang.phase for gang in self.table.rows.values()}

    async def until(self, done: Any, limit: float) -> None:
        """Let time pass until something is so; at most `limit` seconds."""
        end = self.clock.monotonic() + limit
        while not done():
            assert self.clock.monotonic() < end, (self.table.rows, self.plans.failures, self.keeper.troubles)
            await asyncio.sleep(5)

    async def watch(self) -> None:
        """What must hold at any moment: no VM runs in two places, and nothing is left of what is said to be gone."""
        while True:
            twice = [name for name, count in self.running().items() if count > 1]
            assert not twice, (twice, self.table.rows)
            over = [gang for gang in self.table.rows.values() if gang.phase in gangs.LAST]
            gone = {name for gang in over for name in gang.owned}
            left = [name for _, name in [*self.cloud.state.instances, *self.cloud.state.disks] if name in gone]
            assert not left, (left, self.table.rows)
            await asyncio.sleep(2)

    async def stop(self) -> None:
        await self.crash()
        await self.compute.close()
        assert self.cloud.operations.failures == 0
        await self.cloud.stop()


def play(scenario: Any, seed: int = 1) -> World:
    """Run a scenario in a world of its own."""

    async def main() -> World:
        world = World(seed)
        world.start()
        watching = asyncio.ensure_future(world.watch())
        await scenario(world)
        await asyncio.sleep(0)
        assert not watching.done(), watching.exception()
        watching.cancel()
        await world.stop()
        return world

    return virtual.run(main(), seed=seed)
