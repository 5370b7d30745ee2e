"""A provisioner on a real bus, with scripted agents, as tests see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from incl_provisioner.app import App, create_app
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.testing.agent import FakeAgent
from incl_shared.bus.client import BusClient
from incl_shared.events.base import REGISTER, Event
from incl_shared.events.experiments import ExperimentFinished, ExperimentSubmitted, StopRequested
from incl_shared.ids import new_id
from incl_shared.spec import ExperimentSpec
from incl_shared.testing.wait import until

QUICK: dict[str, Any] = {
    "tick_s": 0.05, "coalesce_s": 0.001, "notice_after_s": 0.05, "notice_every_s": 0.05, "retry_pause_s": 0.0,
    "lease_ttl_s": 2.0,
}  # fmt: skip


@dataclass
class Platform:
    """A provisioner on a real bus, what it said, and a way to ask it for things."""

    client: BusClient
    settings: ProvisionerSettings
    app: App
    events: list[tuple[str, int, Event]] = field(default_factory=list)
    """(project, version, event) in the order of their coming; a core subscription sees repeats, which are left out."""
    agents: list[FakeAgent] = field(default_factory=list)

    _seen: set[str] = field(default_factory=set)

    async def submit(
        self, *, experiment: str | None = None, user: str = "ann", project: str = "default", **spec: Any
    ) -> str:
        """Ask for an experiment; its id."""
        identifier = experiment or new_id()
        values = {"command": ["true"], "resources": {"cpu": 0.5}, "project": project, **spec}
        event = ExperimentSubmitted(experiment=identifier, spec=ExperimentSpec.model_validate(values))
        await self.client.publish_event(event, project=project, user=user)
        return identifier

    async def ask_stop(self, experiment: str, user: str = "ann", project: str = "default") -> None:
        """Ask for a stop."""
        await self.client.publish_event(StopRequested(experiment=experiment), project=project, user=user)

    async def agent(self, node: str = "local", **options: Any) -> FakeAgent:
        """A scripted agent, started."""
        agent = FakeAgent(self.client, node, **options)
        self.agents.append(agent)
        await agent.start()
        return agent

    def of(self, experiment: str) -> list[Event]:
        """The events of an experiment's execution in their order, as far as there is no hole yet."""
        found: dict[int, Event] = {}
        for _, version, event in self.events:
            if event.key == experiment and type(event).aggregate == "experiment":
                assert found.setdefault(version, event) == event, f"two events of version {version}"
        return [found[version] for version in range(1, len(found) + 1) if version in found]

    def names(self, experiment: str) -> list[str]:
        """The names of the events of an experiment, reasons of waiting left out."""
        return [type(event).__name__ for event in self.of(experiment) if type(event).__name__ != "ExperimentWaiting"]

    async def event(self, experiment: str, kind: type[Event], count: int = 1) -> Any:
        """Wait for an event of an experiment."""

        def find() -> Event | None:
            found = [event for event in self.of(experiment) if isinstance(event, kind)]
            return found[count - 1] if len(found) >= count else None

        return await until(find, 15, what=f"{kind.__name__} of {experiment}: {self.names(experiment)}")

    async def finished(self, experiment: str) -> ExperimentFinished:
        """Wait for the final state."""
        found: ExperimentFinished = await self.event(experiment, ExperimentFinished)
        return found

    async def restart(self) -> None:
        """Stop the provisioner, and start it anew on the same database."""
        await self.app.stop()
        self.app = create_app(self.settings)
        await self.app.start()

    async def listen(self) -> None:
        """Keep every event that is published."""

        async def received(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
            if headers["ce-id"] in self._seen:
                return
            self._seen.add(headers["ce-id"])
            kind = REGISTER[headers["ce-type"]]
            self.events.append((subject.split(".")[2], int(headers["ce-inclversion"]), kind.read(payload)))

        await self.client.subscribe("incl.event.>", received)


Start = Callable[..., Awaitable[Platform]]
"""Starts a provisioner: await start(database_url, **settings)."""
