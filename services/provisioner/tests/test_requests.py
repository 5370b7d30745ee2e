"""What people ask for: admission, refusals, repeats, strangers; and the questions."""

from __future__ import annotations

from typing import Any

import pytest

from incl_provisioner.backends.local import LocalBackend
from incl_provisioner.domain.feasibility import RefusalKind
from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.platform import Platform, Start
from incl_shared import subjects
from incl_shared.bus.topology import DEAD
from incl_shared.errors import InvalidInput, UnsupportedError
from incl_shared.events.experiments import (
    AttemptStarted,
    ExperimentFinished,
    ExperimentQueued,
    ExperimentSubmitted,
    ExperimentWaiting,
    NodeReady,
    RankTimes,
)
from incl_shared.ids import new_id
from incl_shared.queries.provisioner import CheckFeasible, GetCluster, GetExecution
from incl_shared.reports import JobEnded, JobStarted, Report
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.wait import until

REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"instance": "a2-highgpu-1g"}, "no cloud is configured"),
    ({"spot": True}, "no cloud is configured"),
    ({"image": "pytorch/pytorch"}, "no machine has podman or docker"),
    ({"sandbox": True}, "no machine has bubblewrap"),
    ({"resources": {"cpu": 2.5}}, "2.5 cores were asked for, the largest machine has 2"),
    ({"resources": {"cpu": 1, "memory": "100GiB"}}, "100 GiB of memory were asked for, the largest machine has 8"),
    ({"resources": {"cpu": 1, "gpu": 1}}, "1 GPU was asked for, no machine has one"),
    ({"nodes": 4, "resources": {"cpu": 1}}, "4 nodes at once with 1 core each do not fit"),
    ({"regions": ["us-central1"]}, "zones or regions were named, but no cloud is configured"),
    ({"data": [{"source": "gs://bucket/x"}]}, "is not a folder of the machine"),
    ({"data": [{"snapshot": "ct"}]}, "the snapshot 'ct' is mounted on machines of a cloud only"),
    ({"data": [{"scratch": "local-ssd"}]}, "no instance is named"),
]


async def test_what_cannot_be_honoured_is_refused_with_the_reason_and_a_dry_run_says_the_same(
    platform: Platform,
) -> None:
    await platform.agent()
    await until(lambda: any(isinstance(event, NodeReady) for _, _, event in platform.events))
    for spec, text in REFUSALS:
        experiment = await platform.submit(**spec)
        finished = await platform.finished(experiment)
        assert (finished.state, finished.reason) == (ExperimentState.FAILED, EndReason.UNSUPPORTED)
        assert text in finished.message
        assert finished.hint
        assert platform.names(experiment) == ["ExperimentQueued", "ExperimentFinished"]
        whole = {"command": ["true"], "resources": {"cpu": 0.5}, **spec}
        with pytest.raises(UnsupportedError) as caught:
            await platform.client.ask(CheckFeasible(spec=whole), project="default", user="ann")
        assert text in caught.value.message
        assert caught.value.hint == finished.hint


def test_a_description_that_no_wanted_list_can_hold_is_refused() -> None:
    spec = ExperimentSpec(command=["true"])
    refusal = LocalBackend().refusal(spec, 6_000_000, [])
    assert refusal is not None
    assert (refusal.kind, "6.0 MB" in refusal.message) == (RefusalKind.SIZE, True)
    assert LocalBackend().refusal(spec, 3_000, []) is None


async def test_what_can_run_is_feasible_and_what_is_broken_is_said(platform: Platform) -> None:
    await platform.agent()
    await until(lambda: any(isinstance(event, NodeReady) for _, _, event in platform.events))
    await platform.client.ask(
        CheckFeasible(spec={"command": ["true"], "nodes": 4, "resources": {"cpu": 0.5}}), project="default", user="ann"
    )
    with pytest.raises(InvalidInput, match="command"):
        await platform.client.ask(CheckFeasible(spec={"command": []}), project="default", user="ann")
    with pytest.raises(InvalidInput, match="project 'other'"):
        await platform.client.ask(
            CheckFeasible(spec={"command": ["true"], "project": "other"}), project="default", user="ann"
        )


async def test_before_the_first_machine_it_waits_and_is_judged_then(platform: Platform) -> None:
    good = await platform.submit()
    bad = await platform.submit(resources={"cpu": 64})
    waiting = await platform.event(good, ExperimentWaiting)
    assert waiting.reason == "no machine is ready"
    await platform.agent()
    assert (await platform.finished(good)).state is ExperimentState.FINISHED
    assert "64 cores" in (await platform.finished(bad)).message


async def test_without_any_machine_the_waiting_ends(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url, machine_wait_s=0.2)
    finished = await platform.finished(await platform.submit())
    assert (finished.reason, finished.hint) == (EndReason.UNSUPPORTED, "see what is wrong with: incl doctor")


async def test_the_same_submission_twice_is_one_experiment(start: Start, database_url: str) -> None:
    platform = await start(database_url)
    agent = await platform.agent(script=lambda _: Script(seconds=None))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    await platform.submit(experiment=experiment)
    await platform.submit(experiment=experiment, name="another")
    await platform.submit(experiment=experiment, user="eve")
    await platform.event(await platform.submit(), AttemptStarted)
    assert platform.names(experiment) == ["ExperimentQueued", "AttemptAssigned", "AttemptStarted"]
    assert len(agent.started) == 2
    queued: ExperimentQueued = await platform.event(experiment, ExperimentQueued)
    assert (queued.user, queued.spec.name) == ("ann", None)


async def test_a_spec_of_another_project_is_refused_where_it_was_submitted(platform: Platform) -> None:
    await platform.agent()
    experiment = new_id()
    spec = ExperimentSpec(command=["true"], project="other")
    await platform.client.publish_event(
        ExperimentSubmitted(experiment=experiment, spec=spec), project="default", user="ann"
    )
    finished = await platform.finished(experiment)
    assert "submitted to 'default'" in finished.message
    assert {project for project, _, event in platform.events if event.key == experiment} == {"default"}


async def test_a_stop_of_nobody_is_let_go_and_nothing_is_poisoned(platform: Platform) -> None:
    await platform.agent()
    await platform.ask_stop(new_id())
    assert (await platform.finished(await platform.submit())).state is ExperimentState.FINISHED


async def test_what_is_no_request_becomes_a_dead_letter(platform: Platform) -> None:
    subject = subjects.request("default", "ann", "experiment", new_id())
    await platform.client.publish_confirmed(subject, b"{}", message_id=new_id())

    async def dead() -> object:
        return await platform.client.last(DEAD, subjects.dead("REQUESTS", "provisioner"))

    await until(dead)


async def test_a_node_speaks_for_itself_only(platform: Platform) -> None:
    await platform.agent(script=lambda _: Script(seconds=None))
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted)
    ended = JobEnded(experiment=experiment, attempt=1, rank=0, times=RankTimes(rank=0), reason=EndReason.ERROR)
    for subject_node, body_node in (("mallory", "mallory"), ("mallory", "local")):
        report = Report(node=body_node, journal="j", seq=1, time=1.0, body=ended)
        await platform.client.publish_confirmed(
            subjects.report(subject_node), report.model_dump_json().encode(), message_id=new_id()
        )

    async def dead() -> object:
        return await platform.client.last(DEAD, subjects.dead("REPORTS", "provisioner"))

    await until(dead)
    answer = await platform.client.ask(GetExecution(experiment=experiment), project="default", user="ann")
    assert answer.state is ExperimentState.RUNNING


async def test_reports_of_unknown_jobs_and_old_attempts_change_nothing(platform: Platform) -> None:
    agent = await platform.agent(
        script=lambda job: Script(EndReason.INFRA, None) if job.attempt == 1 else Script(seconds=None)
    )
    experiment = await platform.submit()
    await platform.event(experiment, AttemptStarted, 2)
    times = RankTimes(rank=0)
    await agent.say(JobEnded(experiment=experiment, attempt=1, rank=0, times=times, reason=EndReason.ERROR))
    await agent.say(JobStarted(experiment=new_id(), attempt=1, rank=0, times=times))
    await agent.say(JobEnded(experiment=experiment, attempt=2, rank=7, times=times, reason=EndReason.ERROR))
    await platform.event(await platform.submit(), AttemptStarted, 2)
    assert ExperimentFinished not in {type(event) for event in platform.of(experiment)}


async def test_the_cluster_and_the_queue(start: Start, database_url: str) -> None:
    platform = await start(database_url)
    await platform.agent(script=lambda _: Script(seconds=None), gpus=2, memory=4 << 30)
    running = await platform.submit(resources={"cpu": 1.5, "gpu": 1, "memory": "1GiB"})
    await platform.event(running, AttemptStarted)
    waiting = await platform.submit(name="later", resources={"cpu": 1}, priority=3)
    other = await platform.submit(project="secret", resources={"cpu": 2})
    reason = (await platform.event(waiting, ExperimentWaiting)).reason
    assert reason == "needs 1 core, 0.5 of 2 free"
    await platform.event(other, ExperimentWaiting)
    cluster = await platform.client.ask(GetCluster(), project="default", user="ann")
    (node,) = cluster.nodes
    assert (node.alive, node.cpu, node.cpu_used, node.gpus, node.gpus_used) == (True, 2.0, 1.5, 2, 1)
    assert (node.memory, node.memory_used, node.jobs) == (4 << 30, 1 << 30, 1)
    assert [(each.name, each.priority, each.reason) for each in cluster.queue] == [("later", 3, reason)]
    assert (cluster.queued, cluster.running) == (2, 1)


async def test_an_execution_is_told_to_its_project_only(platform: Platform) -> None:
    await platform.agent()
    experiment = await platform.submit()
    await platform.finished(experiment)
    answer = await platform.client.ask(GetExecution(experiment=experiment), project="default", user="ben")
    assert (answer.known, answer.state, answer.attempts) == (True, ExperimentState.FINISHED, 1)
    for project, identifier in (("other", experiment), ("default", new_id())):
        answer = await platform.client.ask(GetExecution(experiment=identifier), project=project, user="ann")
        assert not answer.known
