"""`incl import`: each old run is staged as a run directory, then shipped as `incl sync` ships one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from incl._values import to_plain, to_text
from incl_cli.context import Context
from incl_cli.importers.staging import Counts, Ending, OldRun, Origin, Stage, run_id
from incl_cli.places import cache_dir
from incl_cli.rundir import RunDirectory
from incl_cli.ship import Begin, ship_so_far
from incl_cli.ship_link import BusLink
from incl_shared.errors import ConflictError, DeniedError, InclError, NotFoundError, UnavailableError
from incl_shared.ids import short

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What was asked for beside the paths: a name for the runs, tags for all of them."""

    name: str | None = None
    tags: tuple[str, ...] = ()


@dataclass
class Brought:
    """What became of one old run. new: records that the platform did not have; None: nothing was sent."""

    id: str
    name: str
    path: Path
    counts: Counts
    ending: Ending | None = None
    new: int | None = None
    error: InclError | None = None

    @property
    def status(self) -> str:
        """found, imported, grown, known, or failed."""
        if self.error is not None:
            return "failed"
        if self.new is None:
            return "found"
        return "known" if self.new == 0 else "imported" if self.new >= self.counts.records else "grown"


def discover(kind: ModuleType, paths: Sequence[Path]) -> list[OldRun]:
    """The runs that paths name, each once.

    Raises:
        NotFoundError: there is none at one of them.
    """
    found: dict[Path, OldRun] = {}
    for path in paths:
        if not path.exists():
            raise NotFoundError(f"there is no {path}", hint="name a directory with runs in it")
        runs = kind.find(path)
        if not runs:
            raise NotFoundError(
                f"there is no run of {kind.KIND} in {path}",
                cause=f"no {'events.out.tfevents' if kind.KIND == 'tensorboard' else 'run-….wandb'} file lies below it",
                hint=f"name the directory that {kind.KIND} wrote to",
            )
        for run in runs:
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def stages() -> Path:
    """Where runs are staged: what lies there can be made again."""
    return cache_dir() / "imports"


async def look(runs: Sequence[OldRun], wish: Wish, *, say: Say) -> list[Brought]:
    """Read all runs, and send nothing: no platform is needed."""

    async def one(run: OldRun, origin: Origin, found: Brought) -> None:
        stage = Stage(None)
        found.counts = stage.counts
        found.ending = await _copied(run, stage)

    return await _each(runs, wish, one, say)


async def bring(
    kind: str, runs: Sequence[OldRun], context: Context, wish: Wish, *, say: Say, begin: Begin = BusLink.begin
) -> list[Brought]:
    """Import runs one after the other. One that cannot be read does not hold up the others; what would fail for all
    (the platform is away, or refuses) ends it. Errors are in what is returned."""
    seen: dict[str, Path] = {}

    async def one(run: OldRun, origin: Origin, found: Brought) -> None:
        found.id = run_id(kind, context.project, origin)
        if found.id in seen:
            raise ConflictError(
                f"{run.path} is the same run as {seen[found.id]}", hint="name one of the two directories only"
            )
        seen[found.id] = run.path
        await _import(kind, run, origin, found, context, wish, say, begin)

    return await _each(runs, wish, one, say)


async def _each(
    runs: Sequence[OldRun], wish: Wish, work: Callable[[OldRun, Origin, Brought], Awaitable[None]], say: Say
) -> list[Brought]:
    brought: list[Brought] = []
    for run in runs:
        one = Brought("", _called(run), run.path, Counts())
        brought.append(one)
        try:
            origin = await asyncio.to_thread(run.origin)
            origin = replace(origin, name=_named(origin.name, wish.name, several=len(runs) > 1))
            one.name = origin.name
            await work(run, origin, one)
        except InclError as error:
            one.error = error
            say(f"{one.name}: {error.message}")
            if isinstance(error, UnavailableError | DeniedError):
                break
            continue
        _tell(one, say)
    return brought


def _called(run: OldRun) -> str:
    return str(getattr(run, "name", run.path.name))


def _named(own: str, wished: str | None, *, several: bool) -> str:
    name = own if wished is None else f"{wished}/{own}" if several else wished
    return to_text(name, 128)


async def _copied(run: OldRun, stage: Stage) -> Ending:
    """Copy in a thread that a cancellation ends at the next record."""
    try:
        return await asyncio.to_thread(_copy, run, stage)
    except asyncio.CancelledError:
        stage.stopped = True
        raise


def _copy(run: OldRun, stage: Stage) -> Ending:
    try:
        return run.copy(stage)
    finally:
        stage.close()


async def _import(
    kind: str, run: OldRun, origin: Origin, one: Brought, context: Context, wish: Wish, say: Say, begin: Begin
) -> None:
    say(f"{one.name}: reading {_size(run.size)} in {run.path}")
    place = stages() / one.id
    directory = RunDirectory(place, _meta(kind, one.id, origin, context, wish))
    await asyncio.to_thread(_prepare, place)
    with directory.held():
        stage = Stage(place)
        one.counts = stage.counts
        one.ending = await _copied(run, stage)
        await asyncio.to_thread(_finish, directory, one.ending)
        known = await _ship(directory, context, begin)
        one.new = sum(max(0, count - known.get(writer, 0)) for writer, count in stage.written.items())
        if any(known.get(writer, 0) > count for writer, count in stage.written.items()):
            one.counts.problems.append(f"{run.path}: the platform has more of this run: were its files cut since then?")
    await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


async def _ship(directory: RunDirectory, context: Context, begin: Begin) -> Mapping[str, int]:
    try:
        return (await ship_so_far(directory, context, begin=begin))[1]
    except UnavailableError as error:
        raise UnavailableError(
            error.message, cause=error.cause, hint=f"incl import again, or later: incl sync {directory.path}"
        ) from error


def _prepare(place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True, mode=0o700)


def _finish(directory: RunDirectory, ending: Ending) -> None:
    """Make it a run directory that anybody can ship: what it says of itself comes last."""
    notes = directory.notes
    for name in ("metrics.json", "uploaded.txt", "done.json"):
        with contextlib.suppress(FileNotFoundError):
            (notes / name).unlink()
    end = {"ended": ending.ended, "state": ending.state.value, "message": ending.message}
    for name, values in (("end.json", end), ("meta.json", directory.meta)):
        partial = directory.path / f".{name}.{os.getpid()}"
        partial.write_text(json.dumps(values))
        partial.replace(directory.path / name)


def _meta(kind: str, identifier: str, origin: Origin, context: Context, wish: Wish) -> dict[str, Any]:
    return {
        "version": 1,
        "id": identifier,
        "project": context.project,
        "name": origin.name,
        "config": to_plain(origin.config),
        "tags": list(dict.fromkeys(to_text(tag, 128) for tag in (*origin.tags, *wish.tags))),
        "started": float(origin.started),
        "command": [to_text(word, 4096) for word in origin.command],
        "python": to_text(origin.python, 100),
        "git": {name: to_text(text, 1000) for name, text in origin.git.items() if text},
        "imported": kind,
    }


def _tell(one: Brought, say: Say) -> None:
    counts = one.counts
    parts = [f"{counts.points:,} points"]
    parts += [f"{number:,} {word}" for number, word in ((counts.media, "media"), (counts.outputs, "files")) if number]
    if counts.system:
        parts.append(f"{counts.system:,} system samples")
    said = {
        "found": "",
        "known": "nothing is new since it was imported: ",
        "grown": f"{one.new or 0:,} records are new since it was imported: ",
        "imported": "imported: ",
    }[one.status]
    say(f"{one.name}: {said}{', '.join(parts)}" + (f"; incl show {short(one.id)}" if one.id else ""))
    if counts.left_out:
        left = ", ".join(f"{number:,} {what}" for what, number in sorted(counts.left_out.items()))
        say(f"  left out: {left}")
    for problem in counts.problems:
        say(f"  warning: {problem}")


def _size(count: int) -> str:
    from incl_cli.text import size

    return size(count)
