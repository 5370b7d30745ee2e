"""What machines have said and nobody has read yet.

A report lies in its stream until it is handled. It may lie there for long while its machine is well: this process was
paused, or another provisioner that stands still was handed it, or the durable is being made anew. A machine is
therefore called lost only once the bus has no word of it either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from incl_provisioner.control import ControlBus
from incl_shared import subjects
from incl_shared.bus.topology import REPORTS
from incl_shared.tasks import gather

_AT_ONCE = 64
_ANSWER_S = 1.0
"""No longer: passes wait for it."""


async def spoke(bus: ControlBus, nodes: Iterable[str]) -> set[str]:
    """Those of the nodes of which a report waits to be read.

    Raises:
        UnavailableError: the bus does not answer.
        DeniedError: the credential does not allow the question.
    """
    room = asyncio.Semaphore(_AT_ONCE)

    async def asked(node: str) -> str | None:
        async with room:
            return node if await bus.last(REPORTS, subjects.report(node), timeout=_ANSWER_S) is not None else None

    return {node for node in await gather(*map(asked, nodes)) if node is not None}
