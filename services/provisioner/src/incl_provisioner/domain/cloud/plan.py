"""The plan of an attempt: which machine, where, how it is paid, what it boots, when it ends by itself.

A plan is what the backend acts on and what a dry run shows; making one changes nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from incl_provisioner.domain.cloud.data_needs import local_ssds, with_data
from incl_provisioner.domain.cloud.instances import Need, resolve
from incl_provisioner.domain.cloud.machines import MachineTable, Shape, region_of
from incl_provisioner.domain.cloud.policy import Decision, Situation, SpotPolicy
from incl_provisioner.domain.cloud.prices import LOCAL_SSD_GIB, Disk, Hour, PriceTable, money, too_old
from incl_provisioner.domain.cloud.zones import Pins, Ranked, State, Weights, allowed, by_region, rank, waiting
from incl_shared.errors import InvalidInput
from incl_shared.spec import ExperimentSpec

_MACHINES_TRIED = 3
"""Of the machines that would do, so many of the cheapest are looked for."""
_SHORTEST_S = 300.0


@dataclass(frozen=True, slots=True)
class Image:
    """An image family of a project of the provider."""

    project: str
    family: str


@dataclass(frozen=True, slots=True)
class CloudSettings:
    """What an operator configures of a cloud. Durations in seconds.

    `network`, `subnetwork`: names, or the whole path of a shared one; an empty subnetwork is the region's own.
    `service_account`: empty gives machines no account of the cloud at all. `zones`, `regions`: where machines may be.
    `longest_s`: a machine's whole life at most; `margin_s`: what a machine needs besides its job: boot, fetch, upload.
    """

    project: str
    image: Image = Image("debian-cloud", "debian-12")
    gpu_image: Image = Image("deeplearning-platform-release", "common-cu128-ubuntu-2204-nvidia-570")
    network: str = "default"
    subnetwork: str = ""
    service_account: str = ""
    external_ip: bool = False
    boot_gib: int = 50
    zones: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    longest_s: float = 7 * 86_400.0
    margin_s: float = 1_800.0
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is known of an experiment besides its file: what ended before, where its data lies. key: breaks ties."""

    preemptions: Sequence[float] = ()
    data_regions: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class Plan:
    """One attempt in a cloud. `zones`: in order, all nodes in one of them; the first is meant unless it is cooled.

    `max_run_duration_s`: after so long the provider deletes the machine by itself. `startup`: the key under which the
    startup script travels in the machine's metadata.
    """

    provider: str
    nodes: int
    decision: Decision
    zones: tuple[Ranked, ...]
    image: Image
    disks: tuple[Disk, ...]
    scratch: tuple[Disk, ...]
    network: str
    subnetwork: str
    service_account: str
    external_ip: bool
    max_run_duration_s: int
    price_date: str
    notes: tuple[str, ...] = ()
    startup: str = "startup-script"

    @property
    def first(self) -> Ranked:
        """Where it is tried first."""
        return self.zones[0]

    @property
    def shape(self) -> Shape:
        """The machine that is tried first."""
        return self.first.shape

    @property
    def hour(self) -> Hour:
        """What an hour of one node costs there."""
        return self.first.hour

    def price(self, *, spot: bool | None = None) -> float | None:
        """What an hour of all nodes costs where it is tried first; none where that is not known."""
        total = self.hour.total(spot=self.decision.spot if spot is None else spot)
        return None if total is None else total * self.nodes


def make_plan(
    spec: ExperimentSpec,
    wish: Wish,
    table: MachineTable,
    prices: PriceTable,
    settings: CloudSettings,
    policy: SpotPolicy,
    state: State,
    *,
    today: str = "",
) -> Plan:
    """The plan of the next attempt of an experiment. today: the day, to tell when the prices are old.

    Raises:
        InvalidInput: nothing is called so, nothing is so large, it is nowhere that is allowed, or no machine lives so
            long; with the next step.
    """
    _lives_long_enough(spec, settings)
    need = Need(spec.resources.cpu, spec.resources.memory or 0, spec.resources.gpu)
    zones = _zones(table, settings, spec)
    shapes = _shapes(spec, need, table, prices, zones)
    exists = any(shape.machine.spot for shape in shapes)
    decision = policy.choose(
        Situation(state.now, asked=spec.spot, exists=exists, nodes=spec.nodes, preemptions=wish.preemptions)
    )
    shapes = [shape for shape in shapes if shape.machine.spot or not decision.spot][:_MACHINES_TRIED]

    def disks(shape: Shape) -> tuple[Disk, ...]:
        node = node_of(spec, shape, settings)
        return (*node.disks, *node.scratch[shape.machine.local_ssd :])

    ranked = rank(
        shapes, zones, state, prices, spot=decision.spot, nodes=spec.nodes, disks=disks,
        data=frozenset(wish.data_regions), weights=settings.weights,
    )  # fmt: skip
    node = node_of(spec, ranked[0].shape, settings)
    return Plan(
        table.provider, spec.nodes, decision, ranked, node.image, node.disks, node.scratch,
        settings.network, settings.subnetwork, settings.service_account, settings.external_ip,
        node.longest_s, prices.date,
        (*_notes(ranked, state, prices, today), *_data_notes(spec, ranked[0].shape, table)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What one node is made of besides its machine. `longest_s`: after so long the provider deletes it."""

    image: Image
    disks: tuple[Disk, ...]
    scratch: tuple[Disk, ...]
    longest_s: int


def node_of(spec: ExperimentSpec, shape: Shape, settings: CloudSettings) -> NodePlan:
    """A node of an experiment on a machine."""
    return NodePlan(
        settings.gpu_image if shape.gpus else settings.image,
        (Disk(shape.machine.boot_disks[0], settings.boot_gib),),
        (Disk("local-ssd", LOCAL_SSD_GIB),) * max(shape.machine.local_ssd, local_ssds(spec)),
        _longest(spec, settings),
    )


def _zones(table: MachineTable, settings: CloudSettings, spec: ExperimentSpec) -> frozenset[str]:
    """Where it may run: what the operator allows, and of that what the author named."""
    mine = allowed(table, Pins(settings.zones, settings.regions))
    theirs = allowed(table, Pins(spec.zones, spec.regions))
    both = mine & theirs
    if not both:
        raise InvalidInput(
            "the zones that were named are not among those that this platform may use",
            hint=f"it may use {', '.join(sorted({region_of(zone) for zone in mine}))}",
        )
    return both


def _shapes(
    spec: ExperimentSpec, need: Need, table: MachineTable, prices: PriceTable, zones: frozenset[str]
) -> list[Shape]:
    """The machines that would do, the cheapest here first; those that are nowhere here only when all are."""
    regions = frozenset(region_of(zone) for zone in zones)
    spot = spec.spot is True
    shapes = resolve(
        spec.instance, need, table, lambda shape: prices.cheapest(shape, spot=spot, regions=regions)
    )  # fmt: skip
    able = with_data(spec, shapes, table)
    return [shape for shape in able if shape.zones & zones] or list(able)


def _lives_long_enough(spec: ExperimentSpec, settings: CloudSettings) -> None:
    most = settings.longest_s - spec.checkpoint.grace - settings.margin_s
    if spec.max_duration is not None and spec.max_duration > most:
        raise InvalidInput(
            f"max_duration is {spec.max_duration / 3600:.4g}h, and no machine of the cloud is kept that long",
            hint=f"{int(most // 3600)}h at most; what takes longer goes on in another attempt, from its checkpoint",
        )


def longest(spec: ExperimentSpec, settings: CloudSettings) -> int:
    """After so many seconds the provider deletes the machines of an attempt."""
    return _longest(spec, settings)


def _longest(spec: ExperimentSpec, settings: CloudSettings) -> int:
    """The third end of a machine: its attempt's longest time and what surrounds it, within the operator's limit.

    A machine of a gang may serve the next attempt too, when another one of the gang is lost.
    """
    wanted = settings.longest_s
    if spec.max_duration is not None:
        attempts = 2 if spec.nodes > 1 and spec.retry.attempts > 1 else 1
        wanted = min(wanted, attempts * (spec.max_duration + spec.checkpoint.grace) + settings.margin_s)
    return int(max(_SHORTEST_S, wanted))


def lasts(spec: ExperimentSpec, settings: CloudSettings, spent: float) -> bool:
    """Whether a machine of an experiment lives long enough for another attempt. spent: seconds of its life so far."""
    longest = _longest(spec, settings)
    needed = longest / 2 if spec.max_duration is None else spec.max_duration + spec.checkpoint.grace
    return longest - spent >= needed


def _notes(ranked: Sequence[Ranked], state: State, prices: PriceTable, today: str) -> list[str]:
    notes = []
    held = waiting(ranked)
    if held:
        notes.append(held)
    missing = ranked[0].hour.missing
    if missing:
        notes.append(
            f"no price is known for {', '.join(missing)} in {ranked[0].region}; INCL_PROVISIONER_PRICES sets one"
        )
    elif today and too_old(prices.date, today):
        notes.append(f"the list of prices is of {prices.date}, and old: INCL_PROVISIONER_PRICES names a newer one")
    return notes


def _data_notes(spec: ExperimentSpec, shape: Shape, table: MachineTable) -> list[str]:
    """What the price of machines does not have in it."""
    kind = table.data_kind(shape.machine)
    return [f"data: a {kind} disk of the snapshot {name}, shared, paid besides" for name in spec.snapshots]


def first_calls(plan: Plan) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(region, its zones in order) of what is tried one after the other: a gang is asked for by region."""
    return tuple((choice.region, choice.zones) for choice in by_region(plan.zones))


def summary(plan: Plan) -> str:
    """The plan in one line: '2 x a2-highgpu-1g spot in us-central1-a: $2.60 an hour, 65 % less than on demand'."""
    count = f"{plan.nodes} x " if plan.nodes > 1 else ""
    kind = "spot" if plan.decision.spot else "on demand"
    price = plan.price()
    cost = "price unknown" if price is None else f"{money(price, plan.hour.currency)} an hour"
    saving = plan.hour.saving
    tail = ""
    if saving is not None and plan.decision.spot:
        tail = f", {saving:.0%} less than on demand"
    elif saving is not None and saving > 0:
        tail = f"; spot would save {saving:.0%}"
    return f"{count}{plan.shape.name} {kind} in {plan.first.zone}: {cost}{tail}"
