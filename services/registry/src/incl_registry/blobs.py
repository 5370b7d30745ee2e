"""Where the bytes lie: the port. Behind it: a folder (folder.py), a bucket (gcs).

Bytes are named by their sha256. An upload grows in a place that is its own (named by the uploader's id), so that two
uploads of the same bytes never meet; it becomes the blob in one step, after its checksum is right and it is
durable. Everything here blocks: callers use threads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from incl_shared.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One stored blob. `touched`: seconds since the epoch of its last upload or touch."""

    sha256: str
    size: int
    touched: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client sends [offset, offset + size) of a blob by PUT, with these headers, without showing a grant."""

    offset: int
    size: int
    url: str
    headers: Mapping[str, str]


class Upload(Protocol):
    """An upload under way; its caller closes it, whatever happens."""

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        ...

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            StorageFullError: no room; what was uploaded is given up, so that it takes none either.
        """
        ...

    def finish(self) -> None:
        """Check, and make it the blob: durable when this returns.

        Raises:
            IntegrityError: the bytes are not those of the name; the upload is given up.
            StorageFullError: as write.
        """
        ...

    def close(self) -> None:
        """Let go; what is there can be resumed, unless it was finished or given up."""
        ...


class BlobStore(Protocol):
    """Bytes by their sha256 (64 lower-case hexadecimal characters)."""

    def size(self, sha256: str) -> int | None:
        """Bytes of a blob; None when there is none."""
        ...

    def missing(self, names: Collection[str]) -> set[str]:
        """Those of these blobs that are not there."""
        ...

    def touch(self, sha256: str) -> bool:
        """Make a blob young again, for the sweep; False when there is none."""
        ...

    def open(self, sha256: str) -> BinaryIO:
        """A blob to read.

        Raises:
            NotFoundError: there is none.
        """
        ...

    def link(self, sha256: str, seconds: float, file: str | None = None) -> str | None:
        """An address at which anybody reads exactly this blob for so long; None when the store has none to give.

        Args:
            file: the name under which a browser keeps it.
        """
        ...

    def partial(self, sha256: str, upload: str) -> int:
        """Bytes that an upload has brought so far."""
        ...

    def resume(self, sha256: str, upload: str, offset: int) -> Upload:
        """Begin an upload (offset 0) or go on with it.

        Raises:
            WrongOffsetError: it is elsewhere.
            UnavailableError: somebody writes it at this moment.
        """
        ...

    def direct(self) -> bool:
        """Whether clients can be sent to `places`."""
        ...

    def places(self, sha256: str, upload: str, size: int, seconds: float) -> list[Place]:
        """Where bytes of an upload that are missing go without us, some of them, for so long; none: all came, their
        checksum is right, and they are the blob.

        Raises:
            IntegrityError: the bytes are not those of the name; the upload is given up.
            CheckingError: their checksum is being looked at; ask again.
            UnavailableError: the store gives no places (any more), or somebody asks the same at this moment.
        """
        ...

    def delete(self, sha256: str, touched_before: float) -> bool:
        """Delete a blob, unless it was touched since; whether it is gone by this."""
        ...

    def blobs(self) -> Iterator[BlobInfo]:
        """Every blob."""
        ...

    def sweep_partials(self, touched_before: float) -> int:
        """Give up uploads that nothing has come to since; how many."""
        ...

    def free(self) -> int | None:
        """Bytes of room; None when the store does not know."""
        ...

    def trouble(self) -> tuple[float, str] | None:
        """Since when (monotonic seconds) it cannot be used at all, and why; None when it can. Answers at once."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


def no_places() -> UnavailableError:
    """Of a store that takes bytes here alone."""
    return UnavailableError("this store gives no addresses of its own", hint="send the bytes to the artifact store")
