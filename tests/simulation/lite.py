"""The provisioner's database in the simulation: its own SQL on SQLite in memory, without SQLAlchemy's way to it.

SQLAlchemy compiles each statement once a process; SQLite runs it. SQLAlchemy's pools, results and events, and files,
are left out: they take half of a schedule's time and have nothing to do with what goes wrong in one. A transaction is
one step of its host, so that one connection serves all processes of a world.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

DIALECT = SQLiteDialect_pysqlite(paramstyle="qmark")
Values = Mapping[str, Any]
_PLAIN = (sa.String, sa.Integer, sa.Float, sa.LargeBinary, sa.types.NullType)
"""Types whose values SQLAlchemy hands to SQLite and back as they are."""
_KEPT = 1024
_NOTHING: Values = {}


class Statement:
    """A statement as SQLite runs it. columns: the names of the parameters that are given."""

    def __init__(self, clause: Any, columns: Sequence[str]) -> None:
        self.clause = clause
        self.writes = not isinstance(clause, sa.Select | sa.TextClause)
        self._compiled = compiled = clause.compile(dialect=DIALECT, column_keys=list(columns))
        self._own = {name: bind.value for bind, name in compiled.bind_names.items() if not bind.required}
        self._several = [name for bind, name in compiled.bind_names.items() if bind.expanding]
        odd = [bind for bind in compiled.bind_names if not isinstance(bind.type, _PLAIN)]
        assert not odd, f"values of these have to be converted: {odd}"
        self._forms: dict[tuple[int, ...], tuple[str, list[tuple[str, int]]]] = {}
        self._text, self._names = str(compiled), tuple(compiled.positiontup or ())
        self.row: Callable[[tuple[Any, ...]], Any] | None = None

    def ready(self, given: Values) -> tuple[str, Sequence[Any]]:
        """(text, values in their order)."""
        values = {**self._own, **given} if self._own else given
        if not self._several:
            return self._text, [values[name] for name in self._names]
        text, places = self._form(values)
        return text, [values[name] if index < 0 else values[name][index] for name, index in places]

    def _form(self, values: Values) -> tuple[str, list[tuple[str, int]]]:
        """Of a statement with lists: its text depends on how long they are."""
        sizes = tuple(len(values[name]) for name in self._several)
        if sizes not in self._forms:
            state = self._compiled.construct_expanded_state(dict(values))
            places = {name: (name, -1) for name in self._names}
            for name, parts in state.parameter_expansion.items():
                places.update({part: (name, index) for index, part in enumerate(parts)})
            self._forms[sizes] = state.statement, [places[name] for name in state.positiontup or ()]
        return self._forms[sizes]


class Result:
    """What of a CursorResult is used."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows, self.rowcount = rows, rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        """Every row."""
        return self._rows

    def first(self) -> Any:
        """The first row, or none."""
        return self._rows[0] if self._rows else None

    def one_or_none(self) -> Any:
        """The only row, or none."""
        assert len(self._rows) < 2
        return self.first()

    def one(self) -> Any:
        """The only row."""
        (row,) = self._rows
        return row

    def scalar(self) -> Any:
        """The first value of the first row."""
        return self._rows[0][0] if self._rows else None

    def scalars(self) -> list[Any]:
        """The first value of each row."""
        return [row[0] for row in self._rows]


class Connection:
    """What of a Connection is used."""

    dialect = DIALECT

    def __init__(self, cursor: sqlite3.Cursor, *, write: bool) -> None:
        self._cursor, self._write = cursor, write
        self._savepoints = itertools.count()

    def execute(self, clause: Any, given: Values | list[Values] = _NOTHING) -> Result:
        """Run a statement."""
        rows = given if isinstance(given, list) else [given]
        statement = _statement(clause, tuple(rows[0]))
        assert self._write or not statement.writes, "a read writes"
        cursor = self._cursor
        try:
            if isinstance(given, list):
                cursor.executemany(statement.ready(rows[0])[0], [statement.ready(each)[1] for each in rows])
            else:
                cursor.execute(*statement.ready(given))
        except sqlite3.Error as error:
            raise sa.exc.DBAPIError.instance(
                str(clause),
                None,
                error,
                sqlite3.Error,
                dialect=DIALECT,
            ) from error
        if cursor.description is None:
            return Result([], cursor.rowcount)
        if statement.row is None:
            statement.row = _row_type(tuple(column[0] for column in cursor.description))
        return Result(list(map(statement.row, cursor)), -1)

    @contextlib.contextmanager
    def begin_nested(self) -> Iterator[None]:
        """A savepoint."""
        name = f"s{next(self._savepoints)}"
        self._cursor.execute(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            self._cursor.execute(f"ROLLBACK TO {name}")
            self._cursor.execute(f"RELEASE {name}")
            raise
        self._cursor.execute(f"RELEASE {name}")


class Lite:
    """A database: a copy of a template (see `sqlite3.Connection.serialize`)."""

    def __init__(self, template: bytes) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
        self._connection.deserialize(template)
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._cursor = self._connection.cursor()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that writes."""
        cursor = self._cursor
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield Connection(cursor, write=True)
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """A transaction that reads."""
        self._cursor.execute("BEGIN")
        try:
            yield Connection(self._cursor, write=False)
        finally:
            self._cursor.execute("ROLLBACK")

    def rows(self, query: str) -> list[sqlite3.Row]:
        """For who looks at it from outside."""
        cursor = self._connection.cursor()
        cursor.row_factory = sqlite3.Row
        return cursor.execute(query).fetchall()

    def close(self) -> None:
        """The end."""
        self._connection.close()


_STATEMENTS: dict[tuple[int, tuple[str, ...]], Statement] = {}


def _statement(clause: Any, columns: tuple[str, ...]) -> Statement:
    """Compiled, for as long as the clause lives; of those that are made anew each time the newest are kept."""
    key = (id(clause), columns)
    found = _STATEMENTS.get(key)
    if found is None:
        if len(_STATEMENTS) >= _KEPT:
            _STATEMENTS.clear()
        found = _STATEMENTS[key] = Statement(clause, columns)
    return found


@functools.cache
def _row_type(names: tuple[str, ...]) -> Callable[[tuple[Any, ...]], Any]:
    made: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]
    make: Callable[[tuple[Any, ...]], Any] = made._make
    return make
