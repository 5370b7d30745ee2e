"""Ships a run made by incl.init(): beside the script (`python -m incl_cli.ship <run>`), or later (`incl sync`)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from incl_cli.context import Context, load_context
from incl_cli.provenance import git_state
from incl_cli.rundir import End, RunDirectory, damaged, run_paths
from incl_cli.ship_link import ATTEMPT, RANK, BusLink, Link
from incl_cli.spooled import SpooledFiles
from incl_shared import subjects
from incl_shared.archive.pack import pack
from incl_shared.errors import ConflictError, DeniedError, InclError, InvalidInput, UnavailableError
from incl_shared.events import Provenance, RunEnded, RunStarted
from incl_shared.ids import job_id
from incl_shared.previews.maker import PreviewMaker
from incl_shared.previews.media import Described, describe
from incl_shared.queries.registry import Entry
from incl_shared.tasks import end_all
from incl_shared.telemetry import MetricSource, Shipper, SpooledFile, Stored
from incl_shared.telemetry.models import KIND, registration
from incl_shared.telemetry.spool import DIRECTORY_ENDING

_log = logging.getLogger("incl.ship")

_WATCH_S = 0.25
_UPLOAD_EVERY_S = 2.0
_WORD_EVERY_S = 60.0
_FLUSH_S = 60.0
"""How long nothing may move before shipping is given up."""
_PAUSE_S = 0.05
_LAST_WORDS_S = 30.0
"""How long after a run's end its other processes (ranks, workers) may go on writing."""
_PATIENCE_S = 600.0
"""How long after its run's end a shipper waits for a platform that is away; afterwards it is `incl sync`'s."""
_MAX_DIRECTORY = 1 << 43

Begin = Callable[[Context, RunStarted], Awaitable[Link]]


def started(run: RunDirectory) -> RunStarted:
    """The event that a run begins with."""
    meta = run.meta
    provenance = Provenance(
        command_line=shlex.join([str(word) for word in meta.get("command", [])])[:10_000],
        python=str(meta.get("python", "")),
        **_git(meta),
    )
    config = meta.get("config")
    return RunStarted(
        experiment=run.id,
        name=meta.get("name") or None,
        config=_texts(config) if isinstance(config, dict) else {},
        tags=tuple(str(tag) for tag in meta.get("tags", ()) if tag),
        started=float(meta["started"]),
        provenance=provenance,
    )


def _git(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What was noted of git when the run began (an imported one), else what its directory says now."""
    noted = meta.get("git")
    if isinstance(noted, dict):
        return {f"git_{name}": str(noted[name]) for name in ("commit", "branch", "remote") if noted.get(name)}
    folder = Path(str(meta["directory"])) if meta.get("directory") else None
    if folder is None or not folder.is_dir():
        return {}
    git = git_state(folder)
    return {"git_commit": git.commit, "git_branch": git.branch, "git_remote": git.remote, "git_dirty": git.dirty}


def _files_of(file: SpooledFile) -> list[tuple[Path, str]]:
    """Every regular file of a model, and how it is listed; links are left out."""
    if not file.path.is_dir():
        return [(file.path, file.listed_as)]
    found = sorted(path for path in file.path.rglob("*") if path.is_file() and not path.is_symlink())
    return [(path, f"{file.listed_as}/{path.relative_to(file.path).as_posix()}") for path in found]


def _texts(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Configuration as texts, nested names joined by dots, as the tracker makes them of the spool's records."""
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            texts.update(_texts(value, f"{prefix}{name}."))
        else:
            texts[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return texts


class RunShipper:
    """One run to one platform. Everything may be repeated: after a crash it goes on where it was."""

    def __init__(self, run: RunDirectory, link: Link, project: str) -> None:
        self._run = run
        self._link = link
        run.notes.mkdir(parents=True, exist_ok=True)
        self._source = MetricSource(run.spool, run.notes / "metrics.json")
        self._stored = Stored(link)
        self.metrics = Shipper(
            self._source,
            link.publish_confirmed,
            subject=subjects.metrics(project, run.id, ATTEMPT, RANK),
            job=job_id(run.id, ATTEMPT, RANK),
            stored=self._stored,
        )
        self.known: Mapping[str, int] = {}
        self._previews = PreviewMaker()
        self._files = SpooledFiles(run.spool)
        self._waiting: list[SpooledFile] = []
        self._uploaded_file = run.notes / "uploaded.txt"
        self._uploaded = set(self._uploaded_file.read_text().split()) if self._uploaded_file.exists() else set()

    async def ship(self, *, follow: bool) -> End | None:
        """Ship until the run has ended (follow), or what there is by now.

        Returns:
            How the run ended; None: it goes on.
        Raises:
            InclError: it cannot be shipped; what is left stays on the disk.
        """
        self.known = await self._link.watermarks()
        self._source.resume(self.known)
        self._stored.start()
        alive = asyncio.create_task(self._give_word())
        try:
            return await self._ship(follow=follow)
        finally:
            await end_all([alive])
            await self._stored.stop()

    async def _ship(self, *, follow: bool) -> End | None:
        shipping = asyncio.create_task(self.metrics.run())
        try:
            if follow:
                await self._until_ended()
        finally:
            await end_all([shipping])
        end = self._run.end()
        await self._flush(final=end is not None)
        await self._upload_spooled()
        await asyncio.to_thread(self._previews.close)
        if end is not None:
            await self._upload_outputs()
            await self._end(end)
        return end

    async def _give_word(self) -> None:
        """Ask for the watermarks now and then: it is how the tracker knows that somebody ships this run."""
        while True:
            await asyncio.sleep(_WORD_EVERY_S)
            try:
                await self._link.watermarks()
            except (InclError, OSError, TimeoutError) as error:
                _log.info("the platform did not hear that this run goes on: %s", error)

    async def _until_ended(self) -> None:
        """Until the run has ended and its other processes too, or these have had their time for last words."""
        give_up, next_upload = float("inf"), time.monotonic() + _UPLOAD_EVERY_S
        while not self._over(give_up):
            await asyncio.sleep(_WATCH_S)
            now = time.monotonic()
            if give_up == float("inf") and self._run.end() is not None:
                give_up = now + _LAST_WORDS_S
            if now >= next_upload:
                with suppress(UnavailableError):
                    await self._upload_spooled()
                next_upload = time.monotonic() + _UPLOAD_EVERY_S

    def _over(self, give_up: float) -> bool:
        return self._run.end() is not None and (not self._run.writing() or time.monotonic() > give_up)

    async def _flush(self, *, final: bool) -> None:
        if not final:
            while await self.metrics.step() or self.metrics.more:
                await self.metrics.pause(_PAUSE_S if self.metrics.more else 0.0)
            return
        while True:
            before = self.metrics.progress
            try:
                async with asyncio.timeout(_FLUSH_S):
                    await self.metrics.drain()
                return
            except TimeoutError:
                if self.metrics.progress != before:
                    continue  # as fast as the tracker can take it
            raise UnavailableError(
                "not all metrics are stored yet",
                cause=self.metrics.shipped.last_error or "the platform has them, and its tracker is behind",
                hint=f"incl sync {self._run.path}",
            )

    async def _upload_spooled(self) -> None:
        self._waiting += await asyncio.to_thread(self._files.new)
        while self._waiting:
            file = self._waiting[0]
            key = f"{file.writer}:{file.sequence}"
            if key not in self._uploaded:
                await self._upload_one(file)
                self._uploaded.add(key)
                with self._uploaded_file.open("a") as notes:
                    notes.write(key + "\n")
            del self._waiting[0]

    async def _upload_one(self, file: SpooledFile) -> None:
        if file.record["k"] == "v":
            await self._upload_model(file)
            return
        path, name, packed = file.path, file.listed_as, None
        if path.is_dir():
            packed = self._run.notes / f".{file.writer}-{file.sequence}.tar.zst"
            await asyncio.to_thread(pack, path, packed, max_bytes=_MAX_DIRECTORY, level=1, everything=True)
            path, name = packed, name + DIRECTORY_ENDING
        try:
            sha256, size = await self._link.upload(path)
            medium = await describe(
                self._previews, file.record, path, Described(sha256, size), self._link.upload, self._run.notes
            )
        except InvalidInput as error:
            _log.warning("%s is left out: %s", name, error)
            return
        finally:
            if packed is not None:
                packed.unlink(missing_ok=True)
        kind = "checkpoint" if file.record["k"] == "c" else "media"
        entry = Entry(
            attempt=ATTEMPT, rank=RANK, kind=kind, path=name, sha256=sha256, size=size,
            step=file.step, medium=medium,
        )  # fmt: skip
        await self._link.commit([entry])

    async def _upload_model(self, file: SpooledFile) -> None:
        """Store the files of a model and register them as a version; repeated it is the same version."""
        try:
            query = registration(file, self._run.id, ATTEMPT, RANK)
            entries = []
            for path, listed in await asyncio.to_thread(_files_of, file):
                sha256, size = await self._link.upload(path)
                entry = Entry(attempt=ATTEMPT, rank=RANK, kind=KIND, path=listed, sha256=sha256, size=size)
                entries.append(entry)
            await self._link.commit(entries)
            await self._link.register(query)
        except (InvalidInput, DeniedError, ConflictError) as error:
            _log.warning("a model is not registered: %s", error.message)

    async def _upload_outputs(self) -> None:
        root = self._run.path / "outputs"
        entries = []
        for path in sorted(root.rglob("*")):
            if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
                continue
            try:
                sha256, size = await self._link.upload(path)
            except InvalidInput as error:
                _log.warning("output %s is left out: %s", path, error)
                continue
            mode, listed = stat.S_IMODE(path.stat().st_mode), path.relative_to(root).as_posix()
            entries.append(
                Entry(attempt=ATTEMPT, rank=RANK, kind="output", path=listed, sha256=sha256, size=size, mode=mode)
            )
        if entries:
            await self._link.commit(entries)

    async def _end(self, end: End) -> None:
        writers = self.metrics.counts()
        event = RunEnded(
            experiment=self._run.id, state=end.state, message=end.message[:2000], ended=end.ended, writers=writers
        )
        await self._link.end(event)
        done = {"records": sum(writer.records for writer in writers), "shipped": time.time()}
        (self._run.notes / "done.json").write_text(json.dumps(done))


async def follow(run: RunDirectory, *, begin: Begin = BusLink.begin) -> None:
    """Ship a run while it goes on, until it has ended and all of it is there. Waits for a platform that is away.

    Raises:
        InclError: nothing more can be done now; `incl sync` goes on later.
    """
    give_up, delay = float("inf"), 0.2
    with run.held():
        while not run.shipped:
            try:
                await _ship(run, begin=begin, follow=True)
            except (UnavailableError, TimeoutError, OSError) as error:
                if run.end() is not None:
                    give_up = min(give_up, time.monotonic() + _PATIENCE_S)
                if time.monotonic() > give_up or not run.path.exists():
                    raise
                _log.warning("the platform cannot be reached, waiting: %s", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30.0)


async def _ship(run: RunDirectory, *, begin: Begin, follow: bool) -> End | None:
    context = load_context(project=run.meta.get("project"))
    return (await ship_so_far(run, context, begin=begin, follow=follow))[0]


async def ship_so_far(
    run: RunDirectory, context: Context, *, begin: Begin = BusLink.begin, follow: bool = False
) -> tuple[End | None, Mapping[str, int]]:
    """Ship a run that the caller holds: what there is by now, or (follow) until it has ended.

    Returns:
        How it ended, and what the tracker had of it before ('metrics/<writer>' -> records).
    Raises:
        InclError: it cannot be shipped; what is left stays on the disk.
    """
    try:
        event = await asyncio.to_thread(started, run)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged(run.path, str(error)[:300]) from error
    link = await begin(context, event)
    try:
        shipper = RunShipper(run, link, context.project)
        return await shipper.ship(follow=follow), shipper.known
    finally:
        await link.close()


async def sync(
    paths: Sequence[Path], *, begin: Begin = BusLink.begin, say: Callable[[str], None] = lambda _: None
) -> list[RunDirectory]:
    """`incl sync`: ship all runs in these paths that are not shipped yet. say: told a line for each.

    Returns:
        The runs that were shipped now.
    Raises:
        NotFoundError: there is no run in one of the paths.
        InclError: what one of them could not be shipped for; the others are shipped all the same.
    """
    shipped: list[RunDirectory] = []
    failed: InclError | None = None
    for path in run_paths(paths):
        try:
            run = RunDirectory.open(path)
            if run.shipped:
                say(f"{run.id}: shipped already")
                continue
            with run.held():
                end = await _ship(run, begin=begin, follow=False)
        except ConflictError as error:
            say(f"{path.name}: {error.message}")
            continue
        except (InclError, OSError) as error:
            problem = error if isinstance(error, InclError) else _told(path, error)
            say(f"{path.name}: {problem.message}")
            failed = failed or problem
            if isinstance(problem, UnavailableError | DeniedError):
                break
            continue
        shipped.append(run)
        say(f"{run.id}: {end.state.value}" if end else f"{run.id}: shipped so far; it runs still")
    if failed is not None:
        raise failed
    return shipped


def _told(path: Path, error: OSError) -> InclError:
    if isinstance(error, TimeoutError | ConnectionError):
        return UnavailableError("the platform does not answer", cause=str(error), hint="incl sync, once it does")
    return InvalidInput(f"{path} cannot be read, or noted in", cause=str(error), hint="see that it is yours")


def main(arguments: Sequence[str]) -> int:
    """The command `python -m incl_cli.ship <run directory>`, started by incl.init()."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m incl_cli.ship RUN_DIRECTORY\n")
        return 2
    path = Path(arguments[0]).resolve()
    os.chdir("/")
    try:
        asyncio.run(follow(RunDirectory.open(path)))
    except InclError as error:
        _log.error("%s%s", error.message, f" ({error.cause})" if error.cause else "")
        return error.exit_code
    except (OSError, TimeoutError) as error:
        _log.error("%s", error)
        return 7
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
