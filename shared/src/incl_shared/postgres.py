"""The cursor that PostgreSQL connections of `incl_shared.db` use. Imported only where there is a PostgreSQL."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import Format
from psycopg.rows import TupleRow


class BinaryCursor(psycopg.Cursor[TupleRow]):
    """Asks for results in binary: blobs come as they are, where text would be twice their size and has to be read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.format = Format.BINARY
