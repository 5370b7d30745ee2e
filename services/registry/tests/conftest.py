"""Running stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from incl_registry.testing.models import Desk
from incl_registry.testing.running import Store, close_store, open_store
from incl_shared.ids import new_id


@pytest.fixture
async def store(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    """A running store on SQLite."""
    opened = await open_store(sqlite_url, tmp_path / "the blobs")
    yield opened
    await close_store(opened)


@pytest.fixture
async def any_store(database_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    """A running store on SQLite, then on PostgreSQL."""
    opened = await open_store(database_url, tmp_path / "the blobs")
    yield opened
    await close_store(opened)


@pytest.fixture
def experiment() -> str:
    """A new experiment's id."""
    return new_id()


@pytest.fixture
def desk(store: Store) -> Desk:
    """The models of a store on SQLite."""
    return Desk(store)


@pytest.fixture
def any_desk(any_store: Store) -> Desk:
    """The models of a store on SQLite, then on PostgreSQL."""
    return Desk(any_store)
