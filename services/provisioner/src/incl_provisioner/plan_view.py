"""A plan as it is told to those who ask."""

from __future__ import annotations

from incl_provisioner.domain.cloud.gangs import Phase
from incl_provisioner.domain.cloud.plan import Plan, summary
from incl_provisioner.domain.cloud.prices import Disk
from incl_provisioner.domain.cloud.zones import Ranked
from incl_provisioner.store_gangs import GangRow
from incl_shared.queries.provisioner import GangView, PlanView, ZonePlan

_SHOWN = 12


def view(plan: Plan, now: float) -> PlanView:
    """The answer of a dry run: the first zones in order, prices, and what a machine would be."""
    shape = plan.shape
    return PlanView(
        cloud=plan.provider,
        summary=summary(plan),
        nodes=plan.nodes,
        machine=shape.name,
        cores=shape.machine.cores,
        memory=shape.machine.memory,
        gpu=shape.gpu.name if shape.gpu is not None else "",
        gpus=shape.gpus,
        spot=plan.decision.spot,
        spot_why=plan.decision.why,
        price_on_demand=plan.price(spot=False),
        price_spot=plan.price(spot=True),
        saving=plan.hour.saving,
        currency=plan.hour.currency,
        price_date=plan.price_date,
        zones=tuple(_zone(each, plan.nodes, now) for each in plan.zones[:_SHOWN]),
        zones_in_all=len(plan.zones),
        image=f"{plan.image.project}/{plan.image.family}",
        disks=tuple(_disk(disk) for disk in (*plan.disks, *plan.scratch)),
        network=plan.subnetwork or plan.network,
        service_account=plan.service_account,
        max_run_duration_s=plan.max_run_duration_s,
        notes=plan.notes,
    )


def machines_view(row: GangRow) -> GangView:
    """The machines of an attempt."""
    gang = row.gang
    verdict, made = gang.verdict, gang.phase is Phase.MADE
    return GangView(
        experiment=gang.experiment, attempt=gang.attempt, nodes=tuple(gang.names), machine=gang.machine,
        zone=gang.zone, zones=gang.zones, spot=gang.spot, phase=gang.phase.value, tries=gang.turn,
        trouble=verdict.message if verdict is not None else "", hint=verdict.hint if verdict is not None else "",
        wanted=gang.wanted, created=row.created, asked=row.asked, made=row.made, preempted=row.preempted,
        deleted=row.ended, gone=row.absent.gone if made else (), going=row.absent.going if made else (),
    )  # fmt: skip


def _zone(ranked: Ranked, nodes: int, now: float) -> ZonePlan:
    total = ranked.hour.total(spot=ranked.spot)
    cooling = ranked.cooling
    return ZonePlan(
        zone=ranked.zone,
        machine=ranked.shape.name,
        price=None if total is None else total * nodes,
        score=ranked.score,
        why=ranked.why(),
        wait_s=None if cooling is None else max(0.0, cooling.until - now),
        wait_reason="" if cooling is None else cooling.message,
    )


def _disk(disk: Disk) -> str:
    return f"{disk.kind} {disk.gib} GiB"
