"""Slow and broken parts: faults that last, while experiments stand at every phase of their life.

A `Siege` is a round whose fault is a function of the test. `small_arena` is a platform on SQLite, with whatever the
test wants of its environment. `BusAway` keeps the bus away, although `incl up` starts it again and again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from incl_local.chaos.arena import Arena
from incl_local.chaos.gates import Gate
from incl_local.chaos.phases import CORES, PHASES
from incl_local.chaos.rounds import Blow, Outcome, Round
from incl_local.chaos.victims import Chaos, Fault
from incl_local.place import SERVICE_NAMES
from incl_local.testing import Home, wait

_AGAIN_S = 20.0
"""The longest that the supervisor waits before it starts the bus again, and more."""


class Siege(Round):
    """A round whose fault is any function: it begins, lasts, and ends within it."""

    def __init__(self, arena: Arena, folder: Path, fault: Callable[[Siege], None]) -> None:
        super().__init__(arena.chaos, arena.gate, folder)
        self._fault = fault

    async def endure(self, name: str, phases: tuple[str, ...] = PHASES) -> Outcome:
        """Hold experiments at these phases, have the fault happen, let go, and wait for their ends."""
        return await self.run(Blow(name, Fault.FREEZE, phases=phases))

    def _strike(self, blow: Blow) -> float:
        self._fault(self)
        self.stage.let_go()
        return time.monotonic()

    def steps(self, phase: str = "running") -> int:
        """How many steps an experiment has logged so far."""
        return sum(len(book.steps) for book in self.stage.held[phase].books())


@contextlib.contextmanager
def small_arena(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Arena]:
    """A platform on SQLite in many processes, stopped in order at the end."""
    home = Home(folder / "home")
    chaos = Chaos(home)
    try:
        with Gate().running() as gate:
            home.environment["INCL_REGISTRY_PUBLIC_URL"] = gate.url
            home.environment["INCL_AGENT_CPU"] = f"{CORES:g}"
            home.environment.update(environment or {})
            chaos.up()
            gate.lead_to(chaos.place.ports["registry"])
            yield Arena(chaos, gate)
    finally:
        home.incl("down", timeout=60)


class BusAway:
    """The bus is away while the context lasts: its configuration is one that it refuses."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos
        self.cpu: dict[str, float] = {}
        """Cores that each service used meanwhile, on average."""

    def __enter__(self) -> BusAway:
        config = self._chaos.layout.nats / "nats-server.conf"
        self._kept, self._config = config.with_name("kept.conf"), config
        config.rename(self._kept)
        config.write_text("this is no configuration {", encoding="ascii")
        self._pid = self._chaos.find("nats")[0].pid
        self._chaos.find("nats")[0].stop(patience=10)
        self._began, self._used = time.monotonic(), self._times()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self._began
        self.cpu = {name: (used - self._used[name]) / seconds for name, used in self._times().items()}
        self._kept.replace(self._config)
        wait(self._back, _AGAIN_S, "the bus to be started again")

    def _times(self) -> dict[str, float]:
        found = {}
        for name in SERVICE_NAMES:
            times = psutil.Process(self._chaos.find(name)[0].pid).cpu_times()
            found[name] = times.user + times.system
        return found

    def _back(self) -> bool:
        place = self._chaos.place
        with contextlib.suppress(OSError):
            import socket

            with socket.create_connection(("127.0.0.1", place.ports["bus"]), timeout=1) as probe:
                return probe.recv(4) == b"INFO"
        return False
