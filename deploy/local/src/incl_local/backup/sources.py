"""Reading a backup: every byte is compared with the manifest before anything is made of it.

Nothing is unpacked by the names in an archive: a name is either one that a backup may have, and then we know where it
goes, or the whole backup is refused.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from incl_local.backup import files
from incl_local.backup import manifest as m
from incl_local.backup.manifest import Manifest
from incl_local.backup.targets import BLOBS
from incl_shared.errors import IntegrityError, NotFoundError


class Source(Protocol):
    """A backup to read."""

    place: Path
    manifest: Manifest

    def unpack(self, folder: Path) -> None:
        """Write its members below a folder, each compared with the manifest.

        Raises:
            IntegrityError: one is damaged, missing, or none that a backup may have.
        """
        ...

    def blobs(self, wanted: dict[str, int]) -> Iterator[tuple[str, BinaryIO]]:
        """Its artifacts, of those that are wanted (sha256 -> bytes), in an order of its own."""
        ...


@contextlib.contextmanager
def opened(place: Path) -> Iterator[Source]:
    """A backup: a file, the folder of one, or a folder of several, of which it is the newest.

    Raises:
        NotFoundError: there is none.
        IntegrityError, UnsupportedError: see read_manifest.
    """
    if place.is_file():
        with _tar(place) as source:
            yield source
        return
    if not (place / m.NAME).is_file():
        found = sorted(path.parent for path in place.glob(f"*/{m.NAME}") if not path.parent.name.startswith("."))
        if not found:
            raise NotFoundError(
                f"there is no backup in {place}", hint="name a folder of backups, one of them, or a .tar"
            )
        place = found[-1]
    yield FolderSource(place)


class FolderSource:
    """See Source."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with _open(place, m.NAME) as file:
            self.manifest = m.read_manifest(file.read(m.MAX_MANIFEST))

    def unpack(self, folder: Path) -> None:
        """See Source."""
        for member in self.manifest.members:
            try:
                with _open(self.place, member.name) as file:
                    found = files.copy(file, folder / member.name, limit=member.size)
            except OSError as error:
                raise _unreadable(member.name, error) from error
            _compare(member.name, found, (member.sha256, member.size))

    def blobs(self, wanted: dict[str, int]) -> Iterator[tuple[str, BinaryIO]]:
        """See Source."""
        for sha256 in sorted(wanted):
            try:
                with _open(self.place.parent, f"{BLOBS}/{sha256[:2]}/{sha256}") as file:
                    yield sha256, file
            except OSError as error:
                raise _unreadable(f"the artifact {sha256[:12]}", error) from error


class TarSource:
    """See Source. The manifest is the last entry; entries are looked up, never unpacked by their own names."""

    def __init__(self, place: Path, tar: tarfile.TarFile) -> None:
        self.place = place
        self._tar = tar
        self._entries: dict[str, tarfile.TarInfo] = {}
        try:
            for entry in tar:
                if not entry.isreg() or entry.issparse() or entry.name in self._entries:
                    raise IntegrityError(f"{place} is no backup", cause=f"it has {entry.name[:100]!r}")
                self._entries[entry.name] = entry
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise IntegrityError(f"{place} is damaged", cause=str(error), hint="use another backup") from error
        with self._open(m.NAME) as file:
            self.manifest = m.read_manifest(file.read(m.MAX_MANIFEST))
        for name in self._entries:
            if name != m.NAME and not m.is_member(name) and not m.is_blob(name.removeprefix(f"{BLOBS}/")):
                raise IntegrityError(f"{place} is no backup", cause=f"it has {name[:100]!r}")

    def _open(self, name: str) -> BinaryIO:
        entry = self._entries.get(name)
        file = self._tar.extractfile(entry) if entry is not None else None
        if file is None:
            raise IntegrityError(f"the backup {self.place} is not whole", cause=f"{name} is missing")
        return cast("BinaryIO", file)

    def unpack(self, folder: Path) -> None:
        """See Source."""
        for member in self.manifest.members:
            try:
                with self._open(member.name) as file:
                    found = files.copy(file, folder / member.name, limit=member.size)
            except (tarfile.TarError, EOFError) as error:
                raise _unreadable(member.name, error) from error
            _compare(member.name, found, (member.sha256, member.size))

    def blobs(self, wanted: dict[str, int]) -> Iterator[tuple[str, BinaryIO]]:
        """See Source."""
        for sha256 in sorted(wanted, key=self._at):
            with self._open(f"{BLOBS}/{sha256}") as file:
                yield sha256, file

    def _at(self, sha256: str) -> int:
        entry = self._entries.get(f"{BLOBS}/{sha256}")
        return entry.offset if entry is not None else -1


@contextlib.contextmanager
def _tar(place: Path) -> Iterator[Source]:
    try:
        tar = tarfile.open(place, mode="r:")  # noqa: SIM115
    except (tarfile.TarError, EOFError, OSError) as error:
        raise IntegrityError(
            f"{place} is no backup, or damaged", cause=str(error), hint="use another backup"
        ) from error
    with tar:
        yield TarSource(place, tar)


def verify(source: Source, *, scratch: Path | None = None) -> int:
    """Compare everything with the manifest. Returns how many bytes were read.

    Raises:
        IntegrityError: something is damaged or missing.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="incl-verify-") as name:
        folder = Path(name)
        source.unpack(folder)
        size = sum(member.size for member in source.manifest.members)
        if source.manifest.artifacts:
            wanted = m.read_blobs(folder / m.BLOBS)
            for sha256, file in source.blobs(wanted):
                _compare(f"the artifact {sha256[:12]}", m.sum_of(file, wanted[sha256]), (sha256, wanted[sha256]))
                size += wanted[sha256]
    return size


def _open(root: Path, name: str) -> BinaryIO:
    """A regular file below a folder; a link in its place is refused."""
    path = root / name
    if path.parent.resolve() != (root.resolve() / name).parent:
        raise IntegrityError(f"{path} is no part of a backup", cause="a folder of it is a link")
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _compare(name: str, found: tuple[str, int], wanted: tuple[str, int]) -> None:
    if found != wanted:
        raise IntegrityError(
            f"{name} of the backup is damaged",
            cause=f"{found[1]} bytes with checksum {found[0][:12]}…, it should be {wanted[1]} with {wanted[0][:12]}…",
            hint="use another backup",
        )


def _unreadable(name: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"{name} of the backup cannot be read", cause=str(error), hint="use another backup")
