"""Where the machines of a gang are tried next, and what they are made like: the planner of the keeper.

What was met is remembered here: cooldowns, what was preempted where, and what the provider says of zones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from incl_provisioner.backends.gce.port import Order
from incl_provisioner.cloud.advising import AdviceBook, Advisor
from incl_provisioner.cloud.data import DataKeeper
from incl_provisioner.cloud.rows import About, GangRows
from incl_provisioner.cloud.tokens import token
from incl_provisioner.domain.cloud import startup
from incl_provisioner.domain.cloud.cooldowns import CooldownBook, Target
from incl_provisioner.domain.cloud.errors import Meaning, Verdict
from incl_provisioner.domain.cloud.gangs import Gang, Where
from incl_provisioner.domain.cloud.history import PreemptionHistory
from incl_provisioner.domain.cloud.instances import Need, resolve
from incl_provisioner.domain.cloud.machines import Shape
from incl_provisioner.domain.cloud.names import Owner, Place, labels
from incl_provisioner.domain.cloud.plan import Plan, Wish, lasts, node_of
from incl_provisioner.domain.cloud.zones import Ranked, State, nowhere, waiting
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.planner import CatalogPlanner
from incl_provisioner.settings import CloudOptions
from incl_provisioner.store_gangs import Key
from incl_shared.clock import Clock
from incl_shared.errors import InvalidInput
from incl_shared.spec import ExperimentSpec

_ALIKE = 1.02
"""Zones of a region whose useful hour costs at most so much more than the best one's are asked together."""


@dataclass
class Met:
    """What was met in the cloud so far."""

    clock: Clock
    cooldowns: CooldownBook = field(default_factory=CooldownBook)
    history: PreemptionHistory = field(default_factory=PreemptionHistory)
    advice: AdviceBook = field(default_factory=AdviceBook)

    def state(self, nodes: int) -> State:
        """For a plan of so many nodes that is made now."""
        return State(self.clock.now(), self.cooldowns, self.history, self.advice.known(nodes, self.clock.monotonic()))


class CloudPlans:
    """See `keeper.Planner`. Args: platform, key: what the installation is known by; bus: addresses for machines.

    Attributes:
        waits: why nothing can be tried now, by experiment.
        doomed: gangs that will never be made, and why: to be said in their rows.
    """

    def __init__(
        self, options: CloudOptions, planner: CatalogPlanner, met: Met, rows: GangRows,
        *, platform: str, key: str, bus: tuple[str, ...], metrics: ProvisionerMetrics, data: DataKeeper,
        advisor: Advisor | None = None,
    ) -> None:  # fmt: skip
        self._advisor = advisor
        self._metrics, self._data = metrics, data
        self._options, self._planner, self._met, self._rows = options, planner, met, rows
        self._platform, self._key, self._bus = platform, key, bus
        self.waits: dict[str, str] = {}
        self.doomed: dict[Key, Verdict] = {}
        self.changed: set[str] = set()
        """Experiments of which the reason to wait has changed since somebody looked."""

    async def where(self, gang: Gang, now: float) -> Where | None:
        """The next place: the best zone, and those of its region that are as good; None: wait.

        What the provider says of zones is asked first, for a few seconds at most.
        """
        with self._metrics.own_time("cloud"):
            plan = self._planned(gang)
        if plan is None:
            return None
        if self._advisor is not None and await self._advisor.ask(plan):
            with self._metrics.own_time("cloud"):
                plan = self._planned(gang) or plan
        return self._first(gang, plan, now)

    def _planned(self, gang: Gang) -> Plan | None:
        about = self._rows.about.get(gang.key)
        if about is None:
            return None
        try:
            return self._plan(gang, about)
        except InvalidInput as error:
            self._wait(gang.experiment, f"{error.message}; {error.hint}" if error.hint else error.message)
            return None

    def _first(self, gang: Gang, plan: Plan, now: float) -> Where | None:
        free = [each for each in plan.zones if each.cooling is None]
        if not free:
            never = nowhere(plan.zones)
            if never is not None:
                self.doomed[gang.key] = never
            self._wait(gang.experiment, waiting(plan.zones))
            return None
        best = free[0]
        about = self._rows.about.get(gang.key)
        if about is not None and about.spec.snapshots:
            return self._where_data(gang, about.spec, free, now)
        self._wait(gang.experiment, "")
        zones = tuple(each.zone for each in free if _as_good(each, best))
        return Where(best.region, zones, best.shape.name, best.spot)

    def again(self, gang: Gang, now: float) -> Where | None:
        """The place of machines that a gang took over; None: they are not what the next attempt is to run on.

        The zone may be a dearer one by now: what counts is that nothing keeps it from being asked, that machine and
        price are the same kind still, and that the machines live long enough.
        """
        with self._metrics.own_time("cloud"):
            return self._again(gang)

    def _again(self, gang: Gang) -> Where | None:
        about = self._rows.about.get(gang.key)
        if about is None:
            return None
        try:
            plan = self._plan(gang, about)
        except InvalidInput:
            return None
        same = [each for each in plan.zones if each.target == Target(gang.zone, gang.machine, gang.spot)]
        if not same or same[0].cooling is not None or not lasts(about.spec, self._planner.settings, gang.spent):
            return None
        return Where(same[0].region, (gang.zone,), gang.machine, gang.spot, gang.disks)

    def _where_data(self, gang: Gang, spec: ExperimentSpec, free: Sequence[Ranked], now: float) -> Where | None:
        """The zone that has the data, alone: disks are of one zone."""
        found = self._data.choose(gang, spec.snapshots, free, now)
        if isinstance(found, str):
            self._wait(gang.experiment, found)
            return None
        self._wait(gang.experiment, "")
        zone = found.zone
        return Where(zone.region, (zone.zone,), zone.shape.name, zone.spot, found.disks)

    def order(self, gang: Gang) -> Order:
        """What the machines of a gang's try are made like: the same as often as it is asked."""
        about = self._rows.about[gang.key]
        shape = self._shape(gang.machine)
        settings = self._planner.settings
        node = node_of(about.spec, shape, settings)
        owner = Owner(self._platform, about.project, about.user, Place(gang.experiment, gang.attempt, 0))
        said = labels(owner)
        del said["incl-rank"]  # one order for all ranks: the name says which
        return Order(
            machine=shape.machine.name, image=node.image, disks=node.disks, labels=said,
            metadata=startup.metadata(self._boot(gang)), spot=gang.spot, longest_s=node.longest_s, guest=shape.guest,
            scratch=len(node.scratch), terminates=shape.terminates, network=settings.network,
            subnetwork=settings.subnetwork, service_account=settings.service_account,
            scopes=self._options.scopes, external_ip=settings.external_ip, notice_s=self._options.notice_s,
            data_disks=gang.disks,
        )  # fmt: skip

    def failed(self, gang: Gang, verdict: Verdict, now: float) -> None:
        """A try failed: the places rest for as long as the error says.

        Where somebody must act first, nothing rests: each who needs the same fails by a call of its own, at once, and
        whoever comes after it was put right does not.
        """
        if not verdict.waits and verdict.meaning is not Meaning.CREDENTIALS:
            return
        for target in self._targets(gang):
            self._met.cooldowns.failed(target, verdict, now)

    def came(self, gang: Gang) -> None:
        """Its machines came to work: what was held against the place is forgotten."""
        for target in self._targets(gang):
            if target.zone == gang.zone:
                self._met.cooldowns.succeeded(target)

    def lived(self, gang: Gang, since: float, *, taken: bool = False) -> None:
        """Its machines are gone, or were taken."""
        now = self._met.clock.now()
        if gang.spot and gang.zone:
            self._met.history.lived(gang.zone, gang.machine, max(0.0, now - since) / 3600.0, now, preempted=taken)

    def _targets(self, gang: Gang) -> list[Target]:
        return [Target(zone, gang.machine, gang.spot) for zone in gang.zones]

    def _plan(self, gang: Gang, about: About) -> Plan:
        return self._planner.plan(about.spec, Wish(preemptions=about.preemptions, key=gang.experiment))

    def _shape(self, name: str) -> Shape:
        return resolve(name, Need(cpu=0), self._planner.catalog.machines, lambda _: None)[0]

    def _boot(self, gang: Gang) -> startup.Boot:
        options = self._options
        return startup.Boot(
            agent_url=options.agent_url, agent_sha256=options.agent_sha256, enroll_url=options.enroll_url,
            token=token(self._key, gang.experiment, gang.attempt, gang.turn),
            bus=",".join(options.bus_urls or self._bus),
        )  # fmt: skip

    def _wait(self, experiment: str, reason: str) -> None:
        if self.waits.get(experiment, "") != reason:
            self.waits[experiment] = reason
            self.changed.add(experiment)


def _as_good(each: Ranked, best: Ranked) -> bool:
    same = (each.region, each.shape.name) == (best.region, best.shape.name)
    return same and each.score <= best.score * _ALIKE
