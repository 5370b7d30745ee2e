"""The provisioner's figures, each made to move by what it stands for."""

from __future__ import annotations

from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.platform import Platform, Start
from incl_shared import leases
from incl_shared.db import Transaction
from incl_shared.events.experiments import AttemptEnded, AttemptStarted, NodeLost
from incl_shared.ids import job_id
from incl_shared.states import EndReason
from incl_shared.testing.wait import until

FOREVER = Script(seconds=None)


def value(platform: Platform, name: str, **labels: str) -> float:
    """A figure of the provisioner; 0 where it is not shown yet."""
    registry = platform.app.bus.metrics.registry
    return registry.get_sample_value(f"incl_{name}", labels) or 0.0


def shared(platform: Platform, name: str, **labels: str) -> float:
    return value(platform, name, service="provisioner", **labels)


async def test_experiments_by_state_and_the_oldest_that_waits(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url, tick_s=0.05)
    platform.app.reconciler.count_every = 0.0
    agent = await platform.agent(script=lambda _: FOREVER)
    running = await platform.submit(resources={"cpu": 2})
    await platform.event(running, AttemptStarted)
    await platform.submit(resources={"cpu": 2})
    await until(lambda: value(platform, "provisioner_experiments", state="running") == 1)
    await until(lambda: value(platform, "provisioner_experiments", state="queued") == 1)
    assert value(platform, "provisioner_queued") == value(platform, "provisioner_running") == 1
    await until(lambda: value(platform, "provisioner_oldest_queued_seconds") > 0.2)
    await agent.end(job_id(running, 1, 0), EndReason.COMPLETED, 0)
    await until(lambda: value(platform, "provisioner_oldest_queued_seconds") == 0.0)
    assert value(platform, "provisioner_finished_total", state="finished") == 1


async def test_a_machine_that_falls_silent_and_the_next_attempt(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url, node_lease_s=3.0)
    platform.app.reconciler.count_every = 0.0
    dying = await platform.agent("dying", script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await until(lambda: value(platform, "provisioner_nodes", state="alive") == 1)
    await dying.stop()
    await until(lambda: value(platform, "provisioner_nodes", state="silent") == 1)
    assert value(platform, "provisioner_nodes_lost_total") == 0
    await platform.agent("other", script=lambda _: FOREVER)
    await until(lambda: value(platform, "provisioner_nodes", state="lost") == 1)
    await until(lambda: value(platform, "provisioner_nodes_lost_total") == 1)
    await until(lambda: any(isinstance(event, NodeLost) for _, _, event in platform.events))
    await platform.event(experiment, AttemptEnded)
    await platform.event(experiment, AttemptStarted, 2)
    await until(lambda: shared(platform, "recovery_seconds_count", what="attempt") == 1)
    assert 2.0 < shared(platform, "recovery_seconds_sum", what="attempt") < 15.0, "since the machine's last word"


async def test_the_lease_that_another_one_takes(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url, lease_ttl_s=1.0)
    await until(lambda: shared(platform, "lease_held", lease="scheduler") == 1)

    def steal(tx: Transaction) -> None:
        assert leases.acquire(tx, "scheduler", "thief", 1.0, gone=lambda _: True) is not None

    await platform.app.database.write(steal)
    await until(lambda: shared(platform, "lease_losses_total", lease="scheduler") == 1)
    assert shared(platform, "lease_held", lease="scheduler") == 0
    await until(lambda: shared(platform, "lease_held", lease="scheduler") == 1, what="the thief does not renew it")
    assert shared(platform, "lease_takeovers_total", lease="scheduler") == 1
    assert 1.0 <= shared(platform, "recovery_seconds_sum", what="lease") < 5.0
