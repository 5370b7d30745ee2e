"""Tokens over the bus, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from incl_gateway import store
from incl_gateway.handlers import Handlers
from incl_gateway.tables import tokens
from incl_shared.db import Database, migrate
from incl_shared.errors import AmbiguousError, DeniedError, NotFoundError
from incl_shared.queries.gateway import CreateToken, ListTokens, RevokeToken, WhoAmI
from incl_shared.subjects import Asker
from incl_shared.testing.clock import FakeClock

from .conftest import opened

ANN = Asker("default", "ann")


@pytest.fixture
async def database(database_url: str, fake_clock: FakeClock) -> AsyncIterator[Database]:
    """SQLite, then PostgreSQL."""
    migrate(database_url, "incl_gateway")
    async with opened(database_url, fake_clock) as database:
        yield database


async def test_only_a_hash_of_a_token_is_stored(database: Database, handlers: Handlers) -> None:
    made = await handlers.create_token(ANN, CreateToken(label="x"))
    secret = made.token.get_secret_value()
    row = await database.read(lambda c: c.execute(sa.select(tokens)).mappings().one())
    assert not any(secret[12:] in str(value) for value in row.values())
    assert secret.startswith(row["prefix"])
    assert secret not in repr(made)


async def test_tokens_over_the_bus_are_ones_own(handlers: Handlers) -> None:
    made = await handlers.create_token(ANN, CreateToken(label="a"))
    bob = Asker("other", "bob")
    assert (await handlers.list_tokens(bob, ListTokens())).tokens == ()
    with pytest.raises(NotFoundError):
        await handlers.revoke_token(bob, RevokeToken(token=made.view.id))
    await handlers.create_token(ANN, CreateToken(label="b"))
    with pytest.raises(AmbiguousError):
        await handlers.revoke_token(ANN, RevokeToken(token="incl_"))
    await handlers.revoke_token(ANN, RevokeToken(token=made.view.prefix))
    await handlers.revoke_token(ANN, RevokeToken(token=made.view.id))
    revoked = {one.label: one.revoked for one in (await handlers.list_tokens(ANN, ListTokens())).tokens}
    assert revoked["a"] is not None
    assert revoked["b"] is None


@pytest.mark.parametrize("asker", [Asker("other", "ann"), Asker("default", "x"), Asker("default", "job_x-1-0")])
async def test_strangers_have_no_tokens(handlers: Handlers, asker: Asker) -> None:
    with pytest.raises(DeniedError):
        await handlers.create_token(asker, CreateToken())
    with pytest.raises(DeniedError):
        await handlers.whoami(asker, WhoAmI())


async def test_to_bootstrap_again_changes_nothing(database: Database) -> None:
    await database.write(lambda tx: store.bootstrap(tx, "ann", ("default", "new")))
    assert await database.read(lambda c: store.projects_of(c, "ann")) == ("default", "new", "vision")
