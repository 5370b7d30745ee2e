"""Plans for a cloud that is configured: the tables, the settings, and what is known now, brought together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from incl_provisioner.catalog import Catalog, load_catalog
from incl_provisioner.domain.cloud.plan import CloudSettings, Image, Plan, Wish, make_plan
from incl_provisioner.domain.cloud.policy import AfterPreemptions, SpotPolicy
from incl_provisioner.domain.cloud.zones import State
from incl_provisioner.settings import CloudOptions, ProvisionerSettings
from incl_shared.clock import Clock
from incl_shared.spec import ExperimentSpec


class Planner(Protocol):
    """The port: what a cloud would be asked for."""

    def plan(self, spec: ExperimentSpec, wish: Wish | None = None) -> Plan:
        """The plan of an experiment's next attempt.

        Raises:
            InvalidInput: it cannot be had, with the reason and the next step.
        """
        ...


class CatalogPlanner:
    """Plans from a catalog. `state`: gives what is known now of so many nodes; without it nothing has been met yet."""

    def __init__(
        self, catalog: Catalog, settings: CloudSettings, policy: SpotPolicy, clock: Clock,
        state: Callable[[int], State] | None = None,
    ) -> None:  # fmt: skip
        self.catalog = catalog
        self.settings = settings
        self.policy = policy
        self._clock = clock
        self._state = state or (lambda _: State(clock.now()))

    def plan(self, spec: ExperimentSpec, wish: Wish | None = None) -> Plan:
        """See `Planner.plan`."""
        today = datetime.fromtimestamp(self._clock.now(), UTC).date().isoformat()
        wish = wish or Wish()
        state = replace(self._state(spec.nodes), key=wish.key)
        return make_plan(
            spec, wish, self.catalog.machines, self.catalog.prices, self.settings, self.policy, state, today=today
        )


def create_planner(
    settings: ProvisionerSettings, clock: Clock, state: Callable[[int], State] | None = None
) -> CatalogPlanner | None:
    """The planner of the cloud that is configured; none when there is none. state: see `CatalogPlanner`.

    Raises:
        InvalidInput, NotFoundError: an operator's table is wrong or not there, with file and line.
    """
    options = settings.cloud
    if options is None:
        return None
    catalog = load_catalog(options.provider, machines=settings.machines, prices=settings.prices)
    policy = AfterPreemptions(options.spot_count, options.spot_window_s, options.spot)
    return CatalogPlanner(catalog, cloud_settings(options), policy, clock, state)


def cloud_settings(options: CloudOptions) -> CloudSettings:
    """The settings as plans have them."""
    return CloudSettings(
        project=options.project,
        image=Image(options.image_project, options.image_family),
        gpu_image=Image(options.gpu_image_project, options.gpu_image_family),
        network=options.network,
        subnetwork=options.subnetwork,
        service_account=options.service_account,
        external_ip=options.external_ip,
        boot_gib=options.boot_gib,
        zones=options.zones,
        regions=options.regions,
        longest_s=options.longest_s,
        margin_s=options.margin_s,
    )
