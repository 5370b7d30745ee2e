"""Poison, duplicates and messages out of order on every stream: only the poison is buried, all else goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from incl_local.chaos.arena import Arena
from incl_local.chaos.broken import Siege, small_arena
from incl_local.testing import wait
from incl_shared import subjects
from incl_shared.bus import envelope as wire
from incl_shared.bus.client import BusClient
from incl_shared.bus.topology import EVENTS, LOGS, METRICS, REPORTS, REQUESTS
from incl_shared.events.experiments import AttemptEnded, ExperimentFinished, ExperimentSubmitted, StopRequested
from incl_shared.ids import new_id
from incl_shared.reports import JobEnded, NodeHeartbeat, Report
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.invariants import assert_holds

GARBAGE = b"\x00\xff\xfe not json \x80"
HUGE = 3 << 20
"""Bytes: less than the 8 MB that the bus takes, more than anything that is sent."""


@dataclass
class Poisoner:
    """Publishes as the administrator, who alone may say anything."""

    client: BusClient
    ids: dict[str, str] = field(default_factory=dict)
    """Of what must be buried: message id -> stream."""

    async def say(
        self, stream: str, subject: str, payload: bytes, headers: Mapping[str, str] | None = None, *, dies: bool = True
    ) -> None:
        identifier = (headers or {}).get("ce-id") or f"poison-{new_id()}"
        ack = await self.client.publish_confirmed(subject, payload, message_id=identifier, headers=headers)
        assert ack.stream == stream
        if dies:
            self.ids[identifier] = stream


def envelope(kind: str, key: str) -> dict[str, str]:
    said = wire.Envelope(id=f"poison-{new_id()}", source="/test", type=kind, subject=key, time=1.0, version=1)
    return dict(wire.encode(StopRequested(experiment=key), said)[1]) | {"ce-type": kind, "ce-id": said.id}


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with small_arena(tmp_path_factory.mktemp("broken messages")) as made:
        yield made


async def poison(poisoner: Poisoner, running: str) -> None:
    """Garbage, the wrong schema, something huge and a false claim, on every stream."""
    other = new_id()
    request = subjects.request("default", "mallory", "experiment", other)
    event = subjects.event("default", "experiment", other)
    for stream, subject in (
        (REQUESTS, request),
        (EVENTS, event),
        (REPORTS, subjects.report("nowhere")),
        (METRICS, subjects.metrics("default", running, 1, 0)),
        (LOGS, subjects.logs("default", running, 1, 0)),
    ):
        await poisoner.say(stream, subject, GARBAGE)
        await poisoner.say(stream, subject, b"{}")
        await poisoner.say(stream, subject, b"x" * HUGE)
    submitted = ExperimentSubmitted(experiment=new_id(), spec=ExperimentSpec(command=["true"]))
    await poisoner.say(REQUESTS, request, submitted.model_dump_json().encode(), envelope("ExperimentSubmitted", other))
    lie = Report(node="far", journal="j", seq=1, time=1.0, body=NodeHeartbeat(jobs=(), generation=0))
    await poisoner.say(REPORTS, subjects.report("near"), lie.model_dump_json().encode())


async def test_only_the_poison_is_buried(arena: Arena, tmp_path: Path) -> None:
    poisoner: list[Poisoner] = []

    def spoil(siege: Siege) -> None:
        import asyncio

        async def work() -> None:
            async with await BusClient.connect(arena.chaos.place.bus("admin")) as client:
                poisoner.append(Poisoner(client))
                await poison(poisoner[0], siege.stage.held["running"].experiment)

        asyncio.run(work())
        wait(lambda: len(letters(arena)) >= len(poisoner[0].ids), 30, "the poison to be buried")

    outcome = await Siege(arena, tmp_path, spoil).endure("poison on every stream")
    found = letters(arena)
    assert all(letter["reason"] for letter in found), found
    print(json.dumps([[letter["stream"], letter["durable"], letter["reason"][:90]] for letter in found], indent=1))
    streams = {letter["stream"] for letter in found}
    assert streams == {REQUESTS, EVENTS, REPORTS, METRICS, LOGS}
    assert_holds(replace(outcome.evidence, poisoned=frozenset(poisoner[0].ids)))


def letters(arena: Arena) -> list[dict[str, object]]:
    listed = arena.chaos.home.incl("admin", "dead-letters", "ls", "--json")
    assert listed.code == 0, listed.err
    return list(listed.json)


async def again(client: BusClient, experiment: str) -> None:
    """What was said is said again under other message ids, and what must come later comes first."""
    js = client.jetstream()
    last = (await js.stream_info(EVENTS)).state.last_seq
    for sequence in reversed(range(1, last + 1)):
        message = await js.get_msg(EVENTS, seq=sequence)
        if (message.headers or {}).get("Nats-Msg-Id", "").startswith("poison-"):
            continue
        headers = {key: value for key, value in (message.headers or {}).items() if not key.startswith("Nats-")}
        await client.publish_confirmed(message.subject, message.data, message_id=f"again-{new_id()}", headers=headers)
    early = JobEnded(experiment=experiment, attempt=7, rank=0, times={"rank": 0}, reason=EndReason.ERROR)
    late = JobEnded(experiment=new_id(), attempt=1, rank=0, times={"rank": 0}, reason=EndReason.ERROR)
    for body in (early, late):
        report = Report(node="local", journal="other", seq=1, time=1.0, body=body)
        payload = report.model_dump_json().encode()
        await client.publish_confirmed(subjects.report("local"), payload, message_id=f"again-{new_id()}")


async def test_what_comes_twice_or_out_of_order_changes_nothing(arena: Arena, tmp_path: Path) -> None:
    before = len(letters(arena))

    def repeat(siege: Siege) -> None:
        import asyncio

        async def work() -> None:
            async with await BusClient.connect(arena.chaos.place.bus("admin")) as client:
                await again(client, siege.stage.held["running"].experiment)

        asyncio.run(work())

    outcome = await Siege(arena, tmp_path, repeat).endure("everything comes again, backwards")
    assert len(letters(arena)) == before
    assert_holds(replace(outcome.evidence, dead=()))
    states = [fact.event.state for fact in outcome.evidence.facts if isinstance(fact.event, ExperimentFinished)]
    assert states and set(states) <= {ExperimentState.FINISHED, ExperimentState.STOPPED}
    assert not [
        f for f in outcome.evidence.facts if isinstance(f.event, AttemptEnded) and f.event.reason is EndReason.ERROR
    ]
