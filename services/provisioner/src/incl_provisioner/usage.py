"""What is taken on each machine, as its live ranks say."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from incl_provisioner.tables import ranks

USAGE = sa.select(ranks.c.node, ranks.c.cpu, ranks.c.memory, ranks.c.gpus).where(sa.text("ranks.live = 1"))


@dataclass(slots=True)
class Usage:
    """What is taken on a machine."""

    cpu: int = 0
    memory: int = 0
    gpus: int = 0
    jobs: int = 0


def usage(connection: sa.Connection) -> dict[str, Usage]:
    """What is taken on each machine."""
    found: dict[str, Usage] = {}
    for node, cpu, memory, gpus in connection.execute(USAGE):
        taken = found.setdefault(node, Usage())
        taken.cpu += cpu
        taken.memory += memory
        taken.gpus += len(gpus.split(",")) if gpus else 0
        taken.jobs += 1
    return found
