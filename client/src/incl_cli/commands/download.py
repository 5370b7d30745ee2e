"""incl download."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_shared.queries.base import Query
    from incl_shared.queries.registry import Entry, Grant

KINDS = ("output", "checkpoint", "media", "code", "provenance")
EXAMPLES = """  incl download @last
  incl download 3f9k2x7q model.npz 'plots/*' -o results
  incl download 3f9k2x7q --kind code -o earlier
  incl download @last --list"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", help="id, the end of one, name, @last")
    parser.add_argument("path", nargs="*", metavar="PATH", help="files, folders or globs; all by default")
    parser.add_argument("-o", "--output", metavar="DIR", help="where to (a folder named after the experiment)")
    parser.add_argument("--kind", action="append", choices=KINDS, help="may be repeated (output, checkpoint and media)")
    parser.add_argument("--attempt", type=int, metavar="N", help="of this attempt (the newest of each file)")
    parser.add_argument("--rank", type=int, metavar="N", help="of this node only")
    parser.add_argument("--force", action="store_true", help="replace files that differ")
    parser.add_argument("--list", action="store_true", help="only list the files")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Fetch what is chosen. What is there already with the same bytes is not fetched again."""
    from incl_cli.artifacts import choose, every, newest
    from incl_cli.look import find
    from incl_shared.ids import short

    platform = await session.platform(args.project)
    view = await find(platform, args.experiment)
    kinds = args.kind or ["output", "checkpoint", "media"]
    entries = [
        entry
        for entry in newest(await every(platform, view.row.id, attempt=args.attempt))
        if entry.kind in kinds and (args.rank is None or entry.rank == args.rank)
    ]
    chosen = choose(entries, args.path)
    if args.list:
        _list(session.out, chosen)
        return 0
    if not chosen:
        session.out.note(f"{view.row.name} kept no files of kind {', '.join(kinds)}", "dim")
        if args.json:
            session.out.json([])
        return 0
    root = Path(args.output) if args.output else Path(f"incl-{short(view.row.id)}")
    await fetch(args, session.out, platform, view.row.id, chosen, root)
    return 0


def _list(out: Output, entries: list[Entry]) -> None:
    from incl_cli.text import Column, Row, size, table

    if out.as_json:
        out.json([entry.model_dump(mode="json") for entry in entries])
        return
    rows: list[Row] = [
        (entry.path, size(entry.size), entry.kind, f"{entry.attempt}", f"{entry.rank}") for entry in entries
    ]
    columns = [Column("path", flexible=True, least=20), Column("size", right=True), Column("kind")]
    for line in table(out, [*columns, Column("attempt", right=True), Column("rank", right=True)], rows) if rows else ():
        out.line(line)


async def fetch(
    args: argparse.Namespace,
    out: Output,
    platform: Any,
    source: str | Query[Grant],
    entries: list[Entry],
    root: Path,
    called: str = "",
) -> None:
    """Fetch files into a folder, and say where they lie.

    args.force: replace what differs. source: an experiment, or what gives the grant. called: what it is, where it is
    no experiment.
    """
    from incl_cli.artifacts import is_there, place
    from incl_cli.platform import Wanted
    from incl_cli.text import plain, plural, size
    from incl_shared.errors import ConflictError

    by_rank = len({entry.rank for entry in entries}) > 1
    placed = [(place(root, entry, by_rank=by_rank), entry) for entry in entries]
    targets = dict(sorted(placed, key=lambda pair: pair[0].parts))
    missing = {target: entry for target, entry in targets.items() if not is_there(target, entry)}
    differing = [target for target in missing if target.exists()]
    if differing and not args.force:
        raise ConflictError(
            f"{differing[0]} is there already, and differs"
            + (f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""),
            hint="--force replaces it, -o DIR takes another folder",
        )
    total = sum(entry.size for entry in missing.values())
    bar = _Bar(out, total)
    wanted = [Wanted(entry.sha256, entry.size, target, entry.mode) for target, entry in missing.items()]
    if wanted:
        with _marked(root, called or str(source)):
            await platform.download(source, wanted, bar.add)
    bar.close()
    await asyncio.to_thread(_unpack_directories, targets)
    await asyncio.to_thread(_unpack_code, out, targets)
    if out.as_json:
        out.json(
            [
                {
                    "path": entry.path,
                    "file": str(target),
                    "size": entry.size,
                    "sha256": entry.sha256,
                    "new": target in missing,
                }
                for target, entry in targets.items()
            ]
        )
        return
    there = f", {len(targets) - len(missing)} there already" if len(targets) > len(missing) else ""
    out.note(f"{plural(len(missing), 'file')}, {size(total)} in {root}{there}")
    for target in targets:
        out.line(plain(str(target)) if out.out.isatty() else str(target))


def _unpack_directories(targets: Iterable[Path]) -> None:
    """A checkpoint that is a directory comes as an archive: the directory is made beside it, unless it is there."""
    from incl_shared.archive import DIRECTORY_ENDING
    from incl_shared.archive.unpack import unpack

    for target in targets:
        directory = target.with_name(target.name.removesuffix(DIRECTORY_ENDING))
        if directory != target and not directory.exists():
            unpack(target, directory)


def _unpack_code(out: Output, targets: Mapping[Path, Entry]) -> None:
    """The archive of the code becomes the folder `code` beside it, unless there is one."""
    from incl_cli.submit import CODE_PATH
    from incl_cli.text import plain, plural
    from incl_shared.archive.unpack import unpack

    for target, entry in targets.items():
        if entry.kind != "code" or entry.path != CODE_PATH:
            continue
        folder = target.with_name("code")
        shown = plain(str(folder))
        if folder.exists() or folder.is_symlink():
            out.note(f"{shown} is there already: not unpacked again", "dim")
            continue
        files = unpack(target, folder, sha256=entry.sha256).files
        out.note(f"the code ({plural(files, 'file')}) is unpacked in {shown}")


@contextlib.contextmanager
def _marked(root: Path, called: str) -> Iterator[None]:
    """A folder of results that is made meanwhile stays out of the next experiment's code."""
    from incl_shared.archive import DOWNLOAD_MARKER

    is_new = not root.exists()
    try:
        yield
    finally:
        if is_new and root.is_dir():
            text = f"Made by incl from {called}.\nincl run leaves this folder out while this file is in it.\n"
            with contextlib.suppress(OSError):
                (root / DOWNLOAD_MARKER).write_text(text, "utf-8")


class _Bar:
    """How much has come, on one line, where a person looks."""

    def __init__(self, out: Output, total: int) -> None:
        self._out, self._total, self._done = out, total, 0
        self._shown = out.err.isatty() and total > 1_000_000

    def add(self, count: int) -> None:
        """So many more bytes; from any thread."""
        from incl_cli.text import size

        self._done += count
        if self._shown:
            self._out.err.write(f"\r\x1b[K{size(self._done)} of {size(self._total)}")
            self._out.err.flush()

    def close(self) -> None:
        """Take it away."""
        if self._shown:
            self._out.err.write("\r\x1b[K")
