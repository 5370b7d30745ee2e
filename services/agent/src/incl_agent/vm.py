"""`bin/incl-agent-vm`: the agent on a machine of a cloud that was made for one attempt.

It trades the token for a credential, runs the agent, ends the jobs when the provider takes the machine back, and ends
itself when nobody has heard it for long. Ends: 0 the machine is needed no more, 78 the platform refuses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from incl_agent.app import Agent, create_app
from incl_agent.enrolling import Refused, enroll
from incl_agent.mounting import DISKS
from incl_agent.settings import AgentSettings
from incl_agent.vm_metadata import Metadata
from incl_shared.errors import DeniedError, InclError
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.agent")
REFUSED = 78
ALONE_S = 900.0
GOING_S = 28.0
"""After the signal that a machine goes down: the provider leaves 30 s before it cuts the power."""
_LOOK_S = 1.0
_RESERVE = 32 << 20
"""Bytes of the disk kept back: the ends of its jobs, their last lines and reports."""
_TAKEN = "the provider takes this machine back (preemption)"


@dataclass(frozen=True)
class Vm:
    """What the startup script says. alone_s: so long without a word that the bus took, and without a job, it ends.

    disks: where the machine's disks are found by name.
    """

    token: Path
    enroll_url: str
    creds: Path
    alone_s: float = ALONE_S
    disks: Path = DISKS

    @staticmethod
    def here() -> Vm:
        """From the environment.

        Raises:
            KeyError: the startup script did not start this.
        """
        token = Path(os.environ["INCL_VM_TOKEN_FILE"])
        alone = float(os.environ.get("INCL_VM_ALONE_S", ALONE_S))
        disks = Path(os.environ.get("INCL_VM_DISKS") or DISKS)
        return Vm(token, os.environ["INCL_VM_ENROLL_URL"], token.with_name("node.creds"), alone, disks)


async def run(vm: Vm, metadata: Metadata) -> int:
    """Until the machine is needed no more; the exit code."""
    settings = AgentSettings()
    try:
        await asyncio.to_thread(enroll, vm.enroll_url, vm.token, vm.creds, settings.node)
    except Refused as error:
        _say(f"the platform refuses {settings.node}: {error}")
        return REFUSED
    address = await metadata.address()
    bus = settings.bus.model_copy(update={"creds": vm.creds, "name": settings.node})
    given = {"bus": bus, "address": address or settings.address, "disks": vm.disks, "reserve_bytes": _RESERVE}
    agent = create_app(settings.model_copy(update=given))
    try:
        await agent.start()
    except DeniedError as error:
        _say(f"the bus refuses {settings.node}: {error}")
        return REFUSED
    try:
        return await _serve(agent, vm, metadata)
    finally:
        await agent.stop()


async def _serve(agent: Agent, vm: Vm, metadata: Metadata) -> int:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    watching = asyncio.create_task(_watch(agent, metadata), name="preemption")
    alone = asyncio.create_task(_alone(agent, vm.alone_s), name="alone")
    down = asyncio.create_task(told.wait(), name="signal")
    try:
        await asyncio.wait({alone, down}, return_when=asyncio.FIRST_COMPLETED)
        if down.done():
            await _go_down(agent, metadata)
        else:
            _say(f"the bus took no word for {vm.alone_s:.0f} s and no job runs: this machine ends")
    finally:
        await end_all((watching, alone, down))
    return 0


async def _watch(agent: Agent, metadata: Metadata) -> None:
    """Wait for the provider's notice; then the jobs end."""
    await metadata.preempted()
    _say(_TAKEN)
    await agent.going(_TAKEN, GOING_S)


async def _go_down(agent: Agent, metadata: Metadata) -> None:
    """The machine is being switched off: what runs ends and is stored, as far as there is time."""
    manager = agent.manager
    if manager is None or not manager.unended:
        return
    taken = await metadata.is_preempted()
    why = _TAKEN if taken else "this machine is being switched off"
    await agent.going(why, GOING_S)
    deadline = asyncio.get_running_loop().time() + GOING_S
    while (manager.unended or agent.unsent) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _alone(agent: Agent, alone_s: float) -> None:
    """Until the bus has taken no word for so long, and no job runs: nobody would miss this machine."""
    while True:
        await asyncio.sleep(min(_LOOK_S, alone_s / 4))
        silent = asyncio.get_running_loop().time() - agent.word
        if silent > alone_s and (agent.manager is None or not agent.manager.running):
            return


def _say(text: str) -> None:
    """On the serial console."""
    sys.stdout.write(f"incl-agent: {text}\n")
    sys.stdout.flush()


def main() -> int:
    """The exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        vm = Vm.here()
    except KeyError as error:
        _say(f"{error} is not set: this is started by the startup script of a machine")
        return REFUSED
    try:
        with contextlib.suppress(asyncio.CancelledError):
            return asyncio.run(run(vm, Metadata.here()))
    except InclError as error:
        _say(f"error: {error.message}{f': {error.cause}' if error.cause else ''}; {error.hint}")
        return error.exit_code or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
