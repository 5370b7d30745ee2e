"""What data asks of machines: disks that several of them read, local SSDs for scratch. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from incl_provisioner.domain.cloud.data_disks import most_attached
from incl_provisioner.domain.cloud.machines import GIB, MachineTable, Shape
from incl_provisioner.domain.cloud.prices import LOCAL_SSD_GIB
from incl_shared.errors import InvalidInput
from incl_shared.spec import ExperimentSpec

_COUNTS = (1, 2, 4, 8, 16, 24)
"""So many local SSDs may be asked for."""


def local_ssds(spec: ExperimentSpec) -> int:
    """How many local SSDs each machine needs for the scratch of an experiment; 0: it has none."""
    scratch = next((each for each in spec.data if each.scratch is not None), None)
    if scratch is None:
        return 0
    needed = max(1, -(-(scratch.size or 0) // (LOCAL_SSD_GIB * GIB)))
    return next((count for count in _COUNTS if count >= needed), needed)


def with_data(spec: ExperimentSpec, shapes: Sequence[Shape], table: MachineTable) -> Sequence[Shape]:
    """The machines that can have an experiment's data.

    Raises:
        InvalidInput: none of them can, with the next step.
    """
    able = [shape for shape in shapes if local_ssds(spec) <= _ssds(shape)]
    if not able:
        raise InvalidInput(
            f"scratch needs {local_ssds(spec)} local SSDs of {LOCAL_SSD_GIB} GiB, {shapes[0].name} can have "
            f"{max(map(_ssds, shapes))}",
            hint="ask for less, or name another instance, such as n2-standard-8",
        )
    if not spec.snapshots:
        return able
    sharing = [shape for shape in able if table.data_kind(shape.machine)]
    if not sharing:
        raise InvalidInput(
            f"{able[0].name} cannot read a disk that others read too, so data by snapshot cannot be had on it",
            hint="name another instance, such as n2-standard-8 or c3-standard-8; or data by nfs or bucket",
        )
    reading = [shape for shape in sharing if spec.nodes <= most_attached(table.data_kind(shape.machine), 0)]
    if not reading:
        kind = table.data_kind(sharing[0].machine)
        raise InvalidInput(
            f"{spec.nodes} machines cannot read one {kind} disk, at most {most_attached(kind, 0)} can",
            hint="ask for fewer nodes, or for machines with Hyperdisk ML: c3, g2, a2, a3",
        )
    return reading


def _ssds(shape: Shape) -> int:
    return max(shape.machine.local_ssd, shape.machine.local_ssd_max)
