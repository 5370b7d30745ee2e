"""The node's cache of blobs (code archives, checkpoints), by sha256 and bounded; and a job's door to the store."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from incl_agent.link import JobLink
from incl_shared.artifacts import ArtifactClient, Blob
from incl_shared.control import JobWanted
from incl_shared.queries.registry import CommitArtifacts, DownloadGrant, Entry, Grant, UploadGrant

_log = logging.getLogger("incl.agent")
_COMMIT = 500
_STEP_S = 20.0
_AT_ONCE = 4

Fetch = Callable[[Path], Awaitable[object]]


class BlobCache:
    """Files named by their sha256. What was used longest ago goes first; a file that is being read may go too, as its
    reader holds it open."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, sha256: str, fetch: Fetch) -> Path:
        """The blob's path; fetched when it is not here. Several who want it wait for one fetch."""
        path = self._folder / sha256
        async with self._locks.setdefault(sha256, asyncio.Lock()):
            if not path.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                await fetch(path)
                await asyncio.to_thread(self._trim, path)
            else:
                os.utime(path)
        self._locks.pop(sha256, None)
        return path

    def forget(self, sha256: str) -> None:
        """Drop a blob that turned out to be damaged."""
        (self._folder / sha256).unlink(missing_ok=True)

    def _trim(self, keep: Path) -> None:
        found = [(entry.stat(), Path(entry.path)) for entry in os.scandir(self._folder) if entry.is_file()]
        total = sum(stat.st_size for stat, _ in found)
        for stat, path in sorted(found, key=lambda item: item[0].st_mtime):
            if total <= self._limit:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= stat.st_size


class JobStore:
    """What a job may read from the artifact store and write to it.

    Transfers wait for the store in threads of their own. The default threads of the loop are few, and where all
    services share a process the store answers in them: transfers there would wait for themselves.
    """

    def __init__(self, link: JobLink, job: JobWanted, patience_s: float) -> None:
        self._link = link
        self._job = job
        self._patience_s = patience_s
        self._up: ArtifactClient | None = None
        self._down: ArtifactClient | None = None
        self._opening = asyncio.Lock()
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="incl-transfer")

    async def download(self, sha256: str, destination: Path) -> None:
        """Fetch a blob, checked."""
        async with self._opening:
            if self._down is None:
                grant = await self._link.ask(DownloadGrant(experiment=self._job.experiment))
                self._down = self._open(grant, self._renew_down)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._down.get, sha256, destination)

    async def upload(self, path: Path) -> Blob:
        """Store a file's bytes (not sent when the project has them)."""
        async with self._opening:
            if self._up is None:
                grant = await self._link.ask(UploadGrant(experiment=self._job.experiment))
                self._up = self._open(grant, self._renew_up)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._up.put_file, path)

    async def commit(self, entries: list[Entry]) -> None:
        """List stored blobs as files of the experiment; repeated it changes nothing."""
        for at in range(0, len(entries), _COMMIT):
            part = tuple(entries[at : at + _COMMIT])
            listing = CommitArtifacts(
                experiment=self._job.experiment, entries=part, keep=self._job.spec.keep_checkpoints
            )
            await self._link.ask(listing, seconds=_STEP_S)

    def close(self) -> None:
        """Close the HTTP connections; what waits for a thread is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in (self._up, self._down):
            if client is not None:
                client.close()
        self._up = self._down = None

    def _open(self, grant: Grant, renew: Callable[[], Awaitable[Grant]]) -> ArtifactClient:
        loop = asyncio.get_running_loop()

        async def again() -> Grant:
            return await renew()

        def from_thread() -> Grant:
            return asyncio.run_coroutine_threadsafe(again(), loop).result(_STEP_S)

        return ArtifactClient(grant, renew=from_thread, patience_s=self._patience_s)

    async def _renew_down(self) -> Grant:
        return await self._link.ask(DownloadGrant(experiment=self._job.experiment))

    async def _renew_up(self) -> Grant:
        return await self._link.ask(UploadGrant(experiment=self._job.experiment))
