"""Statements that SQLite and PostgreSQL spell alike but not the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[dict[str, Any]],
    *,
    update: Iterable[str] | None = None,
    where: str | None = None,
) -> None:
    """Insert rows, or update those that are there (by primary key).

    update: the columns to set; all that are given by default, none: leave what is there. where: the name of a column
    which must not be less than before for the update to happen.
    """
    if rows:
        columns = None if update is None else tuple(update)
        connection.execute(_upsert(connection.dialect.name, table, tuple(rows[0]), columns, where), rows)


@cache
def _upsert(
    dialect: str, table: sa.Table, given: tuple[str, ...], update: tuple[str, ...] | None, where: str | None
) -> sa.Insert:
    """Made once: making it takes longer than SQLite takes to run it."""
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    keys = [column.name for column in table.primary_key]
    names = update if update is not None else tuple(name for name in given if name not in keys)
    if not names:
        return insert.on_conflict_do_nothing()
    condition = None if where is None else insert.excluded[where] >= table.c[where]
    return insert.on_conflict_do_update(
        index_elements=keys, set_={name: insert.excluded[name] for name in names}, where=condition
    )


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that are not there yet."""
    upsert(connection, table, rows, update=())
