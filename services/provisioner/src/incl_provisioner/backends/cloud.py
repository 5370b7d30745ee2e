"""Machines of a cloud for those that name an instance; all others run on the machines that are there."""

from __future__ import annotations

from collections.abc import Sequence

from incl_provisioner.backends.local import LocalBackend, too_large
from incl_provisioner.domain.feasibility import Refusal, RefusalKind, demand_of
from incl_provisioner.domain.placement import Room
from incl_provisioner.planner import Planner
from incl_provisioner.settings import CloudOptions
from incl_shared.errors import InvalidInput
from incl_shared.spec import ExperimentSpec


class CloudBackend:
    """Judges by the tables of machines, zones and prices; nothing is asked of the provider."""

    name = "cloud"

    def __init__(self, planner: Planner, options: CloudOptions) -> None:
        self._planner = planner
        self._options = options
        self._local = LocalBackend()

    def cloud(self, spec: ExperimentSpec) -> bool:
        """See `Backend.cloud`."""
        return spec.instance is not None

    def refusal(self, spec: ExperimentSpec, wire: int, rooms: Sequence[Room]) -> Refusal | None:
        """See `Backend.refusal`."""
        if spec.instance is None:
            if spec.spot or spec.zones or spec.regions:
                return Refusal(
                    RefusalKind.INSTANCE,
                    "spot, zones or regions were named, but no instance",
                    "name an `instance`, such as auto; or leave the others out to run on the machines that are here",
                )
            return self._local.refusal(spec, wire, rooms)
        if not self._options.complete:
            return Refusal(
                RefusalKind.INSTANCE,
                "the cloud that is configured can only be planned with: machines would not find their agent",
                "set the provisioner's cloud agent_url, agent_sha256 and enroll_url; see docs/compute-engine.md",
            )
        large = too_large(spec, demand_of(spec, wire))
        if large is not None:
            return large
        try:
            self._planner.plan(spec)
        except InvalidInput as error:
            return Refusal(RefusalKind.INSTANCE, error.message, error.hint)
        return None
