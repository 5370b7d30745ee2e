"""A client of the artifact store: files go up and come down by their sha256, over HTTP, with a grant.

It blocks; asynchronous callers use a thread (`asyncio.to_thread`). One client serves many threads.
The protocol is in docs/mechanisms/artifacts.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Protocol, TypeVar

from incl_shared.artifacts_direct import parts_of, reader, send
from incl_shared.artifacts_http import TRANSIENT, Door, Places, StoreFullError, error_of, limited, unreachable
from incl_shared.errors import DeniedError, InclError, IntegrityError, InvalidInput, UnavailableError
from incl_shared.queries.registry import Grant

UPLOAD_OFFSET: Final = "Upload-Offset"
CHECKED: Final = "Upload-Checked"
DIRECT: Final = "Incl-Direct"
FOLLOWS: Final = {"Incl-Follows": "yes"}
"""We go where the store sends us: to a signed address of the blob in its bucket."""
_BLOCK: Final = 1 << 20
_REFUSALS: Final = 2
"""So often a signed address may lead nowhere; then the store itself is asked for the bytes."""
_TOLD_AT: Final = 2
_TOLD_AFTER_S: Final = 2.0
"""A third try in a row that leads nowhere is told, or one that took long: what heals at once is nobody's business."""
_T = TypeVar("_T")
_A = TypeVar("_A")


class Digest(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes, /) -> None:
        """More bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to download: where it goes, and with which mode."""

    sha256: str
    destination: Path
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class _There:
    """What the store has of an upload. direct: it gives addresses of its bucket for the rest."""

    offset: int
    direct: bool


class _Again(Exception):  # noqa: N818
    """Try again: what went wrong, and whether this try brought the work further."""

    def __init__(self, error: InclError, progress: bool) -> None:
        super().__init__(error)
        self.error = error
        self.progress = progress


class ArtifactClient:
    """Puts and gets blobs.

    Args:
        grant: the door; an UploadGrant's to put, a DownloadGrant's to get.
        renew: asked for a new grant when this one is no longer accepted; called from the thread that found out.
        patience_s: how long to go on without any progress while the store is away.
        timeout_s: of one network step.
        waiting: told why nothing moves, once for each time that it is waited; called from the thread that waits.
    """

    def __init__(
        self,
        grant: Grant,
        *,
        renew: Callable[[], Grant] | None = None,
        patience_s: float = 60.0,
        timeout_s: float = 30.0,
        waiting: Callable[[InclError], None] | None = None,
    ) -> None:
        self._grant = grant
        self._renew = renew
        self._patience = patience_s
        self._waiting = waiting
        self._timeout = timeout_s
        self._door = Door(grant.url, timeout_s)
        self._places = Places(grant.url, timeout_s)
        self._upload = os.urandom(16).hex()

    def __enter__(self) -> ArtifactClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. What other threads are doing ends at once, with an error."""
        self._door.close()
        self._places.close()

    def put_file(self, path: Path, *, sha256: str | None = None) -> Blob:
        """Store a file; when the project has these bytes already, none are sent.

        Args:
            path: a regular file; it must hold still meanwhile.
            sha256: its checksum, where the caller knows it.

        Raises:
            InvalidInput: it cannot be read.
            IntegrityError: it changed while it was sent.
            DeniedError: the grant is expired, or for something else.
            UnavailableError: the store is away for longer than the patience, or its disk is full.
        """
        for last in (False, True):
            try:
                with path.open("rb") as source:
                    digest = sha256 or _digest(source)
                    return self._put(source, Blob(digest, os.fstat(source.fileno()).st_size))
            except IntegrityError:
                if last:
                    raise
                sha256 = None
            except OSError as error:
                raise InvalidInput(f"cannot read {path}", cause=error.strerror or str(error)) from error
        raise AssertionError("unreachable")

    def put_bytes(self, data: bytes) -> Blob:
        """Store bytes; as put_file."""
        import io

        return self._put(io.BytesIO(data), Blob(hashlib.sha256(data).hexdigest(), len(data)))

    def has(self, blob: Blob) -> bool:
        """Whether the project has these bytes; they then count as this experiment's too."""
        return self._retry(lambda: self._offset(blob)) is None

    def put_many(self, paths: Iterable[Path], workers: int = 4) -> list[Blob]:
        """Store files, several at a time; blobs in the order of the paths. The first error ends it."""
        return _in_threads(self.put_file, list(paths), workers)

    def get(self, sha256: str, destination: Path, *, mode: int = 0o644) -> int:
        """Download a blob; the destination is replaced in one step once the checksum is right.

        Returns:
            The bytes of it.

        Raises:
            NotFoundError: no such blob.
            IntegrityError: what came is not what its name says.
            DeniedError, UnavailableError: as put_file.
            InclError: the destination cannot be written.
        """
        destination = Path(destination)
        partial = destination.with_name(f".{sha256[:16]}.{os.urandom(4).hex()}.part")
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as out:
                size = self._get(sha256, out)
            partial.chmod(mode & 0o777)
            partial.replace(destination)
        except OSError as error:
            raise InclError(
                f"cannot write {destination}",
                cause=error.strerror or str(error),
                hint="see that the disk has room and the directory can be written",
            ) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return size

    def get_bytes(self, sha256: str) -> bytes:
        """Download a small blob into memory; as get."""
        import io

        out = io.BytesIO()
        self._get(sha256, out)
        return out.getvalue()

    def get_many(self, wanted: Iterable[Wanted], workers: int = 4) -> int:
        """Download files, several at a time; the bytes of all. The first error ends it."""
        return sum(_in_threads(lambda one: self.get(one.sha256, one.destination, mode=one.mode), list(wanted), workers))

    def _put(self, source: IO[bytes], blob: Blob) -> Blob:
        sent = refusals = 0

        def once() -> Blob:
            nonlocal sent, refusals
            there = self._offset(blob)
            if there is None:
                return blob
            if there.direct and refusals < _REFUSALS:
                try:
                    return self._direct(source, blob)
                except _Again as again:
                    refusals = 0 if again.progress else refusals + 1
                    raise
            progress, sent = there.offset > sent, max(there.offset, sent)
            try:
                return self._send(source, blob, there.offset)
            except StoreFullError:
                raise
            except (*TRANSIENT, UnavailableError) as error:
                raise _Again(self._as_error(error), progress) from error

        return self._retry(once)

    def _offset(self, blob: Blob) -> _There | None:
        """What the store has of this upload; None when it has the blob."""
        what = f"storing {blob.sha256[:12]}"
        path = f"/blobs/{blob.sha256}?upload={self._upload}&size={blob.size}"
        with self._door.exchange("HEAD", path, self._headers()) as response:
            response.read()
            if response.status == 200:
                return None
            if response.status == 404 and response.getheader(UPLOAD_OFFSET) is not None:
                offset = int(response.getheader(UPLOAD_OFFSET, "0"))
                return _There(offset, direct=response.getheader(DIRECT) == "yes" and not offset)
            raise error_of(response, what)

    def _direct(self, source: IO[bytes], blob: Blob) -> Blob:
        """Send it to the bucket, part by part, until the store has looked at all of it.

        Raises:
            _Again: the bucket or the store does not answer as it should.
        """
        read, moved, checked = reader(source), False, 0
        path = f"/blobs/{blob.sha256}?upload={self._upload}&size={blob.size}"
        while True:
            try:
                with self._door.exchange("POST", path, self._headers() | {"Content-Length": "0"}) as response:
                    if response.status == 201:
                        response.read()
                        return blob
                    if response.status != 200:
                        error, before = error_of(response, f"storing {blob.sha256[:12]}"), checked
                        checked = int(response.getheader(CHECKED, "0"))
                        if checked > before:
                            continue
                        raise error
                    parts = parts_of(response, blob.size)
                sent, failure = send(self._places, parts, read)
            except StoreFullError:
                raise
            except (*TRANSIENT, UnavailableError) as error:
                raise _Again(self._as_error(error), moved or checked > 0) from error
            moved = moved or sent > 0
            if failure is not None:
                raise _Again(self._as_error(failure), moved) from failure

    def _send(self, source: IO[bytes], blob: Blob, offset: int) -> Blob:
        source.seek(offset)
        left = blob.size - offset
        headers = self._headers() | {"Content-Length": str(left), "Content-Type": "application/octet-stream"}
        path = f"/blobs/{blob.sha256}?upload={self._upload}&size={blob.size}&offset={offset}"
        with self._door.exchange("PUT", path, headers, limited(source, left)) as response:
            if response.status in (200, 201):
                response.read()
                return blob
            raise error_of(response, f"storing {blob.sha256[:12]}")

    def _get(self, sha256: str, out: IO[bytes]) -> int:
        digest = hashlib.sha256()
        refusals = 0

        def once() -> int:
            nonlocal refusals
            at = out.tell()
            wanted = {"Range": f"bytes={at}-"} if at else {}
            sent = False
            try:
                headers = self._headers() | wanted | (FOLLOWS if refusals < _REFUSALS else {})
                with self._door.exchange("GET", f"/blobs/{sha256}", headers) as response:
                    sent = response.status == 307
                    if not sent:
                        _take(response, out, digest, sha256)
                    else:
                        address = response.getheader("Location", "")
                        response.read()
                if sent:
                    with self._places.get(address, wanted) as response:
                        _take(response, out, digest, sha256)
            except (*TRANSIENT, UnavailableError) as error:
                progress = out.tell() > at
                refusals = 0 if progress else refusals + sent
                raise _Again(self._as_error(error), progress) from error
            return out.tell()

        size = self._retry(once)
        if digest.hexdigest() != sha256:
            raise IntegrityError(
                f"the bytes of {sha256[:12]} are not what they were when they were stored",
                cause=f"their sha256 is {digest.hexdigest()}",
                hint="try again; should it stay so, the store's disk is damaged (incl doctor)",
            )
        return size

    def _retry(self, once: Callable[[], _T]) -> _T:
        """Until it works, is refused, or nothing moves for longer than the patience."""
        began = time.monotonic()
        deadline, tries, renewed, told = began + self._patience, 0, False, False
        while True:
            try:
                return once()
            except _Again as again:
                error = again.error
                if again.progress:
                    deadline, tries, renewed, told = time.monotonic() + self._patience, 0, False, False
            except DeniedError:
                if self._renew is None or renewed:
                    raise
                self._grant, renewed = self._renew(), True
                continue
            except StoreFullError:
                raise
            except (*TRANSIENT, UnavailableError) as caught:
                error = self._as_error(caught)
            if (
                self._waiting is not None
                and not told
                and (tries >= _TOLD_AT or time.monotonic() > began + _TOLD_AFTER_S)
            ):
                told = True
                self._waiting(error)
            pause = min(5.0, 0.05 * 2**tries) * random.uniform(0.5, 1.0) if tries else 0.0  # noqa: S311
            tries += 1
            if time.monotonic() + pause > deadline or self._door.closed.wait(pause):
                raise error

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._grant.token}"}

    def _as_error(self, error: BaseException) -> InclError:
        return error if isinstance(error, InclError) else unreachable(self._door.url, error)


class _LocalWriteError(InclError):
    """Our own disk, not the connection."""


def _take(response: HTTPResponse, out: IO[bytes], digest: Digest, sha256: str) -> None:
    """The rest of a blob, from where `out` is."""
    at = out.tell()
    if response.status != (206 if at else 200):
        raise error_of(response, f"reading {sha256[:12]}")
    if response.length is None or not _goes_on(response.getheader("Content-Range"), at):
        raise ConnectionResetError("the connection was cut within the answer's head")
    while piece := response.read(_BLOCK):
        digest.update(piece)
        _write(out, piece)
    if response.length:
        raise ConnectionResetError("the connection was cut")


def _goes_on(content_range: str | None, at: int) -> bool:
    """Whether an answer begins at this byte."""
    return not at or (content_range or "").startswith(f"bytes {at}-")


def _write(out: IO[bytes], piece: bytes) -> None:
    try:
        out.write(piece)
    except OSError as error:
        raise _LocalWriteError(
            "cannot write the download",
            cause=error.strerror or str(error),
            hint="see that the disk has room",
        ) from error


def _digest(source: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := source.read(_BLOCK):
        digest.update(piece)
    return digest.hexdigest()


def _in_threads(work: Callable[[_A], _T], items: list[_A], workers: int) -> list[_T]:
    if len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(workers, len(items)), "incl-artifacts") as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
