"""The files of a model that a script registered: each is stored by itself, so that a version lists what it has."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from incl_agent.holding import hold
from incl_shared.archive.beneath import open_beneath
from incl_shared.errors import InvalidInput
from incl_shared.queries.models import MOST_FILES
from incl_shared.queries.registry import Entry
from incl_shared.queries.tracker import GetWatermarks
from incl_shared.tasks import gather
from incl_shared.telemetry.models import KIND
from incl_shared.telemetry.spool import SpooledFile

if TYPE_CHECKING:
    from incl_agent.blobs import JobStore
    from incl_agent.life import JobLife

_AT_ONCE = 4
_LOOKS = 20
_LOOK_S = 0.25
Listed = Callable[..., Entry]


class ModelFiles:
    """Stores what a record names."""

    def __init__(self, store: JobStore, life: JobLife) -> None:
        self._store = store
        self._life = life

    async def store(self, file: SpooledFile, listed: Listed) -> list[Entry]:
        """Upload the file, or every file below the directory; what to list.

        Raises:
            InvalidInput: it is gone, there is none, or there are too many.
        """
        held = hold(file.path, self._life.files.spool)
        if held is None:
            raise InvalidInput("its files are gone from the spool")
        try:
            if not stat.S_ISDIR(os.fstat(held).st_mode):
                return [await self._one(held, file.listed_as, listed)]
            names = await asyncio.to_thread(_below, held)
            if not names:
                raise InvalidInput("there are no files in the folder")
            gate = asyncio.Semaphore(_AT_ONCE)

            async def one(name: bytes) -> Entry:
                async with gate:
                    opened = open_beneath(held, name)
                    try:
                        shown = name.decode("utf-8", "backslashreplace")
                        return await self._one(opened, f"{file.listed_as}/{shown}", listed)
                    finally:
                        os.close(opened)

            return await gather(*(one(name) for name in names))
        except OSError as error:
            raise InvalidInput("its folder changed while it was stored", cause=error.strerror or str(error)) from error
        finally:
            os.close(held)

    async def _one(self, held: int, path: str, listed: Listed) -> Entry:
        status = os.fstat(held)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{path[:200]!r} is not a regular file")
        if len(path) > 2048:
            raise InvalidInput(f"the name {path[:80]!r}... is too long")
        blob = await self._store.upload(Path(f"/proc/self/fd/{held}"))
        return listed(KIND, path, blob.sha256, blob.size, mode=stat.S_IMODE(status.st_mode) & 0o777)

    async def until_measured(self, file: SpooledFile) -> None:
        """Until the tracker has what was logged before the model was registered, for a few seconds at most: the
        version's record has the metrics as they were."""
        wanted = self._life.wanted
        query = GetWatermarks(experiment=wanted.experiment, attempt=wanted.attempt, rank=wanted.rank)
        for _ in range(_LOOKS):
            stored = (await self._life.link.ask(query)).stored
            if stored.get(f"metrics/{file.writer}", 0) >= file.sequence:
                return
            await asyncio.sleep(_LOOK_S)


def _below(directory: int) -> list[bytes]:
    """Every regular file below a directory, by its path; links are not followed.

    Raises:
        InvalidInput: there are too many.
    """
    found: list[bytes] = []
    for base, _, names, at in os.fwalk(b".", dir_fd=directory, follow_symlinks=False):
        found += (
            os.path.normpath(os.path.join(base, name))  # noqa: PTH118
            for name in names
            if stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
        )
        if len(found) > MOST_FILES:
            raise InvalidInput(f"more than {MOST_FILES:,} files are too many for a version of a model")
    return sorted(found)
