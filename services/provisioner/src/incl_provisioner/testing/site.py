"""A provisioner with a cloud whose VMs have scripted agents, as the tests of the whole see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from incl_provisioner.testing.cloud import Vms
from incl_provisioner.testing.platform import Platform
from incl_shared.events.experiments import AttemptSettled, ExperimentWaiting
from incl_shared.queries.provisioner import GangView, GetMachines
from incl_shared.testing.wait import until

MACHINE = "n2-standard-4"
Begin = Callable[..., Awaitable["Site"]]


class Site:
    """A provisioner with a cloud."""

    def __init__(self, platform: Platform, vms: Vms) -> None:
        self.platform, self.vms = platform, vms
        self.cloud = vms.cloud

    async def submit(self, **spec: Any) -> str:
        return await self.platform.submit(**{"instance": MACHINE, **spec})

    async def gangs(self, experiment: str | None = None) -> tuple[GangView, ...]:
        answer = await self.platform.client.ask(GetMachines(experiment=experiment), project="default", user="ann")
        return answer.gangs

    def mutters(self, end: str, words: str) -> Callable[[str], bool]:
        """Guests whose names end so say nothing but on their consoles."""

        def mute(name: str) -> bool:
            if not name.endswith(end):
                return False
            vm = next(vm for vm in self.cloud.state.instances.values() if vm.name == name)
            (self.cloud.machines.folder(vm) / "console").write_text(words)
            return True

        return mute

    def waits(self, experiment: str) -> list[str]:
        return [event.reason for event in self.platform.of(experiment) if isinstance(event, ExperimentWaiting)]

    async def settle(self, experiment: str, attempt: int = 1) -> None:
        """What the tracker says once all is stored."""
        event = AttemptSettled(experiment=experiment, attempt=attempt, points=0, lines=0, gaps=0)
        await self.platform.client.publish_event(event, project="default", version=1)

    async def until_empty(self) -> None:
        """The cloud has nothing of ours any more, and the rows say so."""
        await until(lambda: not self.vms.names and not self.vms.disks, 15, what="an empty cloud")

        async def over() -> bool:
            return not await self.gangs()

        for _ in range(300):
            if await over():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(await self.gangs())
