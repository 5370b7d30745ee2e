"""Statements that SQLite and PostgreSQL spell alike but not the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    if not rows:
        return
    insert = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    keys = [column.name for column in table.primary_key]
    names = list(update) if update is not None else [name for name in rows[0] if name not in keys]
    if not names:
        connection.execute(insert.on_conflict_do_nothing(), rows)
        return
    condition = None if where is None else insert.excluded[where] >= table.c[where]
    statement = insert.on_conflict_do_update(
        index_elements=keys, set_={name: insert.excluded[name] for name in names}, where=condition
    )
    connection.execute(statement, rows)


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that are not there yet."""
    upsert(connection, table, rows, update=())
