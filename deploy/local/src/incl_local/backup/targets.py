"""Where a backup is written: a folder of backups that share their artifacts, or one file.

    DIR/blobs/ab/ab12…          artifacts, once for all backups of the folder
    DIR/20261128T031500Z/       one backup: manifest.json, db/, streams/, keys/, settings/, blobs.txt
    FILE.tar                    the same in one file, artifacts as blobs/<sha256>, the manifest last

Nothing has its name before it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from incl_local.backup import files
from incl_local.backup.manifest import NAME, Manifest
from incl_shared.errors import ConflictError, InvalidInput

INCOMPLETE = ".incomplete-"
BLOBS = "blobs"


class Target(Protocol):
    """A backup that is being written."""

    staging: Path
    """Its members are written below this folder, by their names."""

    def put_blob(self, sha256: str, source: Path) -> bool:
        """Keep an artifact, unless it is there. False: its bytes are not those of its name, or it is gone."""
        ...

    def finish(self, manifest: Manifest) -> Path:
        """All of it is written: give it its name."""
        ...


def is_file_target(place: Path) -> bool:
    """Whether a place names a file: it ends like one."""
    return place.suffix == ".tar"


@contextlib.contextmanager
def opened(place: Path) -> Iterator[Target]:
    """A target; whatever is not finished is removed.

    Raises:
        InvalidInput: the place cannot be written.
        ConflictError: it is taken, or another backup writes there.
    """
    try:
        with _file(place) if is_file_target(place) else _folder(place) as target:
            yield target
    except PermissionError as error:
        raise InvalidInput(
            f"{place} cannot be written", cause=error.strerror or "", hint="choose another place"
        ) from error


@contextlib.contextmanager
def _folder(place: Path) -> Iterator[Target]:
    if place.exists() and not place.is_dir():
        raise InvalidInput(f"{place} is no folder", hint="name a folder, or a file that ends in .tar")
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (place / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"another backup writes to {place}", hint="wait for it") from None
        for left in place.glob(f"{INCOMPLETE}*"):
            shutil.rmtree(left)
        target = FolderTarget(place)
        try:
            yield target
        finally:
            shutil.rmtree(target.staging, ignore_errors=True)


@contextlib.contextmanager
def _file(place: Path) -> Iterator[Target]:
    if place.exists():
        raise ConflictError(f"{place} is there already", hint="choose another name, or remove it")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".incl-backup-") as folder:
        target = TarTarget(place, Path(folder))
        try:
            yield target
        finally:
            target.close()


class FolderTarget:
    """See Target."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.staging = place / f"{INCOMPLETE}{os.getpid()}"
        self.staging.mkdir(mode=0o700)

    def put_blob(self, sha256: str, source: Path) -> bool:
        """See Target."""
        path = self._place / BLOBS / sha256[:2] / sha256
        if path.exists():
            return True
        scratch = self.staging / f".{sha256}"
        try:
            with source.open("rb") as file:
                found, _ = files.copy(file, scratch)
        except FileNotFoundError:
            return False
        if found != sha256:
            scratch.unlink()
            return False
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch.rename(path)
        return True

    def finish(self, manifest: Manifest) -> Path:
        """See Target."""
        with files.created(self.staging / NAME) as file:
            file.write(manifest.text())
        files.close_to_others(self.staging)
        files.sync_files(self.staging)
        if (self._place / BLOBS).exists():
            files.sync_folders(self._place / BLOBS)
        stem, number = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(manifest.created)), 1
        name = self._place / stem
        while name.exists():
            number += 1
            name = self._place / f"{stem}-{number}"
        self.staging.rename(name)
        files.sync_folder(self._place)
        return name


class TarTarget:
    """See Target. Artifacts go into the file as they come; the members when all is done."""

    def __init__(self, place: Path, folder: Path) -> None:
        self._place = place
        self.staging = folder / "members"
        self.staging.mkdir(mode=0o700)
        self._scratch = folder / "backup.tar"
        descriptor = os.open(self._scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._blobs: set[str] = set()

    def put_blob(self, sha256: str, source: Path) -> bool:
        """See Target."""
        if sha256 in self._blobs:
            return True
        from incl_local.backup.manifest import sum_of

        try:
            with source.open("rb") as file:
                if sum_of(file)[0] != sha256:
                    return False
                file.seek(0)
                self._add(f"{BLOBS}/{sha256}", file)
        except FileNotFoundError:
            return False
        self._blobs.add(sha256)
        return True

    def _add(self, name: str, file: IO[bytes]) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = os.fstat(file.fileno()).st_size, 0o600
        self._tar.addfile(info, file)

    def finish(self, manifest: Manifest) -> Path:
        """See Target."""
        with files.created(self.staging / NAME) as out:
            out.write(manifest.text())
        for name in (*(member.name for member in manifest.members), NAME):
            with (self.staging / name).open("rb") as file:
                self._add(name, file)
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            os.link(self._scratch, self._place)
        except FileExistsError:
            raise ConflictError(f"{self._place} is there already", hint="choose another name") from None
        files.sync_folder(self._place.parent)
        return self._place

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
