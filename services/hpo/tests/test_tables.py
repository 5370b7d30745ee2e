"""The migrations make what the tables say."""

from __future__ import annotations

from incl_hpo.tables import metadata
from incl_shared.migrations import assert_migrations_match


def test_the_migrations_make_the_tables(database_url: str) -> None:
    assert_migrations_match(database_url, metadata, "incl_hpo")
