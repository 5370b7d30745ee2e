"""The signer gives a credential only to whom the provisioner or the tracker says it is due."""

from __future__ import annotations

import asyncio

import pytest

from incl_gateway.signer import Signer
from incl_shared.auth.creds import parse_info
from incl_shared.auth.names import Role, job_principal
from incl_shared.control import NodeWanted
from incl_shared.errors import DeniedError, NotFoundError
from incl_shared.queries.gateway import AttemptCredential, Credential, RunCredential
from incl_shared.subjects import NODES_PROJECT, Asker
from incl_shared.testing.clock import FakeClock

from .conftest import E1, E2, FakeWorld, wanted

N1, ANN = Asker(NODES_PROJECT, "n1"), Asker("default", "ann")
ASK = AttemptCredential(experiment=E1, attempt=2, rank=1)


async def test_a_node_gets_the_credential_of_its_job(signer: Signer, world: FakeWorld, fake_clock: FakeClock) -> None:
    job = wanted(E1, attempt=2, rank=1, project="vision")
    world.nodes["n1"] = NodeWanted(node="n1", generation=3, jobs=(wanted(E2), job))
    answer = await signer.attempt(N1, ASK)
    info = parse_info(answer.jwt.get_secret_value())
    assert (info.role, info.name) == (Role.ATTEMPT, job_principal(E1, 2, 1))
    assert info.tags == {"role": ("attempt",), "project": ("vision",), "experiment": (E1,), "attempt": ("2",),
                         "rank": ("1",)}  # fmt: skip
    assert answer.expires == info.expires == int(fake_clock.now()) + 3600


@pytest.mark.parametrize(
    "query",
    [
        AttemptCredential(experiment=E2, attempt=2, rank=1),
        AttemptCredential(experiment=E1, attempt=1, rank=1),
        AttemptCredential(experiment=E1, attempt=2, rank=0),
    ],
)
async def test_a_job_that_is_not_wanted_here_gets_none(
    signer: Signer, world: FakeWorld, query: AttemptCredential
) -> None:
    world.nodes["n1"] = NodeWanted(node="n1", generation=3, jobs=(wanted(E1, attempt=2, rank=1),))
    with pytest.raises(DeniedError, match="not to run on the node n1"):
        await signer.attempt(N1, query)


async def test_what_a_job_left_may_be_shipped_by_the_node_that_ran_it(
    signer: Signer, world: FakeWorld, fake_clock: FakeClock
) -> None:
    world.nodes["n1"] = NodeWanted(node="n1", generation=3, jobs=(wanted(E1, attempt=2, rank=1, project="vision"),))
    await signer.attempt(N1, ASK)
    world.nodes["n1"] = NodeWanted(node="n1", generation=4, jobs=())
    fake_clock.advance(5 * 86_400)
    info = parse_info((await signer.attempt(N1, ASK)).jwt.get_secret_value())
    assert (info.name, info.tags["project"]) == (job_principal(E1, 2, 1), ("vision",))
    for node, query in (("n2", ASK), ("n1", AttemptCredential(experiment=E1, attempt=2, rank=0))):
        with pytest.raises(DeniedError, match="not to run"):
            await signer.attempt(Asker(NODES_PROJECT, node), query)
    fake_clock.advance(60 * 86_400)
    with pytest.raises(DeniedError, match="not to run"):
        await signer.attempt(N1, ASK)


async def test_another_node_gets_none(signer: Signer, world: FakeWorld) -> None:
    world.nodes["n1"] = NodeWanted(node="n1", generation=3, jobs=(wanted(E1, attempt=2, rank=1),))
    world.nodes["n3"] = world.nodes["n1"]
    for node in ("n2", "n3"):
        with pytest.raises(DeniedError):
            await signer.attempt(Asker(NODES_PROJECT, node), ASK)


@pytest.mark.parametrize("asker", [ANN, Asker("default", "n1"), Asker("default", job_principal(E1, 2, 1))])
async def test_only_nodes_get_credentials_of_attempts(signer: Signer, world: FakeWorld, asker: Asker) -> None:
    world.nodes[asker.user] = NodeWanted(node=asker.user, generation=3, jobs=(wanted(E1, attempt=2, rank=1),))
    with pytest.raises(DeniedError, match="only a node"):
        await signer.attempt(asker, ASK)


async def test_a_person_gets_the_credential_of_its_run(signer: Signer, world: FakeWorld) -> None:
    world.run_is(E1, "default", "ann")
    info = parse_info((await signer.run(ANN, RunCredential(experiment=E1))).jwt.get_secret_value())
    assert (info.role, info.name, info.tags["user"]) == (Role.RUN, job_principal(E1, 1, 0), ("ann",))


async def test_a_run_that_the_tracker_hears_of_a_moment_later(signer: Signer, world: FakeWorld) -> None:
    asked = asyncio.create_task(signer.run(ANN, RunCredential(experiment=E1)))
    done, _ = await asyncio.wait({asked}, timeout=0.12)
    assert not done
    world.run_is(E1, "default", "ann")
    assert (await asked).name == job_principal(E1, 1, 0)


@pytest.mark.parametrize(
    ("project", "user", "outside"), [("default", "bob", True), ("default", "ann", False), ("default", "job_x", True)]
)
async def test_anothers_run_or_a_managed_one_is_refused(
    signer: Signer, world: FakeWorld, project: str, user: str, *, outside: bool
) -> None:
    world.run_is(E1, project, user, outside=outside)
    with pytest.raises(DeniedError):
        await signer.run(ANN, RunCredential(experiment=E1))


async def test_no_members_no_jobs_no_nodes(signer: Signer, world: FakeWorld) -> None:
    world.run_is(E1, "other", "ann")
    for asker in (Asker("other", "ann"), Asker("default", job_principal(E1, 1, 0)), N1):
        with pytest.raises(DeniedError):
            await signer.run(asker, RunCredential(experiment=E1))


async def test_a_run_that_nobody_knows(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incl_gateway.signer._PATIENCE_S", 0.1)
    with pytest.raises(NotFoundError):
        await signer.run(ANN, RunCredential(experiment=E1))


async def test_a_credential_crosses_the_bus_and_shows_nowhere_else(signer: Signer, world: FakeWorld) -> None:
    world.run_is(E1, "default", "ann")
    answer = await signer.run(ANN, RunCredential(experiment=E1))
    seed = answer.seed.get_secret_value()
    assert seed not in repr(answer)
    assert seed not in str(answer.model_dump())
    assert Credential.model_validate_json(answer.model_dump_json()).seed.get_secret_value() == seed
