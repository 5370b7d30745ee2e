"""The statements that run for every batch of telemetry: their text is made once, their rows are plain tuples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa


class Insert:
    """INSERT of some columns of a table; of rows that are there (by primary key), the other columns are set anew."""

    def __init__(self, table: sa.Table, *columns: str, replace: bool = False, keep: bool = False) -> None:
        names = columns or tuple(column.name for column in table.columns)
        marks = ", ".join("?" * len(names))
        self._text = f"INSERT INTO {_quoted(table.name)} ({', '.join(map(_quoted, names))}) VALUES ({marks})"  # noqa: S608
        keys = [column.name for column in table.primary_key]
        if replace:
            sets = ", ".join(f"{_quoted(n)} = excluded.{_quoted(n)}" for n in names if n not in keys)
            self._text += f" ON CONFLICT ({', '.join(map(_quoted, keys))}) DO UPDATE SET {sets}"
        elif keep:
            self._text += " ON CONFLICT DO NOTHING"

    def run(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run it for each row."""
        run(connection, self._text, rows)


class Update:
    """UPDATE of one row by its key. sets: SQL of what is set, with ? for each value; the key's value comes last."""

    def __init__(self, table: sa.Table, sets: str, *keys: str) -> None:
        where = " AND ".join(f"{_quoted(key)} = ?" for key in keys)
        self._text = f"UPDATE {_quoted(table.name)} SET {sets} WHERE {where}"  # noqa: S608

    def run(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run it for each row."""
        run(connection, self._text, rows)


def run(connection: sa.Connection, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run a statement, written with ?, for each row."""
    if rows:
        connection.exec_driver_sql(_spelled(text, connection.dialect.paramstyle), list(rows))


@cache
def _spelled(text: str, style: str) -> str:
    return text if style == "qmark" else text.replace("?", "%s")


def _quoted(name: str) -> str:
    return f'"{name}"'
