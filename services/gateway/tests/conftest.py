"""The gateway's parts on a real database, with fakes of the provisioner's and the tracker's word only."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from incl_gateway import store
from incl_gateway.handlers import Handlers
from incl_gateway.signer import Signer
from incl_gateway.vault import Vault
from incl_shared.auth.keys import PlatformKeys
from incl_shared.auth.mint import Minter
from incl_shared.control import JobSpec, JobWanted, NodeWanted, Wanted
from incl_shared.db import Database, migrate
from incl_shared.errors import DeniedError, NotFoundError
from incl_shared.ids import derived_id
from incl_shared.queries.tracker import ExperimentRow, ExperimentView
from incl_shared.states import ExperimentState
from incl_shared.testing.clock import FakeClock

E1, E2 = derived_id("one"), derived_id("two")


@dataclass
class FakeWorld:
    """What the provisioner and the tracker would say."""

    nodes: dict[str, NodeWanted] = field(default_factory=dict)
    runs: dict[str, ExperimentView] = field(default_factory=dict)
    machines: dict[tuple[str, str], float] = field(default_factory=dict)
    """(name, token) -> how long its credential may live."""
    spoken: list[int] = field(default_factory=list)
    """What agents that knocked said they speak."""

    async def wanted(self, node: str) -> NodeWanted | None:
        return self.nodes.get(node)

    async def admit(self, node: str, key: str, token: str, protocol: int) -> float:
        self.spoken.append(protocol)
        if (node, token) not in self.machines:
            raise DeniedError(f"the token is not that of {node}", hint="it is deleted")
        return self.machines[node, token]

    async def experiment(self, project: str, experiment: str) -> ExperimentView:
        view = self.runs.get(experiment)
        if view is None or view.row.project != project:
            raise NotFoundError("no such experiment")
        return view

    def run_is(self, experiment: str, project: str, user: str, *, outside: bool = True) -> None:
        row = ExperimentRow(
            id=experiment, name="x", project=project, user=user, state=ExperimentState.RUNNING, nodes=1, gpus=0,
            attempts=1, created=1.0,
        )  # fmt: skip
        self.runs[experiment] = ExperimentView(row=row, version=1, outside=outside)


def wanted(
    experiment: str, *, attempt: int = 1, rank: int = 0, secrets: tuple[str, ...] = (), project: str = "default"
) -> JobWanted:
    spec = JobSpec(name="x", command=("true",), secrets=secrets)
    return JobWanted(
        experiment=experiment, project=project, user="ann", attempt=attempt, rank=rank, wanted=Wanted.RUN, spec=spec
    )


@asynccontextmanager
async def opened(url: str, clock: FakeClock) -> AsyncIterator[Database]:
    """A migrated database with ann in default and vision, and bob in other."""
    database = Database(url, clock=clock)
    await database.start()
    await database.write(lambda tx: store.bootstrap(tx, "ann", ("default", "vision")))
    await database.write(lambda tx: store.bootstrap(tx, "bob", ("other",)))
    try:
        yield database
    finally:
        await database.stop()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to copy."""
    path = tmp_path_factory.mktemp("gateway") / "new.db"
    migrate(f"sqlite:///{path}", "incl_gateway")
    return path


@pytest.fixture
async def database(migrated: Path, tmp_path: Path, fake_clock: FakeClock) -> AsyncIterator[Database]:
    """SQLite, for what is not about the database."""
    shutil.copy(migrated, tmp_path / "gateway.db")
    async with opened(f"sqlite:///{tmp_path / 'gateway.db'}", fake_clock) as database:
        yield database


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> PlatformKeys:
    return PlatformKeys.create(tmp_path_factory.mktemp("platform") / "keys")


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def handlers(database: Database, tmp_path: Path) -> Handlers:
    return Handlers(database, Vault.open(tmp_path / "vault" / "key", make=True))


@pytest.fixture
def signer(database: Database, world: FakeWorld, keys: PlatformKeys, fake_clock: FakeClock) -> Signer:
    minter = Minter(keys.signers(), fake_clock)
    return Signer(minter, world, database, attempt_ttl=3600, run_ttl=600)
