"""The files of an experiment: list them, choose among them, and find places for them."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incl_cli.platform import Platform
    from incl_shared.queries.registry import Entry

_BLOCK = 1 << 20


async def every(
    platform: Platform, experiment: str, kind: str | None = None, attempt: int | None = None
) -> list[Entry]:
    """All entries, page by page."""
    from incl_shared.queries.registry import ListArtifacts

    found: list[Entry] = []
    cursor: int | None = None
    while True:
        page = await platform.ask(
            ListArtifacts(experiment=experiment, kind=kind, attempt=attempt, cursor=cursor, limit=1000)
        )
        found.extend(page.entries)
        cursor = page.cursor
        if cursor is None or not page.entries:
            return found


def newest(entries: Sequence[Entry]) -> list[Entry]:
    """Of each rank's path the one of the newest attempt (and newest step), in the order of rank and path."""
    best: dict[tuple[str, int, str], Entry] = {}
    for entry in entries:
        key = (entry.kind, entry.rank, entry.path)
        other = best.get(key)
        if other is None or (entry.attempt, entry.step or 0) >= (other.attempt, other.step or 0):
            best[key] = entry
    return sorted(best.values(), key=lambda entry: (entry.kind, entry.rank, entry.path))


def choose(entries: Sequence[Entry], patterns: Sequence[str]) -> list[Entry]:
    """Those whose path is one of the patterns, matches one as a glob, or lies below one.

    Raises:
        NotFoundError: a pattern that matches nothing.
    """
    if not patterns:
        return list(entries)
    from incl_cli.arguments import did_you_mean
    from incl_shared.errors import NotFoundError

    chosen: dict[int, Entry] = {}
    for pattern in patterns:
        wanted = pattern.rstrip("/")
        hits = [
            (index, entry)
            for index, entry in enumerate(entries)
            if entry.path == wanted or entry.path.startswith(f"{wanted}/") or fnmatch.fnmatchcase(entry.path, wanted)
        ]
        if not hits:
            paths = [entry.path for entry in entries]
            raise NotFoundError(
                f"no file matches {pattern[:120]!r}",
                cause=f"there are: {', '.join(paths[:8])}{' …' if len(paths) > 8 else ''}"
                if paths
                else "it kept no files",
                hint=did_you_mean(pattern, paths) or "incl download EXPERIMENT --list shows all files",
            )
        chosen.update(hits)
    return [chosen[index] for index in sorted(chosen)]


def place(root: Path, entry: Entry, *, by_rank: bool) -> Path:
    """Where a file goes below root: never above it, whatever its path says, and through no link out of it.

    Raises:
        IntegrityError: a path that leads out.
    """
    from incl_shared.errors import IntegrityError

    parts = PurePosixPath(entry.path).parts
    base = os.path.realpath(root)
    below = [f"rank{entry.rank}", *parts] if by_rank else list(parts)
    target = Path(base, *below)
    bad = not parts or entry.path.startswith("/") or ".." in parts or "\x00" in entry.path
    if bad or os.path.commonpath([base, os.path.realpath(target.parent)]) != base or target.is_symlink():
        raise IntegrityError(
            f"the path {entry.path[:120]!r} leads out of {root}", hint="choose other files, or another folder with -o"
        )
    return target


def is_there(target: Path, entry: Entry) -> bool:
    """Whether a file is there already with these very bytes."""
    try:
        if target.stat().st_size != entry.size or not target.is_file():
            return False
        digest = hashlib.sha256()
        with target.open("rb") as stream:
            while piece := stream.read(_BLOCK):
                digest.update(piece)
    except OSError:
        return False
    return digest.hexdigest() == entry.sha256
