"""Whole lives of experiments, over a real bus, with a scripted agent."""

from __future__ import annotations

import pytest

from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.platform import Platform, Start
from incl_shared.control import JobWanted, Wanted
from incl_shared.events.experiments import AttemptAssigned, AttemptEnded, AttemptStarted, ExperimentStopping
from incl_shared.ids import job_id
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.wait import until

PLAIN = ["ExperimentQueued", "AttemptAssigned", "AttemptStarted", "AttemptEnded", "ExperimentFinished"]


async def test_a_job_runs_from_submit_to_its_end_on_both_databases(start: Start, database_url: str) -> None:
    platform = await start(database_url)
    await platform.agent()
    experiment = await platform.submit(name="digits")
    finished = await platform.finished(experiment)
    assert (finished.state, finished.reason, finished.attempts) == (ExperimentState.FINISHED, EndReason.COMPLETED, 1)
    assert platform.names(experiment) == PLAIN
    ended = await platform.event(experiment, AttemptEnded)
    assert (ended.retry, ended.ranks[0].writers[0].records, ended.ranks[0].node) == (False, 3, "local")
    started = await platform.event(experiment, AttemptStarted)
    assert started.ranks[0].started is not None


async def test_the_wanted_list_has_the_job_and_later_does_not(platform: Platform) -> None:
    agent = await platform.agent(script=lambda _: Script(seconds=None))
    experiment = await platform.submit(name="n", env={"LR": "0.1"}, metrics={"acc": "max"})
    await platform.event(experiment, AttemptStarted)
    job = agent.lists[-1].jobs[0]
    assert (job.job, job.project, job.user, job.wanted) == (job_id(experiment, 1, 0), "default", "ann", Wanted.RUN)
    assert (job.spec.env, job.spec.metrics, job.spec.cpu, job.rendezvous) == ({"LR": "0.1"}, ("acc",), 0.5, None)
    assert job.spec.goals == {"acc": "max"}
    await agent.end(job.job, EndReason.COMPLETED, 0)
    await platform.finished(experiment)
    await until(lambda: agent.lists[-1].jobs == ())


async def test_a_failure_is_final_unless_its_kind_is_retried(platform: Platform) -> None:
    await platform.agent(script=lambda _: Script(EndReason.ERROR, 1, message="exit code 1"))
    experiment = await platform.submit()
    finished = await platform.finished(experiment)
    assert (finished.state, finished.reason, finished.message) == (
        ExperimentState.FAILED,
        EndReason.ERROR,
        "exit code 1",
    )
    assert finished.hint


async def test_errors_are_retried_as_often_as_asked(platform: Platform) -> None:
    def script(job: JobWanted) -> Script:
        return Script() if job.attempt == 3 else Script(EndReason.ERROR, 1)

    await platform.agent(script=script)
    experiment = await platform.submit(retry={"on": ["error"], "attempts": 3})
    finished = await platform.finished(experiment)
    assert (finished.state, finished.attempts) == (ExperimentState.FINISHED, 3)
    ends = [await platform.event(experiment, AttemptEnded, count) for count in (1, 2, 3)]
    assert [(end.attempt, end.retry) for end in ends] == [(1, True), (2, True), (3, False)]


async def test_retries_run_out(platform: Platform) -> None:
    await platform.agent(script=lambda _: Script(EndReason.INFRA, None))
    experiment = await platform.submit(retry={"attempts": 2})
    finished = await platform.finished(experiment)
    assert (finished.state, finished.reason, finished.attempts) == (ExperimentState.FAILED, EndReason.INFRA, 2)


async def test_stop_while_queued(platform: Platform) -> None:
    agent = await platform.agent(script=lambda _: Script(seconds=None))
    first = await platform.submit(resources={"cpu": 2})
    await platform.event(first, AttemptStarted)
    second = await platform.submit(resources={"cpu": 2})
    await platform.ask_stop(second)
    finished = await platform.finished(second)
    assert (finished.state, finished.attempts) == (ExperimentState.STOPPED, 0)
    assert platform.names(second) == ["ExperimentQueued", "ExperimentFinished"]
    assert agent.started == [job_id(first, 1, 0)]


async def test_stop_while_starting(platform: Platform) -> None:
    await platform.agent(script=lambda _: Script(ready=False))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptAssigned)
    await platform.ask_stop(experiment)
    finished = await platform.finished(experiment)
    assert (finished.state, finished.reason) == (ExperimentState.STOPPED, EndReason.STOPPED)


async def test_stop_while_running_and_once_more(platform: Platform) -> None:
    await platform.agent(script=lambda _: Script(seconds=None))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await platform.ask_stop(experiment, user="ben")
    finished = await platform.finished(experiment)
    assert (await platform.event(experiment, ExperimentStopping)).by == "ben"
    assert finished.state is ExperimentState.STOPPED
    said = len(platform.of(experiment))
    await platform.ask_stop(experiment)
    other = await platform.submit()
    await platform.event(other, AttemptStarted)
    assert len(platform.of(experiment)) == said


async def test_a_job_that_does_not_obey_a_stop_is_given_up(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url, stop_margin_s=0.2)
    agent = await platform.agent(script=lambda _: Script(seconds=None, stops=False))
    experiment = await platform.submit(checkpoint={"grace": 0.1})
    await platform.event(experiment, AttemptStarted)
    await platform.ask_stop(experiment)
    assert (await platform.finished(experiment)).state is ExperimentState.STOPPED
    await until(lambda: agent.killed == [job_id(experiment, 1, 0)])


async def test_a_stop_of_another_project_changes_nothing(platform: Platform) -> None:
    await platform.agent(script=lambda _: Script(seconds=None))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await platform.ask_stop(experiment, project="other")
    await platform.finished(await platform.submit(instance="n1-standard-4"))
    assert "ExperimentStopping" not in platform.names(experiment)


async def test_a_gang_meets_when_all_are_ready(platform: Platform) -> None:
    agent = await platform.agent(script=lambda job: Script(ready=job.rank != 1, seconds=None))
    experiment = await platform.submit(nodes=3)
    await platform.event(experiment, AttemptAssigned)
    jobs = [job_id(experiment, 1, rank) for rank in range(3)]
    await until(lambda: len(agent.held) == 3 and agent.held[jobs[0]].ready and agent.held[jobs[2]].ready)
    assert agent.started == []
    assert {job.wanted for job in agent.lists[-1].jobs} == {Wanted.PREPARE}
    held = agent.held[jobs[1]]
    held.script = Script(seconds=None)
    await agent._prepare(jobs[1], held)
    await platform.event(experiment, AttemptStarted)
    lists = {job.rank: job for job in agent.lists[-1].jobs}
    meeting = lists[2].rendezvous
    assert meeting is not None
    assert meeting.node_ips == tuple(lists[rank].address for rank in range(3))
    assert len(set(meeting.node_ips)) == 3
    assert (meeting.master_addr, meeting.master_port) == (lists[0].address, 40_000)
    assert len({job.rendezvous for job in lists.values()}) == 1


async def test_one_failing_rank_ends_the_gang(platform: Platform) -> None:
    def script(job: JobWanted) -> Script:
        return Script(EndReason.ERROR, 3, 0.05, message="exit code 3") if job.rank == 1 else Script(seconds=None)

    await platform.agent(script=script)
    experiment = await platform.submit(nodes=3)
    finished = await platform.finished(experiment)
    assert (finished.state, finished.reason) == (ExperimentState.FAILED, EndReason.ERROR)
    assert finished.message == "rank 1: exit code 3"
    ended = await platform.event(experiment, AttemptEnded)
    assert [rank.reason for rank in ended.ranks] == [EndReason.STOPPED, EndReason.ERROR, EndReason.STOPPED]
    assert [rank.exit_code for rank in ended.ranks] == [None, 3, None]


async def test_others_start_as_room_is_given_back(platform: Platform) -> None:
    agent = await platform.agent(cpu=1.0, script=lambda _: Script(seconds=0.01))
    experiments = [await platform.submit(resources={"cpu": 0.5}) for _ in range(8)]
    for experiment in experiments:
        assert (await platform.finished(experiment)).state is ExperimentState.FINISHED
    assert max(len(wanted.jobs) for wanted in agent.lists) == 2
    assert len(agent.started) == 8


@pytest.mark.parametrize("nodes", [1, 2])
async def test_repeated_and_reordered_reports_change_nothing(platform: Platform, nodes: int) -> None:
    agent = await platform.agent(script=lambda _: Script(seconds=None))
    experiment = await platform.submit(nodes=nodes)
    await platform.event(experiment, AttemptStarted)
    agent.repeats = 2
    for rank in range(nodes):
        await agent.end(job_id(experiment, 1, rank), EndReason.COMPLETED, 0)
    await platform.finished(experiment)
    await platform.finished(await platform.submit(instance="x"))
    assert platform.names(experiment) == PLAIN
