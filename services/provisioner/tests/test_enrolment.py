"""A token of a try: whom it lets in, how often, and until when. On a database, with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from incl_provisioner import machines, store, store_gangs
from incl_provisioner.admission import wire_size
from incl_provisioner.app import PACKAGE
from incl_provisioner.cloud.enrolment import Enrolment
from incl_provisioner.cloud.tokens import same, token
from incl_provisioner.domain.cloud.gangs import Gang, Phase
from incl_provisioner.domain.feasibility import demand_of
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.planner import create_planner
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.store import Execution
from incl_provisioner.testing.cloud import QUICK_CLOUD
from incl_provisioner.work import Work
from incl_shared.auth import jwt
from incl_shared.db import Database, Transaction, migrate
from incl_shared.errors import DeniedError
from incl_shared.events.experiments import ExperimentSubmitted
from incl_shared.ids import new_id
from incl_shared.protocol import OLDEST, PROTOCOL
from incl_shared.queries.provisioner import EnrollNode
from incl_shared.recovery import Recovery
from incl_shared.reports import NodeHello, Report
from incl_shared.spec import ExperimentSpec
from incl_shared.states import ExperimentState
from incl_shared.subjects import Asker
from incl_shared.testing.clock import FakeClock

GATEWAY = Asker("_nodes", "gateway")
BOOT_S = QUICK_CLOUD.boot_s


class Door:
    """One gang of two in its first try, and those who knock."""

    def __init__(self, database: Database, enrolment: Enrolment, clock: FakeClock) -> None:
        self.database, self.enrolment, self.clock = database, enrolment, clock
        self.gang = Gang(new_id(), 1, 2, phase=Phase.PLANNED)
        self.key = ""

    async def make(self) -> None:
        spec = ExperimentSpec.model_validate(
            {"command": ["true"], "nodes": 2, "instance": "n2-standard-4", "max_duration": 600}
        )
        event = ExperimentSubmitted(experiment=self.gang.experiment, spec=spec)

        def begin(tx: Transaction) -> str:
            execution = Execution(
                id=self.gang.experiment, project="default", user="ann", name="x", live=True,
                state=ExperimentState.QUEUED, version=1, priority=0, demand=demand_of(spec, wire_size(spec)),
                retry="{}", grace=30.0, created=tx.clock.now(), cloud=True,
            )  # fmt: skip
            store.insert(tx.connection, execution, event.model_dump_json(), "d")
            store_gangs.want(tx.connection, self.gang, tx.clock.now())
            return store_gangs.known_by(tx)[1]

        self.key = await self.database.write(begin)
        await self.becomes(Phase.ASKED, turn=1)
        await self.becomes(Phase.MADE)

    async def becomes(self, phase: Phase, **more: int) -> None:
        after = replace(self.gang, phase=phase, **more)  # type: ignore[arg-type]
        now = self.clock.now()
        assert await self.database.write(lambda tx: store_gangs.save(tx.connection, self.gang, after, now))
        self.gang = after

    def token(self, turn: int = 1) -> str:
        return token(self.key, self.gang.experiment, 1, turn)

    async def knock(self, rank: int = 0, key: str = "", text: str | None = None, protocol: int = PROTOCOL) -> float:
        query = EnrollNode(
            node=f"incl-{self.gang.experiment}-a1-n{rank}", key=key or jwt.Key.new(jwt.USER).public,
            token=self.token() if text is None else text, protocol=protocol,
        )  # fmt: skip
        return (await self.enrolment.enroll(GATEWAY, query)).ttl_s


@pytest.fixture
async def door(database_url: str, fake_clock: FakeClock) -> AsyncIterator[Door]:
    migrate(database_url, PACKAGE)
    database = Database(database_url, clock=fake_clock)
    await database.start()
    settings = ProvisionerSettings(database_url=database_url, cloud=QUICK_CLOUD)
    registry = CollectorRegistry()
    metrics = ProvisionerMetrics(registry, Recovery("provisioner", registry), fake_clock)
    enrolment = Enrolment(database, QUICK_CLOUD, create_planner(settings, fake_clock), metrics, fake_clock)
    made = Door(database, enrolment, fake_clock)
    await made.make()
    yield made
    await database.stop()


async def test_each_machine_comes_in_once_and_the_same_one_again(door: Door) -> None:
    key = jwt.Key.new(jwt.USER).public
    first = await door.knock(0, key)
    assert 600 < first < 3 * 3600
    assert await door.knock(0, key) == first
    await door.knock(1)
    with pytest.raises(DeniedError, match="used before, by another machine"):
        await door.knock(0)


async def test_a_token_is_over_when_the_time_to_boot_is(door: Door) -> None:
    door.clock.advance(BOOT_S - 1)
    await door.knock(0)
    door.clock.advance(2)
    with pytest.raises(DeniedError, match="has expired"):
        await door.knock(1)


async def test_a_token_is_of_one_try(door: Door) -> None:
    await door.knock(0)
    old = door.token()
    await door.becomes(Phase.CLEANING)
    with pytest.raises(DeniedError, match="wanted no more"):
        await door.knock(1)
    await door.becomes(Phase.PLANNED)
    await door.becomes(Phase.ASKED, turn=2)
    with pytest.raises(DeniedError, match="not that of"):
        await door.knock(0, text=old)
    assert await door.knock(0, text=door.token(2))


async def test_what_is_wanted_no_more_stays_outside(door: Door) -> None:
    await door.database.write(lambda tx: store_gangs.unwant_one(tx.connection, door.gang.experiment, 1))
    with pytest.raises(DeniedError, match="wanted no more"):
        await door.knock(0)


async def test_a_new_machine_under_an_old_name_must_say_hello_itself(door: Door) -> None:
    name = f"incl-{door.gang.experiment}-a1-n0"
    row = store.NodeRow(name, True, 3, "10.0.0.1", 4000, 1 << 30, 0, ("host",), 1.0, 5, "old life", "old disk")
    await door.database.write(lambda tx: store.put_node(tx.connection, row, new=True))
    await door.knock(0)
    known = await door.database.write(lambda tx: store.load_node(tx.connection, name))
    assert known is not None
    assert (known.alive, known.life, known.journal, known.version, known.generation) == (False, "", "", 3, 5)


async def test_a_hello_that_is_delivered_after_the_end_of_a_machine_makes_it_known_no_more(door: Door) -> None:
    name = f"incl-{door.gang.experiment}-a1-n0"
    body = NodeHello(cpu=4.0, memory=1 << 30, gpus=0, address="10.0.0.1", runtimes=("host",), life="one")
    report = Report(node=name, journal="disk", seq=1, time=door.clock.now(), body=body)

    def hello(tx: Transaction) -> store.NodeRow | None:
        now = tx.clock.now()
        machines.hello(Work(tx, ProvisionerSettings(database_url="sqlite://"), Mock(), now, now), report, body)
        return store.load_node(tx.connection, name)

    assert await door.database.write(hello) is not None
    await door.becomes(Phase.GONE)
    await door.database.write(lambda tx: store_gangs.drop_nodes(tx.connection, door.gang.names))
    assert await door.database.write(hello) is None


async def test_an_agent_that_is_too_old_is_refused_and_leaves_the_token_for_another(door: Door) -> None:
    protocol = OLDEST - 1
    with pytest.raises(DeniedError, match="too old") as caught:
        await door.knock(protocol=protocol)
    assert "incl_agent.archive" in caught.value.hint
    with pytest.raises(DeniedError, match="not that of"):
        await door.knock(text="x" * 43, protocol=protocol)
    assert await door.knock() > 0
    assert await door.knock(rank=1, protocol=PROTOCOL + 1) > 0, "one that is newer is let in"


async def test_other_ranks_names_and_tokens_are_refused(door: Door) -> None:
    for rank, text in ((2, None), (0, ""), (0, door.token()[:-1]), (0, door.token(2)), (0, "é" * 43)):
        with pytest.raises((DeniedError, ValueError)):
            await door.knock(rank, text=text)


def test_tokens_of_two_tries_attempts_experiments_and_installations_differ() -> None:
    key, other = "ab" * 32, "cd" * 32
    made = {token(key, "e", 1, 1), token(key, "e", 1, 2), token(key, "e", 2, 1), token(key, "f", 1, 1)}
    made.add(token(other, "e", 1, 1))
    assert len(made) == 5
    assert all(len(text) == 43 for text in made)
    assert token(key, "e", 1, 1) == token(key, "e", 1, 1)
    assert same(token(key, "e", 1, 1), token(key, "e", 1, 1))
    assert not same("", token(key, "e", 1, 1))
