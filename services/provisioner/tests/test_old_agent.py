"""An agent that is older than the platform understands: it gets no work, and everybody is told why."""

from __future__ import annotations

from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.platform import Platform
from incl_shared.events.experiments import AttemptEnded, AttemptStarted
from incl_shared.ids import new_id
from incl_shared.protocol import OLDEST, PROTOCOL
from incl_shared.queries.provisioner import GetCluster, NodeView
from incl_shared.queries.stuck import ProvisionerStuck
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.wait import until


async def node(platform: Platform) -> NodeView | None:
    """The one that there is."""
    cluster = await platform.client.ask(GetCluster(), project="default", user="ann")
    return next(iter(cluster.nodes), None)


async def test_one_that_is_too_old_gets_no_work_until_it_is_renewed(platform: Platform) -> None:
    agent = await platform.agent("own", protocol=OLDEST - 1)
    experiment = await platform.submit()

    async def refused() -> bool:
        found = await node(platform)
        return found is not None and bool(found.refused) and not found.alive

    await until(refused, 10)
    found = await node(platform)
    assert found is not None
    assert "the agent of own is too old: it speaks version 0" in found.refused
    assert "install" in found.hint
    findings = await platform.client.ask(ProvisionerStuck(after_s=0.0), project="_system", user="admin")
    (finding,) = [one for one in findings.findings if one.kind.startswith("node.")]
    assert (finding.kind, finding.reason, finding.hint) == ("node.refused", found.refused, found.hint)
    await until(lambda: any(found.refused in one.refused for one in agent.lists), 10, what="it is told itself")
    heard = found.seen_s
    await until(lambda: platform.app.reconciler.idle, 10)
    found = await node(platform)
    assert found is not None
    assert not found.alive, f"its heartbeats make it no better ({heard:.1f} s, {found.seen_s:.1f} s)"
    assert agent.started == []
    agent.protocol = PROTOCOL + 1  # one that is newer is let in
    await agent.hello()
    assert (await platform.finished(experiment)).state is ExperimentState.FINISHED
    found = await node(platform)
    assert found is not None
    assert (found.alive, found.refused, found.hint) == (True, "", "")


async def test_what_ran_where_an_older_one_was_started_is_lost_with_the_reason(platform: Platform) -> None:
    agent = await platform.agent("own", script=lambda _: Script(seconds=None))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    agent.protocol = OLDEST - 1
    agent._journal = new_id()
    await agent.hello()
    ended: AttemptEnded = await platform.event(experiment, AttemptEnded)
    assert ended.reason is EndReason.LOST
    assert "is too old" in ended.message
