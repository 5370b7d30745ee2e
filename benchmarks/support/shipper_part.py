"""One node's shipping, as its agent does it once jobs have ended: a MetricSource and a Shipper an experiment, one
connection, all at once. Run in a process (support.serve)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.errors import NotFoundError
from incl_shared.events.experiments import RunEnded, RunStarted
from incl_shared.ids import job_id
from incl_shared.queries.tracker import GetExperiment, GetWatermarks
from incl_shared.settings import BusSettings
from incl_shared.states import ExperimentState
from incl_shared.telemetry import MetricSource, Shipper
from incl_shared.telemetry.stored import Stored, read_marks
from support.loops import Loop

PROJECT, USER, ATTEMPT, RANK = "default", "ann", 1, 0
DEADLINE_S, KNOWN_S = 1800.0, 60.0
_loop = Loop()
_state: dict[str, Any] = {}


def prepare(bus: str, spools: str, journals: str, experiments: list[str]) -> None:
    """Connect, make the shippers, and tell of the runs, as `incl sync` does first."""
    _loop.run(_prepare(bus, Path(spools), Path(journals), experiments))


async def _prepare(bus: str, spools: Path, journals: Path, experiments: list[str]) -> None:
    client = _state["client"] = await BusClient.connect(BusSettings(urls=(bus,), name="node"))
    shippers: dict[str, Shipper] = {}
    for experiment in experiments:
        event = RunStarted(experiment=experiment, name=f"bench-{experiment[-4:]}", started=time.time())
        await client.publish_event(event, project=PROJECT, user=USER, event_id=f"{experiment}-started")
        journal = journals / experiment
        journal.mkdir(parents=True)
        source = MetricSource(spools / experiment, journal / "metrics.json")
        subject = subjects.metrics(PROJECT, experiment, ATTEMPT, RANK)
        job = job_id(experiment, ATTEMPT, RANK)
        stored = Stored(_Tracker(client, experiment))
        stored.start()
        shippers[experiment] = Shipper(source, client.publish_confirmed, subject=subject, job=job, stored=stored)
        await _known(client, experiment)
    _state["shippers"] = shippers


async def _known(client: BusClient, experiment: str) -> None:
    """Until the tracker has heard of the run: before that, nobody gets a credential to ship it."""
    deadline = time.monotonic() + KNOWN_S
    while True:
        try:
            await client.ask(GetExperiment(ref=experiment), project=PROJECT, user=USER, timeout=30)
        except NotFoundError:
            assert time.monotonic() < deadline, f"the tracker does not know {experiment}"
            await asyncio.sleep(0.02)
        else:
            return


class _Tracker:
    """The way to the tracker that a job has."""

    def __init__(self, client: BusClient, experiment: str) -> None:
        self._client = client
        self._query = GetWatermarks(experiment=experiment, attempt=ATTEMPT, rank=RANK)

    async def watermarks(self) -> Mapping[str, int]:
        """Ask."""
        return (await self._client.ask(self._query, project=PROJECT, user=USER, timeout=10)).stored

    async def listen(self, heard: Callable[[Mapping[str, int]], None]) -> None:
        """Hear what the tracker says after each commit."""

        async def hear(subject: str, payload: bytes, headers: object) -> None:
            heard(read_marks(payload))

        place = (PROJECT, self._query.experiment, ATTEMPT, RANK)
        await self._client.subscribe(subjects.stored(*place), hear)


def ship() -> dict[str, float]:
    """Ship everything. Returns records, batches, payload bytes, failures (a full stream, tried again), and seconds."""
    return _loop.run(_ship())


async def _ship() -> dict[str, float]:
    began = time.monotonic()
    shippers: list[Shipper] = list(_state["shippers"].values())
    done = await asyncio.gather(*(shipper.flush(DEADLINE_S) for shipper in shippers))
    assert all(done), "not everything was shipped in time"
    names = ("records", "batches", "payload_bytes", "failures")
    total = {name: float(sum(getattr(s.shipped, name) for s in shippers)) for name in names}
    return {**total, "seconds": time.monotonic() - began}


def end() -> int:
    """Tell that the runs have ended, with their counts of records. Returns the records."""
    return _loop.run(_end())


async def _end() -> int:
    records = 0
    for experiment, shipper in _state["shippers"].items():
        writers = shipper.counts()
        records += sum(writer.records for writer in writers)
        event = RunEnded(
            experiment=experiment, state=ExperimentState.FINISHED, ended=time.time(), writers=writers
        )  # fmt: skip
        await _state["client"].publish_event(event, project=PROJECT, user=USER, event_id=f"{experiment}-ended")
    await _state["client"].close()
    return records
