"""What the fake platform says of snapshots and their disks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from incl_shared.queries.base import Answer
from incl_shared.queries.provisioner import DataDisks, DataDiskView, GetData, PrepareData, RemoveData


class DataAnswers:
    """data: what is said, one after the other; the last one stays."""

    data: Sequence[DataDisks] = ()
    prepared: DataDiskView | None = None

    def data_answers(self) -> dict[type, Callable[[Any], Answer]]:
        """Question -> what answers it."""
        return {
            GetData: lambda _: self._next(),
            RemoveData: lambda _: self._next(),
            PrepareData: lambda _: self.prepared or Answer(),
        }

    def _next(self) -> DataDisks:
        first = self.data[0] if self.data else DataDisks()
        self.data = self.data[1:] or self.data
        return first
