"""What goes wrong: restarts, lost machines, lost messages, a second provisioner."""

from __future__ import annotations

import threading
import time

import pytest

from incl_provisioner.app import create_app
from incl_provisioner.handlers import Handlers
from incl_provisioner.testing.agent import FakeAgent, Script
from incl_provisioner.testing.platform import Platform, Start
from incl_shared import subjects
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Early
from incl_shared.bus.topology import CONTROL
from incl_shared.clock import SystemClock
from incl_shared.control import JobWanted, NodeWanted
from incl_shared.db import Transaction
from incl_shared.events.experiments import (
    ArtifactsDropped,
    ArtifactStored,
    AttemptAssigned,
    AttemptEnded,
    AttemptStarted,
    DroppedFile,
    ExperimentFinished,
    ExperimentStopping,
    NodeLost,
    NodeReady,
)
from incl_shared.ids import job_id, new_id
from incl_shared.reports import NodeHeartbeat, NodeHello, Report
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.nats import NatsServer
from incl_shared.testing.wait import until

FOREVER = Script(seconds=None)


class SetClock(SystemClock):
    """The machine's clock, that somebody sets."""

    offset = 0.0

    def now(self) -> float:
        return super().now() + self.offset


async def test_a_restart_in_the_middle_loses_and_repeats_nothing(start: Start, database_url: str) -> None:
    platform = await start(database_url)
    agent = await platform.agent(script=lambda _: FOREVER)
    running = await platform.submit(resources={"cpu": 2})
    await platform.event(running, AttemptStarted)
    waiting = await platform.submit(resources={"cpu": 2})
    await platform.app.stop()
    late = await platform.submit(resources={"cpu": 2})
    await agent.end(job_id(running, 1, 0), EndReason.COMPLETED, 0)
    platform.app = create_app(platform.settings)
    await platform.app.start()
    assert (await platform.finished(running)).attempts == 1
    await platform.event(waiting, AttemptStarted)
    await agent.end(job_id(waiting, 1, 0), EndReason.COMPLETED, 0)
    await platform.event(late, AttemptStarted)
    assert agent.started == [job_id(each, 1, 0) for each in (running, waiting, late)]
    assert agent.killed == []


async def test_jobs_go_on_over_a_restart_of_all_but_the_jobs(platform: Platform) -> None:
    agent = await platform.agent(script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await platform.restart()
    await agent.hello()
    await agent.end(job_id(experiment, 1, 0), EndReason.COMPLETED, 0)
    assert (await platform.finished(experiment)).attempts == 1
    assert agent.killed == []


async def test_a_started_job_that_the_agent_does_not_hold_any_more_is_lost_and_tried_again(
    platform: Platform,
) -> None:
    agent = await platform.agent(script=lambda job: FOREVER if job.attempt == 1 else Script())
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await agent.hello(jobs=())
    finished = await platform.finished(experiment)
    assert (finished.state, finished.attempts) == (ExperimentState.FINISHED, 2)
    assert (await platform.event(experiment, AttemptEnded)).reason is EndReason.LOST
    assert job_id(experiment, 1, 0) in agent.killed


async def test_a_job_that_had_not_started_is_still_wanted_after_a_hello_without_it(platform: Platform) -> None:
    agent = await platform.agent(script=lambda _: Script(ready=False))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptAssigned)
    await until(lambda: agent.held)
    agent.held.clear()
    agent.script = lambda _: Script()
    await agent.hello(jobs=())
    assert (await platform.finished(experiment)).attempts == 1


async def test_on_another_disk_nothing_begins_that_was_meant_for_the_old_one(platform: Platform) -> None:
    agent = await platform.agent(script=lambda job: Script(ready=job.attempt > 1))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptAssigned)
    await until(lambda: agent.held)
    agent.held.clear()
    agent._journal = new_id()
    await agent.hello(jobs=())
    ended = await platform.event(experiment, AttemptEnded)
    assert (ended.reason, ended.retry) == (EndReason.LOST, True)
    assert (await platform.finished(experiment)).attempts == 2


async def test_a_hello_that_comes_late_says_nothing_of_what_has_begun_since(platform: Platform) -> None:
    agent = await platform.agent(script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await platform.client.publish_confirmed(
        subjects.report(agent.node),
        Report(
            node=agent.node, journal=agent._journal, seq=1, time=0.0,
            body=NodeHello(cpu=2.0, memory=8 << 30, gpus=0, address="127.0.0.1", runtimes=("host",)),
        ).model_dump_json().encode(),
        message_id="late",
    )  # fmt: skip
    await agent.end(job_id(experiment, 1, 0), EndReason.COMPLETED, 0)
    assert (await platform.finished(experiment)).attempts == 1


async def test_an_older_hello_after_a_newer_one_changes_nothing(platform: Platform) -> None:
    """Deliveries that are tried again come out of their order. Lists with an old life begin nothing on the machine."""
    agent = await platform.agent()
    await agent.hello()
    older = NodeHello(cpu=2.0, memory=8 << 30, gpus=0, address="127.0.0.1", runtimes=("host",), life="older")
    report = Report(node=agent.node, journal=agent._journal, seq=1, time=0.0, body=older)
    payload = report.model_dump_json().encode()
    await platform.client.publish_confirmed(subjects.report(agent.node), payload, message_id="older")
    await platform.finished(await platform.submit())
    assert "older" not in {wanted.life for wanted in agent.lists}


async def test_a_silent_machine_is_lost_and_its_old_attempt_is_fenced_when_it_comes_back(
    start: Start, sqlite_url: str
) -> None:
    platform = await start(sqlite_url, node_lease_s=0.8)
    dying = await platform.agent("dying", script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await dying.stop()
    ended = await platform.event(experiment, AttemptEnded)
    assert (ended.reason, ended.retry) == (EndReason.LOST, True)
    assert "was silent for" in ended.message
    await until(lambda: any(isinstance(event, NodeLost) and event.node == "dying" for _, _, event in platform.events))
    await platform.agent("other", script=lambda _: Script())
    assert (await platform.finished(experiment)).attempts == 2
    ready = next(event for _, _, event in platform.events if isinstance(event, NodeReady) and event.node == "dying")
    back = FakeAgent(platform.client, "dying", beat_s=0.1, look_s=0.1)
    back.held, back.generation = dying.held, dying.generation
    platform.agents.append(back)
    await back.start(hello=False)
    await until(lambda: back.killed == [job_id(experiment, 1, 0)])
    await until(lambda: len([event for _, _, event in platform.events if event == ready]) == 2)


async def test_a_machine_whose_words_nobody_has_read_is_not_lost(
    start: Start, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another provisioner stands still and has them, or the durable is being made anew."""
    unread = threading.Event()
    read = Handlers.reports

    def reports(self: Handlers, tx: Transaction, delivery: Delivery) -> None:
        if unread.is_set() and delivery.subject == subjects.report("unread"):
            raise Early("it lies with somebody who stands still")
        read(self, tx, delivery)

    monkeypatch.setattr(Handlers, "reports", reports)
    platform = await start(sqlite_url, node_lease_s=0.8)
    agent = await platform.agent("unread", script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    unread.set()
    for name in ("first", "second"):  # one after the other: each takes a lease
        dying = await platform.agent(name)
        await until(lambda: any(isinstance(said, NodeReady) and said.node == name for _, _, said in platform.events))  # noqa: B023
        await dying.stop()
        await until(lambda: any(isinstance(said, NodeLost) and said.node == name for _, _, said in platform.events))  # noqa: B023
    unread.clear()
    await agent.end(job_id(experiment, 1, 0), EndReason.COMPLETED, 0)
    assert (await platform.finished(experiment)).attempts == 1
    assert not any(isinstance(said, NodeLost) and said.node == "unread" for _, _, said in platform.events)


async def test_the_machine_that_died_speaks_for_the_gang_and_not_the_error_of_its_peer(
    start: Start, sqlite_url: str
) -> None:
    platform = await start(sqlite_url, node_lease_s=0.8)
    first = await platform.agent("a", cpu=1.0, script=lambda _: FOREVER)
    second = await platform.agent("b", cpu=1.0, script=lambda _: FOREVER)
    await until(lambda: sum(isinstance(event, NodeReady) for _, _, event in platform.events) == 2)
    experiment = await platform.submit(nodes=2, resources={"cpu": 1}, retry={"on": ["lost"], "attempts": 2})
    started = await platform.event(experiment, AttemptStarted)
    assert len(started.ranks) == 2
    await first.stop()
    await second.end(job_id(experiment, 1, 1), EndReason.ERROR, 1, "connection reset")
    ended: AttemptEnded = await platform.event(experiment, AttemptEnded)
    assert (ended.reason, ended.retry) == (EndReason.LOST, True)
    assert ended.message.startswith("rank 0: machine a was silent")


async def test_a_pause_of_the_bus_is_no_machine_s_death(start: Start, sqlite_url: str, nats_server: NatsServer) -> None:
    platform = await start(sqlite_url, node_lease_s=3.0)
    agent = await platform.agent(script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    nats_server.stop()
    await until(lambda: not platform.client.connected)
    clock = platform.app.reconciler._clock
    gone = clock.monotonic()
    await until(lambda: clock.monotonic() - gone > 3.5)
    nats_server.start()
    await until(lambda: platform.client.connected, 15)
    for _ in range(3):
        beats = agent.generation
        await agent.say(NodeHeartbeat(generation=beats))
    await agent.end(job_id(experiment, 1, 0), EndReason.COMPLETED, 0)
    assert (await platform.finished(experiment)).attempts == 1
    assert not any(isinstance(event, NodeLost) for _, _, event in platform.events)


async def test_a_wanted_list_that_is_gone_from_the_stream_is_written_anew_with_a_higher_generation(
    platform: Platform,
) -> None:
    agent = await platform.agent(script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    before = agent.generation
    await platform.client.jetstream().purge_stream(CONTROL)
    await agent.hello()
    await until(lambda: agent.generation > before)
    assert [job.job for job in agent.lists[-1].jobs] == [job_id(experiment, 1, 0)]


async def test_a_generation_that_is_ahead_of_ours_is_passed(platform: Platform) -> None:
    ahead = NodeWanted(node="local", generation=1000)
    await platform.client.publish_confirmed(
        subjects.control("local"), ahead.model_dump_json().encode(), message_id="ahead"
    )
    agent = await platform.agent(script=lambda _: FOREVER)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    assert agent.generation > 1000


async def test_the_next_attempt_begins_from_the_newest_checkpoint(platform: Platform) -> None:
    def script(job: JobWanted) -> Script:
        return FOREVER

    agent = await platform.agent(script=script)
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    for step, rank, kind in ((100, 0, "checkpoint"), (300, 0, "checkpoint"), (200, 0, "checkpoint"), (400, 0, "image")):
        stored = ArtifactStored(
            experiment=experiment, attempt=1, rank=rank, kind=kind, path=f"ck/{step}", sha256=f"{step:064x}", size=1,
            step=step,
        )  # fmt: skip
        await platform.client.publish_event(stored, project="default", version=0)
    old = tuple(DroppedFile(attempt=1, rank=0, kind="checkpoint", path=f"ck/{step}") for step in (100, 200))
    dropped = ArtifactsDropped(experiment=experiment, entries=old)
    await platform.client.publish_event(dropped, project="default", version=0)

    async def known() -> bool:
        text = await platform.app.database.read(
            lambda connection: connection.exec_driver_sql("SELECT checkpoint FROM experiments").scalar()
        )
        return text is not None and "ck/300" in text

    await until(known)
    await agent.end(job_id(experiment, 1, 0), EndReason.PREEMPTED, None)
    await platform.event(experiment, AttemptStarted, 2)
    checkpoint = agent.lists[-1].jobs[0].checkpoint
    assert checkpoint is not None
    assert (checkpoint.path, checkpoint.step) == ("ck/300", 300)


async def test_of_two_provisioners_one_schedules_and_the_other_takes_over(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url, lease_ttl_s=0.5)
    agent = await platform.agent(script=lambda _: FOREVER)
    await until(lambda: platform.app.reconciler.owner)
    second = create_app(platform.settings)
    await second.start()
    try:
        first_job = await platform.submit()
        await platform.event(first_job, AttemptStarted)
        assert not second.reconciler.owner
        await platform.app.reconciler.stop()
        await until(lambda: second.reconciler.owner)
        second_job = await platform.submit()
        await platform.event(second_job, AttemptStarted)
        assert sorted(agent.started) == sorted(job_id(each, 1, 0) for each in (first_job, second_job))
    finally:
        await second.stop()


async def test_finished_experiments_leave_the_memory_and_the_wanted_lists(platform: Platform) -> None:
    agent = await platform.agent()
    experiments = [await platform.submit(resources={"cpu": 0.25}) for _ in range(12)]
    for experiment in experiments:
        await platform.event(experiment, ExperimentFinished)
    await until(lambda: agent.lists[-1].jobs == () and platform.app.reconciler.idle)

    def kept() -> list[object]:
        model = platform.app.reconciler._model
        assert model is not None
        scheduler = model.scheduler
        used = scheduler.rooms["local"].cpu_used
        return [what for what in (scheduler.waiting, scheduler.running, model.fleet.specs, model.said, used) if what]

    await until(lambda: not kept(), what="nothing is remembered of them")


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_set_moves_no_timer(start: Start, database_url: str, hours: int) -> None:
    """A retry waits its pause, an overdue stop its margin: no longer, no shorter."""
    clock = SetClock()
    platform = await start(database_url, clock=clock, retry_pause_s=1.0, stop_margin_s=2.0)
    agent = await platform.agent(script=lambda job: Script(seconds=None, stops=False))
    stuck = await platform.submit(checkpoint={"grace": 0.1})
    retried = await platform.submit(retry={"on": ["error"], "attempts": 2})
    for experiment in (stuck, retried):
        await platform.event(experiment, AttemptStarted)
    await platform.ask_stop(stuck)
    await platform.event(stuck, ExperimentStopping)
    await agent.end(job_id(retried, 1, 0), EndReason.ERROR, 1)
    await platform.event(retried, AttemptEnded)
    began = time.monotonic()
    clock.offset = hours * 3600.0
    assert (await platform.finished(stuck)).state is ExperimentState.STOPPED
    assert time.monotonic() - began > 1.0, "the margin was not waited for"
    await platform.event(retried, AttemptStarted, 2)
