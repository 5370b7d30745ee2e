"""Blobs in a folder: an upload is a file of its own, and becomes the blob in one rename, once it is on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from incl_registry.blobs import BlobInfo, Place, Upload, no_places
from incl_registry.errors import StorageFullError, WrongOffsetError
from incl_shared.errors import IntegrityError, NotFoundError, UnavailableError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_BLOCK: Final = 1 << 20


class FolderBlobs:
    """Blobs in a folder: sha256/<two characters>/<all>, and partial/<sha256>.<upload>."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._final = folder / "sha256"
        self._partial = folder / "partial"
        for part in (folder, self._final, self._partial):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)

    def size(self, sha256: str) -> int | None:
        """See BlobStore."""
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def missing(self, names: Collection[str]) -> set[str]:
        """See BlobStore."""
        return {name for name in names if self.size(name) is None}

    def touch(self, sha256: str) -> bool:
        """See BlobStore."""
        path = self._path(sha256)
        try:
            with _alone(path.parent):
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def open(self, sha256: str) -> BinaryIO:
        """See BlobStore."""
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"no blob {sha256[:12]} is stored") from None

    def link(self, sha256: str, seconds: float, file: str | None = None) -> str | None:
        """See BlobStore: only the registry can read the folder."""
        return None

    def partial(self, sha256: str, upload: str) -> int:
        """See BlobStore."""
        try:
            return self._partial_path(sha256, upload).stat().st_size
        except FileNotFoundError:
            return 0

    def resume(self, sha256: str, upload: str, offset: int) -> Upload:
        """See BlobStore."""
        return _FolderUpload(self._partial_path(sha256, upload), self._path(sha256), sha256, offset)

    def direct(self) -> bool:
        """See BlobStore."""
        return False

    def places(self, sha256: str, upload: str, size: int, seconds: float) -> list[Place]:
        """See BlobStore."""
        raise no_places()

    def delete(self, sha256: str, touched_before: float) -> bool:
        """See BlobStore."""
        path = self._path(sha256)
        with contextlib.suppress(FileNotFoundError), _alone(path.parent):
            if path.stat().st_mtime < touched_before:
                path.unlink()
                return True
        return False

    def blobs(self) -> Iterator[BlobInfo]:
        """See BlobStore."""
        for folder in sorted(self._final.iterdir()):
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if _SHA256.fullmatch(path.name):
                        found = path.stat()
                        yield BlobInfo(path.name, found.st_size, found.st_mtime)

    def sweep_partials(self, touched_before: float) -> int:
        """See BlobStore."""
        count = 0
        for path in self._partial.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < touched_before:
                    path.unlink()
                    count += 1
        return count

    def free(self) -> int | None:
        """See BlobStore."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def trouble(self) -> tuple[float, str] | None:
        """See BlobStore."""
        return None

    def close(self) -> None:
        """See BlobStore."""

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError("not the name of a blob")
        return self._final / sha256[:2] / sha256

    def _partial_path(self, sha256: str, upload: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{32}", upload):
            raise NotFoundError("not the name of an upload")
        return self._partial / f"{self._path(sha256).name}.{upload}"


class _FolderUpload:
    def __init__(self, partial: Path, final: Path, sha256: str, offset: int) -> None:
        self._partial, self._final, self._sha256 = partial, final, sha256
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with _no_room(None):
            self._handle = os.open(partial, flags, 0o600)
        try:
            self._lock()
            self._still_there()
            self.offset = os.fstat(self._handle).st_size
            self._hash = hashlib.sha256()
            self._catch_up(offset)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError("another request writes this upload", hint="try again in a moment") from None

    def _catch_up(self, offset: int) -> None:
        if self.offset != offset:
            raise WrongOffsetError(self.offset)
        at = 0
        while piece := os.pread(self._handle, _BLOCK, at):
            self._hash.update(piece)
            at += len(piece)
        os.lseek(self._handle, at, os.SEEK_SET)

    def _still_there(self) -> None:
        """Between open and lock another request may have made this very file the blob, which nobody may write."""
        with contextlib.suppress(FileNotFoundError):
            if self._partial.stat().st_ino == os.fstat(self._handle).st_ino:
                return
        raise UnavailableError("another request has just ended this upload", hint="try again in a moment")

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with _no_room(self._partial):
            while view:
                written = os.write(self._handle, view)
                self._hash.update(view[:written])
                self.offset += written
                view = view[written:]

    def finish(self) -> None:
        if self._hash.hexdigest() != self._sha256:
            self._partial.unlink(missing_ok=True)
            raise IntegrityError(
                "the bytes that came are not those of the name",
                cause=f"their sha256 is {self._hash.hexdigest()}",
                hint="see that nothing writes the file, and upload it again",
            )
        with _no_room(self._partial):
            os.fsync(self._handle)
            if not self._final.parent.is_dir():
                self._final.parent.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(self._final.parent.parent)
            now = time.time()
            os.utime(self._handle, (now, now))
            with _alone(self._final.parent):
                self._partial.rename(self._final)
            _sync_folder(self._final.parent)

    def close(self) -> None:
        os.close(self._handle)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Whoever deletes a blob looks at its age and unlinks it; nobody makes it young again between the two."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _no_room(partial: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise StorageFullError(
            "the disk of the artifact store is full",
            cause=error.strerror or "",
            hint="free disk space there; incl doctor shows where",
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
