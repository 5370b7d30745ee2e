"""What a cloud would be asked for: the lines of a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incl_cli.text import Column, duration, plural, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from incl_cli.output import Output
    from incl_cli.platform import Platform
    from incl_shared.queries.provisioner import PlanView, ZonePlan
    from incl_shared.spec import ExperimentSpec

_COLUMNS = (
    Column("zone"),
    Column("machine"),
    Column("an hour", right=True),
    Column("besides the price", flexible=True, least=20),
)


async def ask_plan(platform: Platform, spec: ExperimentSpec) -> PlanView | None:
    """The plan of an experiment; none where no cloud is used.

    Raises:
        InvalidInput: it can nowhere be had, with the next step.
    """
    from incl_shared.queries.provisioner import PlanExperiment

    found = await platform.ask(PlanExperiment(spec=spec.model_dump(mode="json")))
    return found if found.cloud else None


def plan_lines(out: Output, plan: PlanView) -> Iterator[str]:
    """The plan for people: one line that says it all, the zones in order, and what else there is to know."""
    yield plan.summary
    yield from table(out, _COLUMNS, [_row(zone, plan.currency) for zone in plan.zones], "  ")
    more = plan.zones_in_all - len(plan.zones)
    if more > 0:
        yield f"  and {plural(more, 'more place')}"
    gpus = f", {plan.gpus} x {plan.gpu}" if plan.gpus else ""
    node = f"{plural(plan.cores, 'core')}, {plan.memory / 2**30:.4g} GiB{gpus}"
    yield f"each node: {node}; {', '.join(plan.disks)}; {plan.image}"
    if plan.price_on_demand is not None and plan.price_spot is not None:
        both = f"on demand {_money(plan.price_on_demand, plan.currency)}, spot {_money(plan.price_spot, plan.currency)}"
        yield f"prices an hour: {both} (list of {plan.price_date}, nothing is promised); {plan.spot_why}"
    yield f"deleted by the provider after {duration(plan.max_run_duration_s)} at the latest"
    yield from plan.notes


def _row(zone: ZonePlan, currency: str) -> tuple[str, str, str, str]:
    price = "?" if zone.price is None else _money(zone.price, currency)
    if zone.wait_s is None:
        return zone.zone, zone.machine, price, zone.why
    return zone.zone, zone.machine, price, f"not for {duration(zone.wait_s)}: {zone.wait_reason}"


def _money(amount: float, currency: str) -> str:
    digits = 4 if 0 < amount < 0.1 else 2
    return f"${amount:.{digits}f}" if currency == "USD" else f"{amount:.{digits}f} {currency}"
