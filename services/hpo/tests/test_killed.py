"""The service is killed (SIGKILL) at whatever moment, again and again: no trial is lost, doubled or changed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from incl_hpo.testing_runs import ScriptedRuns, quadratic, sweep_spec
from incl_shared.bus.client import BusClient
from incl_shared.bus.runtime import Bus
from incl_shared.errors import UnavailableError
from incl_shared.events import SweepFinished, SweepSubmitted, TrialEnded, TrialState, TrialSuggested
from incl_shared.ids import new_id
from incl_shared.queries.hpo import ListTrials
from incl_shared.settings import BusSettings
from incl_shared.testing.wait import until

TRIALS = 40
CODE = """
import asyncio, json, sys
from incl_hpo.app import create_app
from incl_hpo.settings import HpoSettings

async def main():
    app = create_app(HpoSettings.model_validate(json.loads(sys.argv[1])))
    await app.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def runs(bus_settings: BusSettings, bus_client: BusClient) -> AsyncIterator[ScriptedRuns]:
    tracker = Bus(bus_settings, service="tracker")
    scripted = ScriptedRuns(bus_client, tracker, quadratic)
    await tracker.start()
    await scripted.start()
    yield scripted
    await scripted.stop()
    await tracker.stop()


class Service:
    """The service in a process of its own."""

    def __init__(self, url: str, bus: BusSettings) -> None:
        self._settings = HpoJson(url, bus)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE, self._settings.text], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class HpoJson:
    """Its settings as JSON."""

    def __init__(self, url: str, bus: BusSettings) -> None:
        import json

        values: dict[str, Any] = {"database_url": url, "bus": json.loads(bus.model_dump_json(exclude_none=True))}
        self.text = json.dumps({**values, "tick_s": 0.2, "pause_s": 0.05, "workers": 1, "batch": 2})


@pytest.mark.parametrize("algorithm", ["tpe", "optuna.CmaEsSampler"])
async def test_a_sweep_survives_kills_at_any_moment(
    bus_settings: BusSettings, bus_client: BusClient, runs: ScriptedRuns, tmp_path: Path, algorithm: str
) -> None:
    service = Service(f"sqlite:///{tmp_path / 'hpo.db'}", bus_settings)
    chance = random.Random(7)
    service.start()
    try:
        sweep = new_id()
        spec = sweep_spec(budget={"trials": TRIALS}, parallel=4, algorithm=algorithm)
        await bus_client.publish_event(SweepSubmitted(sweep=sweep, spec=spec), project="default", user="ann")
        for _ in range(5):
            more = len(runs.submitted) + chance.randint(1, 6)
            await until(lambda: len(runs.submitted) >= min(more, TRIALS - 1), 30)  # noqa: B023
            service.kill()
            service.start()
        await until(lambda: any(isinstance(event, SweepFinished) for event in runs.events), 60)
        trials = await until(lambda: _trials(bus_client, sweep), 10)
    finally:
        service.kill()
    assert [trial.trial for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert runs.differing == [], "an experiment was submitted twice with other content"
    assert {trial.experiment for trial in trials} == set(runs.submitted)
    for trial in trials:
        env = runs.submitted[trial.experiment].spec.env
        assert {name: float(env[name]) for name in trial.parameters} == trial.parameters
        assert trial.values[0] == quadratic(runs.submitted[trial.experiment]).logged["loss"]
    for kind in (TrialSuggested, TrialEnded):
        assert sorted(event.trial for event in runs.events if isinstance(event, kind)) == list(range(TRIALS))


async def _trials(client: BusClient, sweep: str) -> Any:
    try:
        page = await client.ask(ListTrials(sweep=sweep), project="default", user="ann")
    except UnavailableError:
        return None
    return page.trials
