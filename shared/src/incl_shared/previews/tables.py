"""The first rows and columns of a CSV as small JSON. Runs in the worker process only."""

from __future__ import annotations

import csv
import io
import itertools
import json
from typing import IO, Any, Final

MAX_BYTES: Final = 4096
_ROWS: Final = 12
_COLUMNS: Final = 16
_CELL: Final = 48
_COUNTED_BYTES: Final = 64 << 20
"""Rows of a longer table are not counted."""
_FIELD: Final = 1 << 20


def first_rows(source: IO[bytes]) -> dict[str, Any]:
    """format, rows and columns of the table (rows: none when it is too long to be counted), and data (JSON).

    data: {"columns": [name, …], "cells": [[text, …], …], "rows": n, "total_columns": n}, at most 4 KB: cells are cut,
    then rows, then columns.

    Raises:
        Exception: it is no table.
    """
    csv.field_size_limit(_FIELD)
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    lines = csv.reader(io.TextIOWrapper(source, encoding="utf-8", errors="replace", newline=""))
    names = next(lines, [])
    head = [line[:_COLUMNS] for line in itertools.islice(lines, _ROWS)]
    rows = len(head) + sum(1 for _ in lines) if size <= _COUNTED_BYTES else None
    return {"format": "json", "rows": rows, "columns": len(names), "data": _fitting(names, head, rows)}


def _fitting(names: list[str], head: list[list[str]], rows: int | None) -> bytes:
    shown, columns, cell = len(head), min(len(names), _COLUMNS), _CELL
    while True:
        document = {
            "columns": [_cut(name, cell) for name in names[:columns]],
            "cells": [[_cut(text, cell) for text in line[:columns]] for line in head[:shown]],
            "rows": rows,
            "total_columns": len(names),
        }
        data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(data) <= MAX_BYTES:
            return data
        if cell > 16:
            cell //= 2
        elif shown > 4:
            shown -= 1
        elif columns > 1:
            columns -= 1
        else:
            shown, cell = max(0, shown - 1), max(1, cell // 2)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
