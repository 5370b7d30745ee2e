"""Three servers, every stream three times: the leader is killed under load, then a follower, then all are restarted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from incl_provisioner.app import App as Provisioner
from incl_provisioner.app import create_app as create_provisioner
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.testing.agent import FakeAgent, Script
from incl_provisioner.testing.platform import QUICK
from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.bus.topology import EVENTS, LOGS, METRICS, REPORTS, REQUESTS
from incl_shared.errors import InclError
from incl_shared.events import RunStarted
from incl_shared.events.experiments import AttemptSettled, ExperimentFinished, ExperimentSubmitted
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetExperiment, GetPoints
from incl_shared.spec import ExperimentSpec
from incl_shared.telemetry.batcher import encode
from incl_shared.testing.cluster import Cluster
from incl_shared.testing.invariants import Evidence, Submitted, assert_holds, collect
from incl_shared.testing.telemetry import batch_of
from incl_shared.testing.wait import until
from incl_tracker.app import App as Tracker
from incl_tracker.app import create_app as create_tracker
from incl_tracker.settings import TrackerSettings

PACE_S = 0.03
RECORDS = 10
LONGEST_GAP_S = 15.0
"""A new leader takes 4 to 8 s (FACTS.md); a busy machine a little more."""


@dataclass
class Load:
    """Submits and telemetry, one after the other, with what was acknowledged and when."""

    client: BusClient
    run: str
    submitted: list[str] = field(default_factory=list)
    stored: int = 0
    acks: dict[str, list[float]] = field(default_factory=lambda: {REQUESTS: [], METRICS: []})
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def submits(self) -> None:
        while not self.stopping.is_set():
            experiment = new_id()
            spec = ExperimentSpec.model_validate({"command": ["true"], "resources": {"cpu": 0.1}})
            await self._until_stored(ExperimentSubmitted(experiment=experiment, spec=spec))
            self.submitted.append(experiment)
            await asyncio.sleep(PACE_S * 5)

    async def _until_stored(self, event: ExperimentSubmitted | RunStarted) -> None:
        """As the command line: with one id, until it is acknowledged."""
        while True:
            with contextlib.suppress(InclError):
                await self.client.publish_event(
                    event, project="default", user="ann", event_id=f"say-{event.experiment}"
                )
                self.acks[REQUESTS].append(time.monotonic())
                return

    async def telemetry(self) -> None:
        await self._until_stored(RunStarted(experiment=self.run, name="load", started=time.time()))
        subject = subjects.metrics("default", self.run, 1, 0)
        while not self.stopping.is_set():
            first = self.stored + 1
            records = [(step, float(step), {"loss": step / 2}) for step in range(first, first + RECORDS)]
            payload = encode(batch_of("w", first, records))
            try:
                await self.client.publish_confirmed(subject, payload, message_id=f"{self.run}:{first}", timeout=20)
            except InclError:
                continue
            self.acks[METRICS].append(time.monotonic())
            self.stored += RECORDS
            await asyncio.sleep(PACE_S)

    def gap(self, since: float) -> float:
        """The longest time in which a stream acknowledged nothing."""
        return max(self._gap(since, acks) for acks in self.acks.values())

    @staticmethod
    def _gap(since: float, acks: list[float]) -> float:
        moments = [since, *(at for at in acks if at > since)]
        return max(after - before for before, after in itertools.pairwise(moments))

    def goes_on(self, since: float) -> bool:
        """Whether every stream acknowledges again, a while after that moment."""
        return all(acks and acks[-1] > since + 1.0 for acks in self.acks.values())


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path / "cluster")
    try:
        await made.start()
        yield made
    finally:
        made.stop()


@contextlib.asynccontextmanager
async def services(cluster: Cluster, folder: Path) -> AsyncIterator[tuple[Provisioner, Tracker]]:
    url = f"sqlite:///{folder}/{{}}.db"
    provisioner = create_provisioner(
        ProvisionerSettings(
            database_url=url.format("provisioner"), bus=cluster.settings("provisioner"), **{**QUICK, "tick_s": 0.5}
        )
    )
    tracker = create_tracker(
        TrackerSettings(database_url=url.format("tracker"), bus=cluster.settings("tracker"), settle_after_s=3.0)
    )
    await provisioner.start()
    await tracker.start()
    try:
        yield provisioner, tracker
    finally:
        await tracker.stop()
        await provisioner.stop()


async def kill(cluster: Cluster, number: int, load: Load) -> float:
    """-9, and start it again once the others acknowledge; the gap in s."""
    since = time.monotonic()
    cluster.servers[number].kill()
    await until(lambda: load.goes_on(since), 60, what="acknowledgements after the kill")
    gap = load.gap(since)
    await asyncio.to_thread(cluster.servers[number].start)
    return gap


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    async with (
        services(cluster, tmp_path) as (provisioner, tracker),
        await BusClient.connect(cluster.settings("load"), patient=True, timeout=10) as client,
    ):
        agent = FakeAgent(client, "local", script=lambda _: Script(seconds=0.2))
        await agent.start()
        load = Load(client, new_id())
        tasks = [asyncio.create_task(load.submits()), asyncio.create_task(load.telemetry())]
        await until(lambda: load.stored >= 10 * RECORDS and len(load.submitted) >= 3, 30, what="some load")
        gaps = await break_it(cluster, client, load)
        load.stopping.set()
        await asyncio.gather(*tasks)
        print(json.dumps({"gaps_s": gaps, "submitted": len(load.submitted), "records": load.stored}))
        await check(client, load)
        health = [provisioner.bus.health(), tracker.bus.health()]
        assert all(each.ready for each in health), health
        await agent.stop()
    assert max(gaps.values()) < LONGEST_GAP_S, gaps


async def break_it(cluster: Cluster, client: BusClient, load: Load) -> dict[str, float]:
    streams, gaps = (REQUESTS, REPORTS, EVENTS, METRICS, LOGS), {}
    leader = await cluster.leader(client, METRICS)
    gaps["leader killed"] = round(await kill(cluster, leader, load), 3)
    await cluster.whole(client, streams)
    leader = await cluster.leader(client, METRICS)
    follower = random.choice([number for number in range(3) if number != leader])
    gaps["follower killed"] = round(await kill(cluster, follower, load), 3)
    await cluster.whole(client, streams)
    since = time.monotonic()
    for number in range(3):
        await cluster.retire(number)
        await asyncio.to_thread(cluster.servers[number].start)
        await cluster.whole(client, streams)
    gaps["rolling restart"] = round(load.gap(since), 3)
    return gaps


async def check(client: BusClient, load: Load) -> None:
    """Every acknowledged submit ended once, every acknowledged record is stored once."""
    wanted = set(load.submitted)

    async def ended() -> bool:
        facts = await collect.facts(client)
        return all(
            wanted <= {fact.event.experiment for fact in facts if isinstance(fact.event, kind)}
            for kind in (ExperimentFinished, AttemptSettled)
        )

    await until(ended, 60, every=1.0, what="all experiments to end")
    facts = tuple(fact for fact in await collect.facts(client) if getattr(fact.event, "experiment", "") in wanted)
    assert_holds(
        Evidence(
            submitted=tuple(Submitted(experiment) for experiment in sorted(wanted)),
            facts=facts,
            dead=await collect.dead_letters(client),
        )
    )

    async def points() -> bool:
        view = await client.ask(GetExperiment(ref=load.run), project="default", user="ann")
        return any(metric.name == "loss" and metric.points == load.stored for metric in view.metrics)

    await until(points, 30, every=0.5, what="all records to be stored")
    steps: list[int] = []
    while len(steps) < load.stored:
        query = GetPoints(experiment=load.run, metric="loss", attempt=1, rank=0, from_step=len(steps) + 1)
        page = await client.ask(query, project="default", user="ann")
        assert page.steps
        steps += page.steps
    assert steps == list(range(1, load.stored + 1))
