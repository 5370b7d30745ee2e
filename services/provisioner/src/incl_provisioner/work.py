"""One transaction of the provisioner: rows change, events go out, the scheduler is told. Handlers and loop share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from incl_provisioner import store
from incl_provisioner.domain.placement import Room
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.store import Execution
from incl_shared.db import Transaction
from incl_shared.events.base import Event
from incl_shared.events.experiments import WriterCount
from incl_shared.states import EndReason


class Timer(StrEnum):
    """Kinds of due-rows."""

    FEASIBLE = "feasible"
    """Nothing was known of any machine at submit: look again (key: experiment)."""
    STOP = "stop"
    """An attempt was told to stop: give up what has not ended (key: experiment:attempt)."""
    DRAIN = "drain"
    """An attempt has ended: its machines are wanted no longer than that (key: experiment:attempt)."""
    CLOUD = "cloud"
    """A pause before an attempt in a cloud is over (key: experiment)."""


class Change(StrEnum):
    """Kinds of what the scheduler must look at."""

    EXPERIMENT = "experiment"
    NODE = "node"
    GANG = "gang"
    """The machines of an experiment (key: experiment)."""


class Finish(BaseModel):
    """How a rank ended. at: epoch s, the best estimate; induced: it was told to stop."""

    model_config = ConfigDict(frozen=True)

    reason: EndReason
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    hint: str = ""
    writers: tuple[WriterCount, ...] = ()
    at: float
    induced: bool = False


@dataclass
class Machines:
    """The known machines, read once a transaction."""

    tx: Transaction | None = None
    rooms: list[Room] = field(default_factory=list)


@dataclass
class Work:
    """What a step needs.

    said: when what is handled was stored on the bus (epoch s), never after `now`.
    wake: called once a change for the scheduler is committed. touched: in the scheduler's own transaction it is told
    through this set, not by rows. machines: what is shared by the works of one transaction.
    """

    tx: Transaction
    settings: ProvisionerSettings
    metrics: ProvisionerMetrics
    now: float
    said: float
    wake: Callable[[], None] | None = None
    touched: set[tuple[str, str]] | None = None
    machines: Machines = field(default_factory=Machines)
    _told: set[tuple[str, str]] = field(default_factory=set)

    @property
    def connection(self) -> sa.Connection:
        """The connection of the transaction."""
        return self.tx.connection

    def rooms(self) -> list[Room]:
        """Every machine that has said hello and was not made for somebody, empty."""
        if self.machines.tx is not self.tx:
            self.machines.tx = self.tx
            self.machines.rooms = store.shared_rooms(self.connection)
        return self.machines.rooms

    def emit(self, execution: Execution, event: Event) -> None:
        """The next event of an experiment; its version has no holes."""
        execution.version += 1
        self.tx.emit(event, project=execution.project, version=execution.version)

    def touch(self, kind: Change, key: str) -> None:
        """The scheduler must look at this."""
        if (kind, key) in self._told:
            return
        self._told.add((kind, key))
        if self.touched is None:
            store.changed(self.connection, kind, key)
            if self.wake is not None:
                self.tx.after_commit(self.wake)
        else:
            self.touched.add((kind, key))
