"""A VM without processes: it boots, enrols, and runs the real agent above modelled shims, as incl-agent-vm does.

Modelled: the startup script (what follows from how the agent ends), the gateway, which passes the token on, and the
metadata server. Signals come to the handlers that the product has set.
"""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_agent import vm as product
from incl_shared.errors import DeniedError, UnavailableError
from simulation.machine import Machine, SimAgent

if TYPE_CHECKING:
    from incl_provisioner.fakes.gce.model import Instance
    from simulation.world import World

ALONE_S = 100.0
_PATIENCE_S = 300.0
_CPU = 4.0


def public_key(numbers: random.Random) -> str:
    """A key of a form that the platform takes."""
    return "U" + "".join(numbers.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=55))


class Metadata:
    """What a VM is told by its metadata server."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def is_preempted(self) -> bool:
        """Whether the provider takes it back."""
        return self._instance.preempted

    async def preempted(self) -> None:
        """Until the provider takes it back."""
        while not self._instance.preempted:
            await self._instance.watch.changed(None)


class VirtualMachine(Machine):
    """One VM: a machine with a token, which is gone for good when it is off. mute: it never enrols."""

    def __init__(self, world: World, instance: Instance, *, mute: bool) -> None:
        super().__init__(world, instance.name, _CPU)
        self.instance, self.mute = instance, mute
        self.address = instance.address
        self.ended: asyncio.Future[None] = world.loop.create_future()
        self.handlers: dict[int, Any] = {}
        self.key = public_key(world.numbers)
        self.let_in = False

    @property
    def folder(self) -> Path:
        """Its disk: no other VM of its name has had it."""
        return self.world.folder / f"{self.name}-{self.instance.id}"

    @property
    def token(self) -> str:
        """What its startup script reads."""
        return self.instance.metadata()["incl-enroll-token"]

    def power_on(self) -> None:
        """It boots; after a while its startup script starts the agent."""
        self.lives += 1
        self.boot = f"{self.name}-{self.instance.id}-{self.lives}"
        self.on = True
        self.world.machines.append(self)
        if not self.mute:
            self._starting = self.world.later(self.world.numbers.uniform(1.0, 15.0), self.start_agent)

    def shut_down(self) -> None:
        """The power button: the agent is told; what has no agent is off at once."""
        told = self.handlers.get(signal.SIGTERM)
        if self.host is None or told is None:
            self.cut_power()
        else:
            told()

    def cut_power(self) -> None:
        """Nothing of it runs from now on."""
        if not self.on:
            return
        self.world.note(f"{self.name} is off")
        self.power_off(keep_disk=True)
        self.world.machines.remove(self)
        self.ended.set_result(None)

    def kill_agent(self, restart: float | None = 1.0) -> None:
        """See the base; its handlers go with the process."""
        self.handlers.clear()
        super().kill_agent(restart)

    async def _agent_life(self) -> None:
        code = await self._agent_process()
        self.world.note(f"{self.name}: the agent ended with {code}")
        if code in (0, product.REFUSED):
            self.world.later(0.1, self.cut_power)
        else:
            self.world.later(0.0, lambda: self.kill_agent(2.0))

    async def _agent_process(self) -> int:
        """As `incl_agent.vm.run`: its exit code."""
        try:
            if not self.let_in:
                await self._enroll()
            self.agent = agent = SimAgent(self)
            await agent.start()
        except DeniedError as error:
            self.world.note(f"{self.name} is refused: {error.message}")
            return product.REFUSED
        except UnavailableError:
            return 1
        self.world.note(f"{self.name}: the agent is up")
        vm = product.Vm(self.folder / "token", "http://gateway", self.folder / "node.creds", ALONE_S)
        try:
            return await product._serve(agent, vm, Metadata(self.instance))  # type: ignore[arg-type]
        finally:
            await agent.stop()

    async def _enroll(self) -> None:
        """Trade the token; an answer that is lost is asked for again, with the same key."""
        assert self.world.clouds is not None
        until = self.world.loop.time() + _PATIENCE_S
        while True:
            try:
                await self.world.reach(self.name)
                await self.world.clouds.enroll(self.name, self.token, self.key, self.instance)
                await self.world.reach(self.name)
                self.let_in = True
                return
            except UnavailableError:
                if self.world.loop.time() > until:
                    raise
            await asyncio.sleep(2.0)
