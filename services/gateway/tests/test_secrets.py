"""Secrets: sealed at rest, read by jobs alone, and only what their experiment asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_gateway import store
from incl_gateway.handlers import Handlers
from incl_gateway.signer import Signer
from incl_gateway.tables import secrets
from incl_gateway.vault import Vault
from incl_shared.auth.names import job_principal
from incl_shared.control import NodeWanted
from incl_shared.db import Database, migrate
from incl_shared.errors import DeniedError, IntegrityError, InvalidInput, NotFoundError
from incl_shared.queries.gateway import AttemptCredential, DeleteSecret, ListSecrets, ReadSecrets, SetSecret
from incl_shared.subjects import NODES_PROJECT, Asker
from incl_shared.testing.clock import FakeClock

from .conftest import E1, E2, FakeWorld, opened, wanted

ANN, BOB = Asker("default", "ann"), Asker("other", "bob")
JOB = Asker("default", job_principal(E1, 1, 0))


@pytest.fixture
async def database(database_url: str, fake_clock: FakeClock) -> AsyncIterator[Database]:
    """SQLite, then PostgreSQL."""
    migrate(database_url, "incl_gateway")
    async with opened(database_url, fake_clock) as database:
        yield database


async def grant(signer: Signer, world: FakeWorld, *names: str) -> None:
    """The provisioner wants E1 on n1; its agent gets the credential."""
    world.nodes["n1"] = NodeWanted(node="n1", generation=1, jobs=(wanted(E1, secrets=names),))
    await signer.attempt(Asker(NODES_PROJECT, "n1"), AttemptCredential(experiment=E1, attempt=1, rank=0))


async def test_a_job_reads_what_its_experiment_asked_for(handlers: Handlers, signer: Signer, world: FakeWorld) -> None:
    await handlers.set_secret(ANN, SetSecret(secret="KEY", value="old"))
    await handlers.set_secret(ANN, SetSecret(secret="KEY", value="välue\n"))
    await handlers.set_secret(ANN, SetSecret(secret="OTHER", value="x"))
    await grant(signer, world, "KEY")
    answer = await handlers.read_secrets(JOB, ReadSecrets(names=("KEY",)))
    assert answer.values == {"KEY": "välue\n"}
    with pytest.raises(DeniedError, match="OTHER"):
        await handlers.read_secrets(JOB, ReadSecrets(names=("KEY", "OTHER")))


async def test_the_login_of_an_image_is_read_too(handlers: Handlers, signer: Signer, world: FakeWorld) -> None:
    await handlers.set_secret(ANN, SetSecret(secret="REGISTRY", value="ann:pass"))
    job = wanted(E1)
    spec = job.spec.model_copy(update={"image": "r.example/x", "image_login": "REGISTRY"})
    world.nodes["n1"] = NodeWanted(node="n1", generation=1, jobs=(job.model_copy(update={"spec": spec}),))
    await signer.attempt(Asker(NODES_PROJECT, "n1"), AttemptCredential(experiment=E1, attempt=1, rank=0))
    assert (await handlers.read_secrets(JOB, ReadSecrets(names=("REGISTRY",)))).values == {"REGISTRY": "ann:pass"}


async def test_nobody_but_a_known_job_reads_values(
    handlers: Handlers, signer: Signer, world: FakeWorld, fake_clock: FakeClock
) -> None:
    await handlers.set_secret(ANN, SetSecret(secret="KEY", value="v"))
    query = ReadSecrets(names=("KEY",))
    with pytest.raises(DeniedError):
        await handlers.read_secrets(ANN, query)
    with pytest.raises(DeniedError):
        await handlers.read_secrets(JOB, query)
    await grant(signer, world, "KEY")
    for stranger in (Asker("other", JOB.user), Asker("default", job_principal(E2, 1, 0)),
                     Asker("default", job_principal(E1, 2, 0)), Asker("default", job_principal(E1, 1, 1))):  # fmt: skip
        with pytest.raises(DeniedError):
            await handlers.read_secrets(stranger, query)
    assert (await handlers.read_secrets(JOB, query)).values == {"KEY": "v"}
    fake_clock.advance(3601)
    with pytest.raises(DeniedError):
        await handlers.read_secrets(JOB, query)


async def test_a_renewed_credential_keeps_the_grant(
    handlers: Handlers, signer: Signer, world: FakeWorld, fake_clock: FakeClock
) -> None:
    await handlers.set_secret(ANN, SetSecret(secret="KEY", value="v"))
    await grant(signer, world, "KEY")
    fake_clock.advance(3000)
    await grant(signer, world, "KEY")
    fake_clock.advance(3000)
    assert (await handlers.read_secrets(JOB, ReadSecrets(names=("KEY",)))).values == {"KEY": "v"}


async def test_a_promised_secret_that_is_not_stored_is_named(
    handlers: Handlers, signer: Signer, world: FakeWorld
) -> None:
    await grant(signer, world, "KEY")
    with pytest.raises(NotFoundError) as caught:
        await handlers.read_secrets(JOB, ReadSecrets(names=("KEY",)))
    assert caught.value.hint == "store it: incl secret set KEY"


async def test_secrets_of_projects_are_apart(handlers: Handlers) -> None:
    await handlers.set_secret(ANN, SetSecret(secret="B", value="1"))
    await handlers.set_secret(ANN, SetSecret(secret="A", value="1"))
    await handlers.set_secret(BOB, SetSecret(secret="C", value="1"))
    assert (await handlers.list_secrets(ANN, ListSecrets())).names == ("A", "B")
    assert (await handlers.list_secrets(BOB, ListSecrets())).names == ("C",)
    with pytest.raises(NotFoundError):
        await handlers.delete_secret(ANN, DeleteSecret(secret="C"))
    await handlers.delete_secret(ANN, DeleteSecret(secret="A"))
    assert (await handlers.list_secrets(ANN, ListSecrets())).names == ("B",)


@pytest.mark.parametrize(
    "asker", [Asker("other", "ann"), Asker("default", "bob"), Asker("default", "nobody"), JOB, Asker("_nodes", "n1")]
)
async def test_strangers_and_jobs_change_nothing(handlers: Handlers, asker: Asker) -> None:
    with pytest.raises(DeniedError):
        await handlers.set_secret(asker, SetSecret(secret="KEY", value="v"))
    with pytest.raises(DeniedError):
        await handlers.list_secrets(asker, ListSecrets())
    with pytest.raises(DeniedError):
        await handlers.delete_secret(asker, DeleteSecret(secret="KEY"))


async def test_values_that_no_answer_holds_are_refused(handlers: Handlers, signer: Signer, world: FakeWorld) -> None:
    names = tuple(f"S{number}" for number in range(33))
    for name in names:
        await handlers.set_secret(ANN, SetSecret(secret=name, value="x" * 65_536))
    await grant(signer, world, *names)
    assert len((await handlers.read_secrets(JOB, ReadSecrets(names=names[:10]))).values) == 10
    with pytest.raises(InvalidInput, match="too large"):
        await handlers.read_secrets(JOB, ReadSecrets(names=names))


async def test_what_is_stored_is_sealed(handlers: Handlers, database: Database) -> None:
    await handlers.set_secret(ANN, SetSecret(secret="KEY", value="find me if you can"))
    box = await database.read(lambda c: c.execute(sa.select(secrets.c.box)).scalar_one())
    assert b"find me" not in bytes(box)


async def test_a_row_moved_to_another_place_does_not_open(
    handlers: Handlers, database: Database, signer: Signer, world: FakeWorld
) -> None:
    await handlers.set_secret(BOB, SetSecret(secret="KEY", value="bob's"))
    await database.write(lambda tx: tx.connection.execute(sa.update(secrets).values(project="default")))
    await grant(signer, world, "KEY")
    with pytest.raises(IntegrityError):
        await handlers.read_secrets(JOB, ReadSecrets(names=("KEY",)))


def test_a_vault_needs_its_own_key(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is gone"):
        Vault.open(tmp_path / "key", make=False)
    box = Vault.open(tmp_path / "key", make=True).seal("p", "n", "v")
    assert Vault.open(tmp_path / "key", make=False).unseal("p", "n", box) == "v"
    with pytest.raises(IntegrityError):
        Vault.open(tmp_path / "other", make=True).unseal("p", "n", box)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(DeniedError):
        Vault.open(tmp_path / "key", make=True)
    (tmp_path / "short").touch(mode=0o600)
    with pytest.raises(IntegrityError):
        Vault.open(tmp_path / "short", make=True)


def test_secret_values_are_not_shown() -> None:
    assert "hidden" not in repr(SetSecret(secret="KEY", value="hidden"))


async def test_grants_that_are_over_open_nothing_and_are_forgotten_later(
    database: Database, fake_clock: FakeClock
) -> None:
    """A node may ship for a while what a job left, so that its row stays; the secrets are closed at once."""
    now = fake_clock.now()
    await database.write(lambda tx: store.put_grant(tx, "a", "default", "n1", ("X",), now + 10))
    assert await database.read(lambda c: store.granted(c, "a", "default", now)) == frozenset({"X"})
    fake_clock.advance(11)
    await database.write(lambda tx: store.put_grant(tx, "b", "default", "n1", (), now + 100))
    assert await database.read(lambda c: store.granted(c, "a", "default", fake_clock.now())) is None
    assert await database.read(lambda c: store.granted(c, "b", "default", fake_clock.now())) == frozenset()
    fake_clock.advance(store.GRANTS_KEPT_S + 1)
    await database.write(lambda tx: store.put_grant(tx, "c", "default", "n1", (), fake_clock.now() + 100))
    assert await database.read(lambda c: store.granted(c, "a", "default", now)) is None
