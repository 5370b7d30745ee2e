"""Versions of models on this machine, each once by its content: ~/.cache/incl/models/<manifest>/.

A folder takes its place in one step, whole and checked. Every use looks at every byte again: what is damaged is thrown
away and fetched anew. Beside the files lies `.incl-files.json` with their checksums, also of those that were unpacked
from an archive.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from incl_cli.places import cache_dir
from incl_shared.archive import DIRECTORY_ENDING

if TYPE_CHECKING:
    from incl_cli.platform import Platform, Progress
    from incl_shared.queries.models import ModelFile, VersionView

_SUMS = ".incl-files.json"
_BLOCK = 1 << 20


def root() -> Path:
    """Where they lie."""
    return cache_dir() / "models"


async def local(
    platform: Platform, view: VersionView, files: Sequence[ModelFile], progress: Progress
) -> tuple[Path, bool]:
    """The folder of a version's files, fetched unless it is here and sound; whether it was fetched.

    Raises:
        IntegrityError: what came is not what the version says.
        UnavailableError: the artifact store is away.
    """
    folder = root() / view.manifest
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _held(folder):
        if await asyncio.to_thread(_sound, folder, files):
            return folder, False
        fresh = folder.with_name(f".{view.manifest}.{os.getpid()}")
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        try:
            await _fetch(platform, view, files, fresh, progress)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            fresh.rename(folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
    return folder, True


def path_in(folder: Path, files: Sequence[ModelFile]) -> Path:
    """What a script opens: the file, where there is one alone; the folder else."""
    if len(files) != 1:
        return folder
    return folder / files[0].path.removesuffix(DIRECTORY_ENDING)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Of several who want the same version one fetches it, and the others wait."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def _fetch(
    platform: Platform, view: VersionView, files: Sequence[ModelFile], fresh: Path, progress: Progress
) -> None:
    from incl_cli.platform import Wanted
    from incl_shared.queries.models import ModelGrant

    wanted = [Wanted(file.sha256, file.size, target, file.mode) for file, target in _placed(fresh, files)]
    await platform.download(ModelGrant(model=view.model, number=view.number), wanted, progress)
    await asyncio.to_thread(_unpack, fresh, files)


def _placed(fresh: Path, files: Sequence[ModelFile]) -> list[tuple[ModelFile, Path]]:
    from incl_cli.artifacts import place
    from incl_shared.queries.registry import Entry

    fresh.mkdir(mode=0o700)
    placed = []
    for file in files:
        entry = Entry(kind="output", path=file.path, sha256=file.sha256, size=file.size, mode=file.mode)
        placed.append((file, place(fresh, entry, by_rank=False)))
        placed[-1][1].parent.mkdir(parents=True, exist_ok=True)
    return placed


def _unpack(folder: Path, files: Sequence[ModelFile]) -> None:
    """Directories that were kept as archives become directories; then every file's checksum is noted."""
    from incl_shared.archive.unpack import unpack
    from incl_shared.errors import IntegrityError

    for file in files:
        if _sum(folder / file.path) != file.sha256:
            raise IntegrityError(f"{file.path[:120]} is not what its checksum says", hint="incl model verify")
        if file.path.endswith(DIRECTORY_ENDING):
            unpack(folder / file.path, folder / file.path.removesuffix(DIRECTORY_ENDING), sha256=file.sha256)
    (folder / _SUMS).write_text(json.dumps(_sums(folder)), encoding="utf-8")


def _sound(folder: Path, files: Sequence[ModelFile]) -> bool:
    """Whether every byte is what it was, and nothing was put in or taken out."""
    try:
        noted = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        return bool(all(noted.get(file.path) == file.sha256 for file in files) and noted == _sums(folder))
    except (OSError, ValueError, AttributeError):
        return False


def _sums(folder: Path) -> dict[str, str]:
    """Path -> sha256 of every file below; a link counts by where it leads."""
    found: dict[str, str] = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            if path == folder / _SUMS:
                continue
            listed = path.relative_to(folder).as_posix()
            found[listed] = f"-> {path.readlink()}" if path.is_symlink() else _sum(path)
    return found


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_BLOCK):
            digest.update(piece)
    return digest.hexdigest()
