"""Where machines come from. A backend says what it can honour; the agents of its machines dial in by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from incl_provisioner.domain.feasibility import Refusal
from incl_provisioner.domain.placement import Room
from incl_shared.spec import ExperimentSpec

__all__ = ["Backend"]


class Backend(Protocol):
    """The port of a backend."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def cloud(self, spec: ExperimentSpec) -> bool:
        """Whether machines are made for the experiment; else it runs on those that are there."""
        ...

    def refusal(self, spec: ExperimentSpec, wire: int, rooms: Sequence[Room]) -> Refusal | None:
        """Why the experiment can never run here; None when it could, or when that is not known yet.

        rooms: the machines that have said hello, alive or not; none yet: only what needs no machine is judged.
        wire: bytes of the experiment's description.
        """
        ...
