"""The machines that are there: `incl up`'s own, and those that joined. Nothing is created or deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from incl_provisioner.domain.feasibility import Refusal, RefusalKind, demand_of
from incl_provisioner.domain.placement import WIRE_LIMIT, Demand, Room, Runtime, could_ever, offers
from incl_shared.mounts import CLOUD_KINDS
from incl_shared.spec import ExperimentSpec

_GIB = 1 << 30


class LocalBackend:
    """Judges by what the known machines have."""

    name = "local"

    def cloud(self, _: ExperimentSpec) -> bool:
        """See `Backend.cloud`."""
        return False

    def refusal(self, spec: ExperimentSpec, wire: int, rooms: Sequence[Room]) -> Refusal | None:
        """See `Backend.refusal`."""
        demand = demand_of(spec, wire)
        for check in _SPEC_CHECKS:
            found = check(spec, demand)
            if found is not None:
                return found
        if not rooms:
            return None
        able = [room for room in rooms if offers(room.runtimes, demand.runtime)]
        if not able:
            return _no_runtime(spec, demand.runtime)
        for measure in _MEASURES:
            found = measure(demand, able)
            if found is not None:
                return found
        return None if could_ever(demand, able) else _no_gang(demand, able)


def _no_cloud(spec: ExperimentSpec, _: Demand) -> Refusal | None:
    if spec.instance is not None:
        return Refusal(
            RefusalKind.INSTANCE,
            f"instance {spec.instance!r} was asked for, but no cloud is configured",
            "leave `instance` out to run on the machines that are here; `incl status` lists them",
        )
    if spec.zones or spec.regions:
        return Refusal(
            RefusalKind.INSTANCE,
            "zones or regions were named, but no cloud is configured",
            "leave `zones` and `regions` out",
        )
    if spec.spot:
        return Refusal(RefusalKind.SPOT, "spot machines were asked for, but no cloud is configured", "leave `spot` out")
    return None


def _data(spec: ExperimentSpec, _: Demand) -> Refusal | None:
    for mount in spec.data:
        if mount.kind in CLOUD_KINDS:
            return Refusal(
                RefusalKind.DATA,
                f"the {mount.kind} {mount.text[:120]!r} is mounted on machines of a cloud only; no instance is named",
                "name an `instance`, or mount it on your machine yourself and name the folder: source: /path",
            )
        if not mount.text.startswith("/"):
            return Refusal(
                RefusalKind.DATA,
                f"data source {mount.text[:120]!r} is not a folder of the machine",
                "give an absolute path: the machines here mount folders of their own only",
            )
    return None


def too_large(_: ExperimentSpec, demand: Demand) -> Refusal | None:
    """Refuse a description that is more than one message."""
    if demand.wire <= WIRE_LIMIT:
        return None
    return Refusal(
        RefusalKind.SIZE,
        f"the description of the experiment takes {demand.wire / 1e6:.1f} MB, the most is {WIRE_LIMIT / 1e6:.1f}",
        "put long values into files of the working directory",
    )


def _no_runtime(spec: ExperimentSpec, runtime: Runtime) -> Refusal:
    if runtime is Runtime.CONTAINER:
        return Refusal(
            RefusalKind.IMAGE,
            f"image {(spec.image or '')[:120]!r} was asked for, but no machine has podman or docker",
            "install podman and start the platform anew, or run on the host with --no-image; see `incl doctor`",
        )
    if runtime is Runtime.BUBBLEWRAP:
        return Refusal(
            RefusalKind.SANDBOX,
            "a sandbox was asked for, but no machine has bubblewrap",
            "install bubblewrap (bwrap) and start the platform anew, or leave `sandbox` out; see `incl doctor`",
        )
    return Refusal(RefusalKind.NO_MACHINE, "no machine runs jobs on the host", "see `incl doctor`")


def _cpu(demand: Demand, rooms: Sequence[Room]) -> Refusal | None:
    most = max(room.cpu for room in rooms)
    if demand.cpu <= most:
        return None
    return Refusal(
        RefusalKind.CPU,
        f"{demand.cpu / 1000:g} cores were asked for, the largest machine has {most / 1000:g}",
        f"ask for at most resources.cpu: {most / 1000:g}",
    )


def _memory(demand: Demand, rooms: Sequence[Room]) -> Refusal | None:
    most = max(room.memory for room in rooms)
    if demand.memory <= most:
        return None
    return Refusal(
        RefusalKind.MEMORY,
        f"{demand.memory / _GIB:.3g} GiB of memory were asked for, the largest machine has {most / _GIB:.3g}",
        f"ask for at most resources.memory: {most // (1 << 20)}MiB",
    )


def _gpu(demand: Demand, rooms: Sequence[Room]) -> Refusal | None:
    most = max(room.gpus for room in rooms)
    if demand.gpus <= most:
        return None
    has = f"the machine with the most has {most}" if most else "no machine has one"
    plural = "GPUs were" if demand.gpus > 1 else "GPU was"
    hint = f"ask for at most resources.gpu: {most}" if most else "leave resources.gpu out"
    return Refusal(RefusalKind.GPU, f"{demand.gpus} {plural} asked for, {has}", hint)


def _no_gang(demand: Demand, rooms: Sequence[Room]) -> Refusal:
    cores = sum(room.cpu for room in rooms) / 1000
    machines = "the machine here has" if len(rooms) == 1 else f"the {len(rooms)} machines here have"
    each = f"{demand.cpu / 1000:g} core{'' if demand.cpu == 1000 else 's'}"
    if demand.gpus:
        each += f" and {demand.gpus} GPU{'s' if demand.gpus > 1 else ''}"
    if demand.memory:
        each += f" and {demand.memory / _GIB:.3g} GiB"
    share = max((room.cpu for room in rooms), default=0) // demand.nodes / 1000
    hint = "ask for fewer nodes, or for less for each"
    if len(rooms) == 1 and 0 < share * 1000 < demand.cpu:
        hint += f" (resources.cpu: {share:g} lets {demand.nodes} run side by side)"
    return Refusal(
        RefusalKind.NODES,
        f"{demand.nodes} nodes at once with {each} each do not fit: {machines} {cores:g} cores in all",
        hint,
    )


_SPEC_CHECKS: tuple[Callable[[ExperimentSpec, Demand], Refusal | None], ...] = (_no_cloud, _data, too_large)
_MEASURES: tuple[Callable[[Demand, Sequence[Room]], Refusal | None], ...] = (_cpu, _memory, _gpu)
