"""A tag means one image for all nodes and attempts of an experiment: what the first node found."""

from __future__ import annotations

from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.platform import Platform, Start
from incl_shared.control import JobWanted
from incl_shared.events.experiments import AttemptEnded, AttemptStarted
from incl_shared.states import EndReason, ExperimentState

ONE, TWO = (f"sha256:{digit * 64}" for digit in "12")
FOREVER = Script(seconds=None, image=ONE)


async def boxes(platform: Platform, script: Script, *names: str) -> list[JobWanted]:
    """Nodes with containers, all with this script; what each job is given."""
    seen: list[JobWanted] = []

    def follow(job: JobWanted) -> Script:
        seen.append(job)
        return script

    for name in names:
        await platform.agent(name, runtimes=("host", "podman"), script=follow)
    return seen


def given(jobs: list[JobWanted]) -> list[tuple[int, str | None]]:
    return [(job.attempt, job.spec.image_digest) for job in jobs]


async def test_a_later_attempt_is_given_what_the_first_one_found(start: Start, database_url: str) -> None:
    platform = await start(database_url)
    jobs = await boxes(platform, Script(reason=EndReason.INFRA, exit_code=1, image=ONE), "a")
    experiment = await platform.submit(image="example.org/x:v1")
    done = await platform.finished(experiment)
    assert (done.state, done.attempts) == (ExperimentState.FAILED, 3)
    assert given(jobs) == [(1, None), (2, ONE), (3, ONE)]
    assert {job.spec.image for job in jobs} == {"example.org/x:v1"}


async def test_it_is_given_again_after_a_restart(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url)
    scripts = {1: Script(reason=EndReason.INFRA, exit_code=1, image=ONE), 2: FOREVER}
    agent = await platform.agent("a", runtimes=("host", "podman"), script=lambda job: scripts[job.attempt])
    experiment = await platform.submit(image="x:v1")
    await platform.event(experiment, AttemptStarted, 2)
    await platform.restart()
    lists = len(agent.lists)
    other = await platform.submit(image="x:v1", resources={"cpu": 1})
    await platform.event(other, AttemptStarted)
    job = next(job for job in agent.lists[-1].jobs if job.experiment == experiment)
    assert (len(agent.lists) > lists, job.spec.image_digest) == (True, ONE)


async def test_who_names_a_digest_is_given_no_other(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url)
    jobs = await boxes(platform, Script(reason=EndReason.INFRA, exit_code=1, image=ONE), "a")
    await platform.finished(await platform.submit(image=f"x@{TWO}"))
    assert given(jobs) == [(1, None), (2, None), (3, None)]


async def test_a_gang_whose_nodes_found_two_images_begins_anew_with_one(start: Start, database_url: str) -> None:
    platform = await start(database_url)
    found = {(1, 0): ONE, (1, 1): TWO, (2, 0): ONE, (2, 1): ONE}
    jobs: list[JobWanted] = []

    def follow(job: JobWanted) -> Script:
        jobs.append(job)
        return Script(image=found[job.attempt, job.rank])

    for name in ("a", "b"):
        await platform.agent(name, cpu=1.0, runtimes=("host", "podman"), script=follow)
    experiment = await platform.submit(image="x:latest", nodes=2)
    done = await platform.finished(experiment)
    assert (done.state, done.attempts) == (ExperimentState.FINISHED, 2)
    ended: AttemptEnded = await platform.event(experiment, AttemptEnded)
    assert (ended.reason, ended.retry) == (EndReason.INFRA, True)
    assert "the tag of the image moved" in ended.message
    assert ONE in ended.message
    assert TWO in ended.message
    assert "AttemptStarted" not in platform.names(experiment)[: platform.names(experiment).index("AttemptEnded")]
    assert {job.spec.image_digest for job in jobs if job.attempt == 2} == {ONE}
