"""A blob in a bucket as a file to read: ranges as they are needed, never the whole of it in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from incl_registry.gcs.bucket import Bucket, Missing, Stat
from incl_shared.errors import NotFoundError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

AHEAD: Final = 4 << 20
"""Bytes that one request fetches."""


class _Ranges(io.RawIOBase):
    def __init__(self, bucket: Bucket, stat: Stat) -> None:
        self._bucket, self._stat, self._at = bucket, stat, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stat.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._fetch(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        pieces = []
        while piece := self._fetch(AHEAD):
            pieces.append(piece)
        return b"".join(pieces)

    def _fetch(self, count: int) -> bytes:
        end = min(self._at + count, self._stat.size)
        try:
            data = self._bucket.read(self._stat, self._at, end)
        except Missing as error:
            raise NotFoundError("the blob was deleted while it was read") from error
        self._at += len(data)
        return data


def opened(bucket: Bucket, stat: Stat) -> BinaryIO:
    """This very generation, to read and to seek in; a request fetches a few megabytes."""
    return cast("BinaryIO", io.BufferedReader(_Ranges(bucket, stat), AHEAD))
