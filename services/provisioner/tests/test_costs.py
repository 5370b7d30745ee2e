"""What machines have cost: the list price of each attempt, for as long as its machines were there."""

from __future__ import annotations

import pytest

from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.site import MACHINE, Begin, Site
from incl_shared.events.experiments import AttemptStarted
from incl_shared.ids import new_id
from incl_shared.queries.provisioner import Costs, GetCosts, PlanExperiment, PlanView


async def _costs(site: Site, *experiments: str, project: str = "default") -> Costs:
    query = GetCosts(experiments=experiments)
    answer: Costs = await site.platform.client.ask(query, project=project, user="hpo")
    return answer


async def _plan(site: Site, **spec: object) -> PlanView:
    values = {"command": ["true"], "instance": MACHINE, **spec}
    return await site.platform.client.ask(PlanExperiment(spec=values), project="default", user="ann")


@pytest.mark.parametrize(("nodes", "spot"), [(1, False), (3, True)])
async def test_an_experiment_costs_what_its_machines_do(begin: Begin, nodes: int, spot: bool) -> None:
    site = await begin()
    experiment = await site.submit(nodes=nodes, spot=spot)
    await site.platform.finished(experiment)
    await site.settle(experiment)
    await site.until_empty()
    (gang,) = await site.gangs(experiment)
    plan = await _plan(site, nodes=nodes, spot=spot)
    price = plan.price_spot if spot else plan.price_on_demand
    assert price is not None
    assert gang.deleted is not None
    assert gang.made is not None
    answer = await _costs(site, experiment, new_id())
    (cost,) = answer.costs
    assert answer.currency == plan.currency == "USD"
    assert cost.spent == pytest.approx(price * (gang.deleted - gang.made) / 3600)
    assert (cost.experiment, cost.live, cost.priced, cost.rate) == (experiment, False, True, 0.0)
    assert (await _costs(site, experiment, project="other")).costs == (), "it is nobody else's"


async def test_machines_that_are_there_cost_more_and_more(begin: Begin) -> None:
    site = await begin()
    site.vms.script = lambda _: Script(seconds=None)
    experiment = await site.submit()
    await site.platform.event(experiment, AttemptStarted)
    (before,) = (await _costs(site, experiment)).costs
    (after,) = (await _costs(site, experiment)).costs
    assert (before.live, before.rate) == (True, pytest.approx((await _plan(site)).price_on_demand))
    assert 0 <= before.spent < after.spent
