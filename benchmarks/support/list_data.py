"""The runs of support.dataset as rows of the tracker's tables, put there in bulk. Run in a process (support.serve).

SQLite: one transaction without a journal, indexes made afterwards. PostgreSQL: COPY, keys and indexes afterwards. The
rows are those that a run outside the platform leaves once it has ended and settled: its row, its parameters and the
summaries of its metrics. What the tracker makes of them in the background its own upkeep makes, once it runs.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from incl_shared.db import migrate
from support import dataset

PROJECT, USER = "default", "ann"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TEN = [f"{_ALPHABET[place >> 5]}{_ALPHABET[place & 31]}" for place in range(1024)]
_EVERY = 20_000
_TOUCHED = "INSERT INTO hot (experiment, project, stamp) SELECT id, project, 1 FROM experiments"
"""What each change of an experiment leaves behind; the tracker's upkeep takes it as work to do."""
_EXPERIMENT = {
    "known": True, "outside": True, "project": PROJECT, "user": USER, "state": "finished", "reason": "completed",
    "waiting": "", "waits": "[]", "nodes": 1, "gpus": 0, "attempts": 1, "tags": "[]", "declared": "{}", "version": 0,
    "revision": 3, "provenance": "{}", "message": "", "hint": "", "points": 2000, "lines": 0, "epoch": 0, "alerts": 0,
    "settlements": 1,
}  # fmt: skip
_OWN = ("id", "reversed", "name", "queued_at", "created", "started", "ended")
EXPERIMENT = (*_OWN, *_EXPERIMENT)
PARAM = ("experiment", "kind", "name", "text", "number", "attempt", "time")
METRIC = (
    "experiment", "metric", "rank", "points", "last", "last_step", "last_time", "last_attempt", "minimum", "min_step",
    "min_attempt", "maximum", "max_step", "max_attempt",
)  # fmt: skip
_COLUMNS = {"experiments": EXPERIMENT, "params": PARAM, "metrics": METRIC}
Row = tuple[Any, ...]


def identifier(run: dataset.Run) -> str:
    """A ULID of the run's time; its low bits are the number, scattered."""
    value = (int(run.created * 1000) << 80) | ((run.number * 0x9E3779B97F4A7C15F39C) & ((1 << 80) - 1))
    return "".join(_TEN[(value >> shift) & 1023] for shift in range(120, -10, -10))


def load(url: str, count: int) -> float:
    """Migrate an empty database and fill it with `count` runs. Returns seconds."""
    began = time.monotonic()
    migrate(url, "incl_tracker")
    (_load_sqlite if url.startswith("sqlite") else _load_postgres)(url, count)
    return time.monotonic() - began


def _rows(runs: Sequence[dataset.Run]) -> tuple[list[Row], list[Row], list[Row]]:
    """(experiments, params, metrics) as EXPERIMENT, PARAM and METRIC name their columns."""
    constant = tuple(_EXPERIMENT.values())
    experiments, params, metrics = [], [], []
    for run in runs:
        key, begin, end = identifier(run), run.created, run.created + 20.0
        experiments.append((key, key[::-1], f"run-{run.number}", begin, begin, begin, end, *constant))
        for name, text in zip(dataset.PARAMS, run.params, strict=True):
            params.append((key, "config", name, text, _number(text), 0, begin))
        for name, last in zip(dataset.METRICS, run.metrics, strict=True):
            metrics.append((key, name, 0, 100, last, 99, end, 1, last * 0.5, 3, 1, last + 0.5, 7, 1))
    return experiments, params, metrics


def _number(text: str) -> float | None:
    return float(text) if text[0].isdigit() else None


def _batches(count: int) -> Iterator[list[dataset.Run]]:
    batch, began = [], time.monotonic()
    for run in dataset.runs(count):
        batch.append(run)
        if len(batch) == _EVERY:
            yield batch
            batch = []
            _tell(f"{run.number + 1} of {count} runs, {time.monotonic() - began:.0f} s")
    if batch:
        yield batch


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _load_sqlite(url: str, count: int) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-1000000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    names = ",".join(f"'{name}'" for name in _COLUMNS)
    indexes = connection.execute(
        f"SELECT name, sql FROM sqlite_master WHERE type='index' AND sql IS NOT NULL AND tbl_name IN ({names})"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    connection.execute("BEGIN")
    statements = [
        f"INSERT INTO {table} ({_quoted(columns)}) VALUES ({','.join('?' * len(columns))})"
        for table, columns in _COLUMNS.items()
    ]
    for batch in _batches(count):
        for statement, rows in zip(statements, _rows(batch), strict=True):
            connection.executemany(statement, rows)
    connection.executemany("INSERT INTO known_metrics VALUES (?, ?)", [(PROJECT, name) for name in dataset.METRICS])
    connection.execute(_TOUCHED)
    connection.execute("COMMIT")
    for name, made in indexes:
        _tell(f"index {name}")
        connection.execute(made)
    connection.close()
    again = sqlite3.connect(url.removeprefix("sqlite:///"))
    again.execute("PRAGMA journal_mode=WAL").fetchall()
    again.close()


def _quoted(columns: Sequence[str]) -> str:
    return ",".join(f'"{name}"' for name in columns)


def _load_postgres(url: str, count: int) -> None:
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '512MB'")
        made = [done for table in _COLUMNS for done in _without_indexes(connection, table)]
        copies = [f"COPY {t} ({_quoted(columns)}) FROM STDIN" for t, columns in _COLUMNS.items()]
        for batch in _batches(count):
            for statement, rows in zip(copies, _rows(batch), strict=True):
                with connection.cursor().copy(statement) as copy:
                    copy.write("".join("\t".join(map(_text, row)) + "\n" for row in rows))
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO known_metrics VALUES (%s, %s)", [(PROJECT, n) for n in dataset.METRICS])
        connection.execute(_TOUCHED)
        for statement in made:
            _tell(statement[:90])
            connection.execute(statement)  # type: ignore[call-overload]
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _text(value: Any) -> str:
    if value is None:
        return "\\N"
    return repr(value) if isinstance(value, float) else str(value)


def _without_indexes(connection: psycopg.Connection[Any], table: str) -> list[str]:
    """Drop the indexes and the key of a table. Returns the statements that make them again."""
    again = []
    query = (
        "SELECT i.relname, pg_get_indexdef(i.oid), c.conname, pg_get_constraintdef(c.oid) FROM pg_index x "
        "JOIN pg_class i ON i.oid = x.indexrelid LEFT JOIN pg_constraint c ON c.conindid = i.oid "
        "WHERE x.indrelid = %s::regclass"
    )
    for name, index, constraint, definition in connection.execute(query, (table,)).fetchall():
        if constraint is None:
            connection.execute(f'DROP INDEX "{name}"')  # type: ignore[call-overload]
            again.append(index)
        else:
            connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{constraint}"')  # type: ignore[call-overload]
            again.append(f'ALTER TABLE {table} ADD CONSTRAINT "{constraint}" {definition}')
    return again
