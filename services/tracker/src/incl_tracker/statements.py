"""The statements that run for every batch of telemetry: their text is made once, their rows are plain tuples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

_KINDS: tuple[tuple[type[sa.types.TypeEngine[Any]], str], ...] = (
    (sa.Boolean, "boolean"),
    (sa.Integer, "bigint"),
    (sa.Float, "float8"),
    (sa.LargeBinary, "bytea"),
    (sa.String, "text"),
)


class Insert:
    """INSERT of some columns of a table; of rows that are there (by primary key), the other columns are set anew."""

    def __init__(self, table: sa.Table, *columns: str, replace: bool = False, keep: bool = False) -> None:
        names = columns or tuple(column.name for column in table.columns)
        into = f"INSERT INTO {_quoted(table.name)} ({', '.join(map(_quoted, names))})"
        marks = ", ".join("?" * len(names))
        self._kinds = kinds = [_kind(table.c[name]) for name in names]
        arrays = ", ".join(f"%s::{kind}[]" for kind in kinds)
        conflict = ""
        keys = [column.name for column in table.primary_key]
        if replace:
            sets = ", ".join(f"{_quoted(n)} = excluded.{_quoted(n)}" for n in names if n not in keys)
            conflict = f" ON CONFLICT ({', '.join(map(_quoted, keys))}) DO UPDATE SET {sets}"
        elif keep:
            conflict = " ON CONFLICT DO NOTHING"
        self._text = f"{into} VALUES ({marks}){conflict}"
        self._at_once = "" if "bytea" in kinds else f"{into} SELECT * FROM unnest({arrays}){conflict}"  # noqa: S608

    def run(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run it for each row; PostgreSQL gets small rows in one statement, a list for each column."""
        if self._at_once and len(rows) > 1 and connection.dialect.name == "postgresql":
            lists = zip(self._kinds, zip(*rows, strict=True), strict=True)
            connection.exec_driver_sql(self._at_once, tuple(_list(kind, values) for kind, values in lists))
        else:
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
        connection.exec_driver_sql(spelled(text, connection.dialect.paramstyle), list(rows))


@cache
def spelled(text: str, style: str) -> str:
    """The statement as the driver wants it."""
    return text if style == "qmark" else text.replace("?", "%s")


def _kind(column: sa.Column[Any]) -> str:
    """The type of a column as PostgreSQL reads a list of its values."""
    for kind, name in _KINDS:
        if isinstance(column.type, kind):
            return name
    raise TypeError(f"{column} is of no type that telemetry has")


def _list(kind: str, values: Iterable[Any]) -> str:
    """A list of values as PostgreSQL writes it: the driver's own way takes several times longer."""
    if kind != "text":
        return "{" + ",".join(["NULL" if value is None else repr(value) for value in values]) + "}"
    texts = ["NULL" if v is None else '"' + v.replace("\\", r"\\").replace('"', r"\"") + '"' for v in values]
    return "{" + ",".join(texts) + "}"


def _quoted(name: str) -> str:
    return f'"{name}"'
