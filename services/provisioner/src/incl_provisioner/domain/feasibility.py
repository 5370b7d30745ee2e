"""Whether something here could ever honour a demand, with a typed reason when not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from incl_provisioner.domain.placement import Demand, Runtime, milli
from incl_shared.spec import ExperimentSpec


class RefusalKind(StrEnum):
    """Why a backend refuses."""

    PROJECT = "project"
    INSTANCE = "instance"
    SPOT = "spot"
    IMAGE = "image"
    SANDBOX = "sandbox"
    CPU = "cpu"
    MEMORY = "memory"
    GPU = "gpu"
    NODES = "nodes"
    DATA = "data"
    SIZE = "size"
    NO_MACHINE = "no_machine"


@dataclass(frozen=True)
class Refusal:
    """What cannot be honoured, and the next step."""

    kind: RefusalKind
    message: str
    hint: str


def runtime_of(spec: ExperimentSpec) -> Runtime:
    """What the experiment needs to be run."""
    if spec.image is not None:
        return Runtime.CONTAINER
    return Runtime.BUBBLEWRAP if spec.sandbox else Runtime.HOST


def demand_of(spec: ExperimentSpec, wire: int) -> Demand:
    """The demand of an experiment; wire: bytes of its description."""
    return Demand(
        nodes=spec.nodes,
        cpu=milli(spec.resources.cpu),
        memory=spec.resources.memory or 0,
        gpus=spec.resources.gpu,
        runtime=runtime_of(spec),
        wire=wire,
    )
