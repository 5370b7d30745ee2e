"""What a job leaves: checkpoints and media as they come, outputs at the end, all into the artifact store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import shutil
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_agent.blobs import JobStore
from incl_agent.holding import hold
from incl_agent.modelfiles import ModelFiles
from incl_agent.outputs import Found, collect
from incl_shared.archive import DIRECTORY_ENDING
from incl_shared.archive.pack import pack
from incl_shared.errors import ConflictError, DeniedError, InclError, InvalidInput
from incl_shared.events import Medium
from incl_shared.previews.maker import PreviewMaker
from incl_shared.previews.media import Described, describe
from incl_shared.queries.registry import Entry
from incl_shared.spec import CheckpointPolicy, Goal
from incl_shared.tasks import end_all, gather
from incl_shared.telemetry.models import registration
from incl_shared.telemetry.spool import SpooledFile, spooled_files

if TYPE_CHECKING:
    from incl_agent.life import JobLife
    from incl_agent.node import Node

_log = logging.getLogger("incl.agent")
_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 3.0
"""However long an outage was: work goes on within seconds after it."""
_AT_ONCE = 4
_MEDIA_AT_ONCE = 32
_PATIENCE_S = 5.0
_REGISTER_S = 20.0
_MAX_CHECKPOINT = 1 << 43
"""A checkpoint that is a directory is stored as one archive under its name with this ending."""


class Uploads:
    """The uploads of one job. What was committed is noted in the job's folder, so that a restart does not repeat it."""

    def __init__(self, node: Node, life: JobLife) -> None:
        self._life = life
        self._limit_s = node.settings.retry_limit_s
        self._store = JobStore(life.link, life.wanted, min(_PATIENCE_S, self._limit_s))
        self._models = ModelFiles(self._store, life)
        self._refused: list[str] = []
        self._previews = PreviewMaker()
        self._queue: list[SpooledFile] = []
        self._without: set[str] = set()
        self._known: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._done_file = life.files.root / "uploaded.txt"

    @property
    def store(self) -> JobStore:
        """The job's door to the artifact store."""
        return self._store

    def start(self) -> None:
        """Upload what waits and what will be offered, in the background."""
        if self._task is None:
            if self._done_file.exists():
                self._known.update(self._done_file.read_text(encoding="utf-8").split())
            self._task = asyncio.create_task(self._upload_offered())

    def offer(self, file: SpooledFile) -> None:
        """A record spoke of a file."""
        key = f"{file.writer}:{file.sequence}"
        if key not in self._known:
            self._known.add(key)
            self._queue.append(file)
            self._wake.set()

    async def stop(self) -> None:
        """Leave the rest to the next agent."""
        task, self._task = self._task, None
        await end_all((task,))
        await asyncio.to_thread(self._previews.close)
        self._store.close()

    async def finish(self) -> list[str]:
        """Everything that is left: what the spool still names, then the outputs.

        Returns:
            Remarks for the job's log: what was left out, each with its reason, and patterns that matched nothing.

        Raises:
            InclError: it could not be stored, however often it was tried.
        """
        for file in await asyncio.to_thread(spooled_files, self._life.files.spool):
            self.offer(file)
        task, self._task = self._task, None
        await end_all((task,))
        await self._persist(self._drain)
        files, spec = self._life.files, self._life.wanted.spec
        collected = await asyncio.to_thread(collect, files.outputs, files.work, spec.outputs)
        for skipped in collected.skipped:
            _log.warning("job %s: output left out: %s", self._life.job, skipped)
        if collected.files:
            await self._persist(lambda: self._outputs(collected.files))
        words = [*self._refused, *(f"output left out: {skipped}" for skipped in collected.skipped)]
        if self._without:
            words.append(f"images and tables without a thumbnail: {len(self._without)}")
        return words + [f"outputs: nothing matched {pattern!r}" for pattern in collected.unmatched]

    async def _upload_offered(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._persist(self._drain)
            except InclError as error:
                _log.warning("job %s: checkpoints or media wait: %s", self._life.job, error)

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Try until it works, the time is over, or it can never work."""
        deadline, delay = time.monotonic() + self._limit_s, _FIRST_RETRY_S
        while True:
            try:
                return await work()
            except InclError as error:
                hopeless = isinstance(error, InvalidInput | DeniedError)
                if hopeless or time.monotonic() + delay > deadline:
                    raise
                _log.info("job %s: storing is tried again: %s", self._life.job, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LAST_RETRY_S)

    async def _drain(self) -> None:
        while self._queue:
            batch = self._next()
            if batch[0].record.get("k") == "v":
                await self._model(batch[0])
            wanted = [file for file in batch if not self._passed_over(file)]
            stored = await gather(*(self._spooled(file) for file in wanted))
            entries = [entry for entry in stored if entry is not None]
            if entries:
                await self._store.commit(entries)
                self._without.update(entry.path for entry in entries if _lacks_thumbnail(entry))
            for file in batch:
                self._queue.remove(file)
                if file.record.get("k") == "v" or (file in wanted and file.record.get("k") == "f"):
                    await asyncio.to_thread(_discard, file.path, self._life.files.spool)
            with self._done_file.open("a", encoding="utf-8") as done:
                done.write("".join(f"{file.writer}:{file.sequence}\n" for file in batch))

    def _next(self) -> list[SpooledFile]:
        """One checkpoint or model, or the media up to the next one: these are small, and cost a round trip for all."""
        media = list(itertools.takewhile(lambda file: file.record.get("k") == "f", self._queue[:_MEDIA_AT_ONCE]))
        return media or self._queue[:1]

    def _passed_over(self, file: SpooledFile) -> bool:
        """Models, which are stored by themselves, and checkpoints that the policy does not keep."""
        if file.record.get("k") == "v":
            return True
        policy = self._life.wanted.spec.keep_checkpoints
        if file.record.get("k") != "c" or policy in (CheckpointPolicy.ALL, CheckpointPolicy.BEST):
            return False
        newer = any(other.record.get("k") == "c" and other.writer == file.writer for other in self._queue[1:])
        return policy is CheckpointPolicy.NONE or newer

    async def _model(self, file: SpooledFile) -> None:
        """Store the files of a model and register them as a version; repeated it is the same version."""
        wanted = self._life.wanted
        try:
            query = registration(file, wanted.experiment, wanted.attempt, wanted.rank)
            entries = await self._models.store(file, self._entry)
            await self._store.commit(entries)
            await self._models.until_measured(file)
            made = await self._life.link.ask(query, _REGISTER_S)
            _log.info("job %s: registered %s:%d", self._life.job, made.model, made.number)
        except (InvalidInput, DeniedError, ConflictError) as error:
            words = error.message + (f" ({error.cause})" if error.cause else "")
            _log.warning("job %s: a model is not registered: %s", self._life.job, words)
            self._refused.append(f"model not registered: {str(file.record.get('model'))[:63]}: {words}")

    async def _spooled(self, file: SpooledFile) -> Entry | None:
        """Store a file and its thumbnail; what to list, or none when it is gone."""
        record, path = file.record, file.path
        held = hold(path, self._life.files.spool)
        if held is None:
            return None
        name, packed, medium = file.listed_as, None, None
        source = Path(f"/proc/self/fd/{held}")
        try:
            if stat.S_ISDIR(os.fstat(held).st_mode):
                packed = self._life.files.root / f".{file.writer}-{file.sequence}.tar.zst"
                await asyncio.to_thread(pack, source, packed, max_bytes=_MAX_CHECKPOINT, level=1, everything=True)
                name += DIRECTORY_ENDING
            blob = await self._store.upload(packed or source)
            if packed is None:
                medium = await self._medium(record, held, Described(blob.sha256, blob.size))
        finally:
            os.close(held)
            if packed is not None:
                packed.unlink(missing_ok=True)
        kind = "checkpoint" if record.get("k") == "c" else "media"
        entry = self._entry(kind, name, blob.sha256, blob.size, step=file.step)
        entry = entry.model_copy(update={"medium": medium})
        if kind == "checkpoint":
            entry = entry.model_copy(update={"score": score_of(record, self._life.wanted.spec.goals)})
        return entry

    async def _medium(self, record: dict[str, Any], held: int, blob: Described) -> Medium | None:
        async def put(path: Path) -> tuple[str, int]:
            stored = await self._store.upload(path)
            return stored.sha256, stored.size

        return await describe(self._previews, record, held, blob, put, self._life.files.root)

    async def _outputs(self, found: list[Found]) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(file: Found) -> Entry:
            async with gate:
                blob = await self._store.upload(file.file)
            return self._entry("output", file.path, blob.sha256, blob.size, mode=file.mode)

        await self._store.commit(await gather(*(one(file) for file in found)))

    def _entry(
        self, kind: str, path: str, sha256: str, size: int, *, step: int | None = None, mode: int = 0o644
    ) -> Entry:
        wanted = self._life.wanted
        return Entry(
            attempt=wanted.attempt,
            rank=wanted.rank,
            kind=kind,
            path=path,
            sha256=sha256,
            size=size,
            step=step,
            mode=mode,
        )


def _lacks_thumbnail(entry: Entry) -> bool:
    medium = entry.medium
    return medium is not None and medium.type in ("image", "table") and medium.thumbnail is None


def score_of(record: Mapping[str, Any], goals: Mapping[str, Goal]) -> float | None:
    """How good a checkpoint is, higher is better: the first metric with a goal that its record has a number of.

    None without one, and where it is NaN or infinite.
    """
    metrics = record.get("metrics")
    if not isinstance(metrics, dict):
        return None
    for name, goal in goals.items():
        if name in metrics:
            value = metrics[name]
            if isinstance(value, bool) or not isinstance(value, int | float):
                return None
            with contextlib.suppress(OverflowError):
                number = float(value)
                return (-number if goal is Goal.MIN else number) if math.isfinite(number) else None
            return None
    return None


def _discard(path: Path, spool: Path) -> None:
    """A medium that is stored is not needed in the spool; its own folder goes with it."""
    if path.parent.parent == spool / "files":
        shutil.rmtree(path.parent, ignore_errors=True)
