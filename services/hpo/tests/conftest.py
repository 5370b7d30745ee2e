"""The service on a real bus, with scripted runs in place of machines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from incl_hpo.app import App, create_app
from incl_hpo.settings import HpoSettings
from incl_hpo.testing_runs import Script, ScriptedRuns, quadratic, sweep_spec
from incl_shared.bus.client import BusClient
from incl_shared.bus.runtime import Bus
from incl_shared.clock import Clock
from incl_shared.events import SweepFinished, SweepStopRequested, SweepSubmitted
from incl_shared.ids import new_id
from incl_shared.queries.base import Query
from incl_shared.queries.hpo import GetSweep, ListTrials, SweepView, TrialView
from incl_shared.settings import BusSettings
from incl_shared.sweep import SweepSpec
from incl_shared.testing.wait import until

QUICK: dict[str, Any] = {"tick_s": 0.2, "pause_s": 0.05, "workers": 1}


@dataclass
class Sweeps:
    """A running service, what it caused, and a way to ask for sweeps."""

    client: BusClient
    settings: HpoSettings
    app: App
    runs: ScriptedRuns
    clock: Clock | None = None

    async def submit(self, spec: SweepSpec | None = None, *, user: str = "ann", project: str = "default") -> str:
        event = SweepSubmitted(sweep=new_id(), spec=spec or sweep_spec())
        await self.client.publish_event(event, project=project, user=user, event_id=event.sweep)
        return event.sweep

    async def ask_stop(self, sweep: str, user: str = "ann", project: str = "default", reason: str = "") -> None:
        await self.client.publish_event(SweepStopRequested(sweep=sweep, reason=reason), project=project, user=user)

    async def ask(self, query: Query[Any], user: str = "ann", project: str = "default") -> Any:
        return await self.client.ask(query, project=project, user=user)

    async def view(self, sweep: str) -> SweepView:
        view: SweepView = await self.ask(GetSweep(ref=sweep))
        return view

    async def trials(self, sweep: str, **query: Any) -> list[TrialView]:
        return list((await self.ask(ListTrials(sweep=sweep, **query))).trials)

    async def finished(self, sweep: str, timeout: float = 30) -> SweepView:
        """Wait for its end."""

        def over() -> SweepFinished | None:
            ended = [one for one in self.runs.events if isinstance(one, SweepFinished) and one.sweep == sweep]
            return ended[0] if ended else None

        await until(over, timeout, what=f"the end of {sweep}: {len(self.runs.submitted)} trials")
        return await self.view(sweep)

    async def restart(self) -> None:
        await self.app.stop()
        self.app = create_app(self.settings, clock=self.clock)
        await self.app.start()


StartSweeps = Callable[..., Awaitable[Sweeps]]


@pytest.fixture
async def start(bus_settings: BusSettings, bus_client: BusClient) -> AsyncIterator[StartSweeps]:
    """Starts the service: await start(database_url, script, **settings)."""
    made: list[Sweeps] = []
    tracker = Bus(bus_settings, service="tracker")

    async def make(url: str, script: Script = quadratic, clock: Clock | None = None, **options: Any) -> Sweeps:
        settings = HpoSettings(database_url=url, bus=bus_settings, **{**QUICK, **options})
        runs = ScriptedRuns(bus_client, tracker, script)
        await tracker.start()
        await runs.start()
        sweeps = Sweeps(bus_client, settings, create_app(settings, clock=clock), runs, clock)
        await sweeps.app.start()
        made.append(sweeps)
        return sweeps

    yield make
    for sweeps in made:
        await sweeps.runs.stop()
        await sweeps.app.stop()
    await tracker.stop()
