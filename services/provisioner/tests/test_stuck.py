"""What the provisioner says is stuck: each kind is made to happen with scripted agents on a real bus."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from incl_provisioner import store, stuck, tables
from incl_provisioner.domain.cloud.names import Place, machine_name
from incl_provisioner.store import NodeRow
from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.platform import Platform, Start
from incl_shared import leases
from incl_shared.db import Transaction
from incl_shared.errors import DeniedError
from incl_shared.events.experiments import AttemptAssigned, AttemptStarted, RankTimes
from incl_shared.ids import new_id, short
from incl_shared.queries.stuck import Finding, ProvisionerStuck
from incl_shared.reports import JobUploading, NodeHeartbeat, NodeVitals
from incl_shared.subjects import SYSTEM_PROJECT
from incl_shared.testing.wait import until

FOREVER = Script(seconds=None)


async def findings(platform: Platform, after_s: float | None = 0.0) -> dict[str, Finding]:
    """By kind; one of each."""
    query = ProvisionerStuck(after_s=after_s)
    answer = await platform.client.ask(query, project=SYSTEM_PROJECT, user="admin")
    return {one.kind: one for one in answer.findings}


async def found(platform: Platform, kind: str, after_s: float | None = 0.0) -> Finding:
    async def look() -> Finding | None:
        return (await findings(platform, after_s)).get(kind)

    one = await until(look, 20, what=kind)
    assert one is not None and one.reason and one.hint
    return one


async def test_only_an_operator_is_answered(platform: Platform) -> None:
    with pytest.raises(DeniedError, match="operator"):
        await platform.client.ask(ProvisionerStuck(), project="default", user="ann")


async def test_a_full_room(platform: Platform) -> None:
    await platform.agent(script=lambda _: FOREVER)
    await platform.event(await platform.submit(resources={"cpu": 2}), AttemptStarted)
    waiting = await platform.submit(resources={"cpu": 2})
    await until(lambda: [e for e in platform.of(waiting) if type(e).__name__ == "ExperimentWaiting"])
    one = await found(platform, "experiment.queued")
    assert short(waiting) in one.subject
    assert "needs 2 cores" in one.reason
    assert f"incl stop {short(waiting)}" in one.hint
    assert await findings(platform, None) == {}, "a wait of a moment is usual"


async def test_an_attempt_that_no_machine_begins(platform: Platform) -> None:
    deaf = await platform.agent()
    platform.app.reconciler.count_every = 0.0
    await deaf.stop()
    experiment = await platform.submit()
    await platform.event(experiment, AttemptAssigned)
    one = await found(platform, "attempt.assigned")
    assert one.subject == f"{short(experiment)} attempt 1 rank 0"
    assert one.since_s is not None and 0 < one.since_s < 30


async def test_a_gang_that_waits_for_one(platform: Platform) -> None:
    await platform.agent(script=lambda job: Script(seconds=None, ready=job.rank != 1))
    experiment = await platform.submit(nodes=2)
    one = await found(platform, "attempt.ready")
    assert short(experiment) in one.subject
    assert "gang" in one.reason


async def test_a_job_that_does_not_obey(platform: Platform) -> None:
    await platform.agent(script=lambda _: Script(seconds=None, stops=False))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await platform.ask_stop(experiment)
    one = await found(platform, "attempt.stopping")
    assert one.since_s is not None and one.since_s < 30, "since it was told, not since it began"


async def test_outputs_that_take_long(platform: Platform) -> None:
    agent = await platform.agent(script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    times = RankTimes(rank=0, started=time.time() - 50, ended=time.time() - 40)
    await agent.say(JobUploading(experiment=experiment, attempt=1, rank=0, times=times, exit_code=0))
    one = await found(platform, "attempt.uploading", 30.0)
    assert one.since_s is not None and 40 <= one.since_s < 70


async def test_machines_that_are_silent_and_lost(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url, node_lease_s=12.0)
    agent = await platform.agent("n1")
    await found_nothing(platform)
    await agent.stop()
    assert (await found(platform, "node.silent")).subject == "node n1"
    lost = await found(platform, "node.lost")
    assert (lost.subject, lost.severity) == ("node n1", "error")


def test_what_is_to_be_done_about_a_silent_machine_depends_on_whose_it_is() -> None:
    own, made = "n1", machine_name(Place(new_id(), 1, 0))
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        tables.metadata.create_all(connection)
        for name in (own, made):
            row = NodeRow(name, True, 1, "127.0.0.1", 1000, 1 << 30, 0, ("host",), 100.0, 0)
            store.put_node(connection, row, new=True)
        told = {one.subject: one for one in stuck._nodes(connection, ProvisionerStuck(), 120.0)}
    engine.dispose()
    assert {one.kind for one in told.values()} == {"node.silent"}
    assert "is its agent up" in told[f"node {own}"].hint
    assert "is its agent up" not in told[f"node {made}"].hint
    assert "incl machines" in told[f"node {made}"].hint


async def test_a_lost_machine_of_a_cloud_asks_nothing_of_anybody_unless_it_stays(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url, node_lease_s=2.0)
    agent = await platform.agent(machine_name(Place(new_id(), 1, 0)))
    await agent.stop()
    lost = await found(platform, "node.lost", None)
    assert (lost.severity, "deleted" in lost.hint) == ("note", True)
    assert (await found(platform, "node.lost")).severity == "error"


async def found_nothing(platform: Platform) -> None:
    async def nothing() -> bool:
        return await findings(platform, None) == {}

    await until(nothing)


async def test_what_a_machine_says_of_itself(platform: Platform) -> None:
    agent = await platform.agent("n1", beat_s=None)
    said = NodeVitals(
        disk_free=10 << 20, disk_total=100 << 30, draining=3, draining_bytes=5_000_000, draining_s=900.0, unsent=200
    )
    await agent.say(NodeHeartbeat(vitals=said))
    full = await found(platform, "disk.full", None)
    assert (full.subject, full.severity) == ("node n1 disk", "error")
    assert "3 ended jobs, 5.0 MB" in (await found(platform, "telemetry.draining", None)).reason
    assert "200 reports" in (await found(platform, "reports.waiting", None)).reason


async def test_nobody_schedules(platform: Platform) -> None:
    """Its lease is held by one that does not live, and its loop hangs."""
    await platform.app.reconciler.stop()

    def steal(tx: Transaction) -> None:
        leases.acquire(tx, "scheduler", "ghost", -60.0, gone=lambda _: True)

    await platform.app.database.write(steal)
    free = await found(platform, "lease.free", None)
    assert free.subject == "scheduler"
    assert "ghost" in free.reason
    assert (await found(platform, "scheduler.stalled")).severity == "error"
