"""incl media."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from incl_cli.arguments import UsageProblem, common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.platform import Platform
    from incl_cli.running import Session
    from incl_cli.text import Row
    from incl_shared.queries.registry import Entry
    from incl_shared.queries.tracker import ArtifactView, ListArtifacts, MediaKey

TYPES = ("image", "table", "text", "file")
EXAMPLES = """  incl media @last                             which keys there are
  incl media 3f9k2x7q --key val/samples --step 100:500
  incl media 3f9k2x7q --key val/samples --step last --show
  incl media 3f9k2x7q --key val/samples --save pictures
  incl media 3f9k2x7q --type table --thumbnails --save small"""
_PAGE: Final = 500
_SHOWN: Final = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", help="id, the end of one, name, @last")
    parser.add_argument("--key", metavar="KEY", help="what was logged under this key, one by one")
    parser.add_argument("--type", choices=TYPES, help="only these, one by one")
    parser.add_argument(
        "--step", metavar="N | A:B | last", help="of one step, of a range, or of the last one of each key"
    )
    parser.add_argument("--rank", type=int, metavar="N", help="of this node only")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="at most so many (200); 0: all")
    parser.add_argument("--save", metavar="DIR", help="fetch them into this folder")
    parser.add_argument("--thumbnails", action="store_true", help="with --save: the thumbnails instead")
    parser.add_argument(
        "--show", action="store_true", help=f"draw up to {_SHOWN} images (kitty, iTerm2, WezTerm), print tables"
    )
    parser.add_argument("--force", action="store_true", help="with --save: replace files that differ")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """List keys, or files, or fetch them."""
    first, last = _steps(args.step)
    if args.thumbnails and not args.save:
        raise UsageProblem("--thumbnails needs --save DIR", hint="incl media --help")
    if args.limit < 0:
        raise UsageProblem("--limit must not be negative")
    from incl_cli.look import find

    platform = await session.platform(args.project)
    view = await find(platform, args.experiment)
    experiment = view.row.id
    one_by_one = args.key or args.type or args.step or args.save or args.show or args.rank is not None
    if not one_by_one:
        _keys(session.out, await keys_of(platform, experiment), view.row.name)
        return 0
    from incl_shared.queries.tracker import ListArtifacts

    query = ListArtifacts(
        experiment=experiment, kind="media", medium=args.type, key=args.key, from_step=first, to_step=last,
        rank=args.rank, limit=_PAGE,
    )  # fmt: skip
    if args.step == "last":
        found, more = await _last(platform, query, args.limit)
    else:
        found, more = await _files(platform, query, args.limit)
    if not found:
        await _nothing(platform, experiment, args.key)
    if args.save:
        await _save(args, session.out, platform, experiment, found)
    elif args.show:
        await _show(session.out, platform, experiment, found)
    else:
        _list(session.out, found)
    if more:
        session.out.note(f"only the first {len(found)}: --limit 0 takes all, --step chooses", "dim")
    return 0


def _steps(text: str | None) -> tuple[int | None, int | None]:
    """'5' -> (5, 5), '5:' -> (5, None); 'last' is found later."""
    if text is None or text == "last":
        return None, None
    first, colon, last = text.partition(":")
    try:
        low, high = (int(part) if part else None for part in (first, last if colon else first))
    except ValueError:
        raise UsageProblem(
            f"--step cannot be {text[:40]!r}", hint="--step 5, --step 5:10, --step 5:, --step last"
        ) from None
    return low, high


async def keys_of(platform: Platform, experiment: str) -> list[MediaKey]:
    """All keys, page by page."""
    from incl_shared.queries.tracker import ListMediaKeys

    found: list[MediaKey] = []
    cursor: str | None = None
    while True:
        page = await platform.ask(ListMediaKeys(experiment=experiment, cursor=cursor))
        found += page.keys
        cursor = page.cursor
        if cursor is None:
            return found


async def _files(platform: Platform, query: ListArtifacts, limit: int) -> tuple[list[ArtifactView], bool]:
    """What is asked for, and whether there is more of it."""
    found: list[ArtifactView] = []
    while True:
        page = await platform.ask(query)
        found += page.artifacts
        if limit and len(found) > limit:
            return found[:limit], True
        if page.cursor is None:
            return found, False
        query = query.model_copy(update={"cursor": page.cursor})


async def _last(platform: Platform, query: ListArtifacts, limit: int) -> tuple[list[ArtifactView], bool]:
    """Of each key that is asked for the files of its last step."""
    found: list[ArtifactView] = []
    for key in await keys_of(platform, query.experiment):
        if query.key not in (None, key.key) or query.medium not in (None, key.type):
            continue
        step = {"from_step": key.last_step, "to_step": key.last_step, "key": key.key, "medium": key.type}
        files, more = await _files(platform, query.model_copy(update=step), limit - len(found) if limit else 0)
        found += files
        if more or (limit and len(found) >= limit):
            return found, True
    return found, False


async def _nothing(platform: Platform, experiment: str, key: str | None) -> None:
    """Say why nothing was found.

    Raises:
        NotFoundError: there is no such key.
    """
    from incl_cli.arguments import did_you_mean
    from incl_shared.errors import NotFoundError

    known = [one.key for one in await keys_of(platform, experiment)]
    if key is not None and key not in known:
        names = ", ".join(known[:20]) or "none"
        raise NotFoundError(
            f"nothing was logged as {key[:80]!r}", cause=f"keys: {names}", hint=did_you_mean(key, known)
        )


def _keys(out: Output, keys: list[MediaKey], name: str) -> None:
    from incl_cli.text import Column, size, table

    if out.as_json:
        out.json(keys)
        return
    if not keys:
        out.note(f"{name} has logged no images, tables or texts", "dim")
        return
    rows: list[Row] = [
        (one.key, one.type, f"{one.count:,}", _range(one.first_step, one.last_step), size(one.bytes)) for one in keys
    ]
    columns = [Column("key", flexible=True, least=20), Column("type"), Column("count", right=True)]
    for line in table(out, [*columns, Column("steps", right=True), Column("size", right=True)], rows):
        out.line(line)


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} – {last}"


def _list(out: Output, found: list[ArtifactView]) -> None:
    from incl_cli.text import Column, size, table

    if out.as_json:
        out.json(found)
        return
    rows: list[Row] = []
    for one in found:
        medium = one.medium
        caption = " ".join(medium.caption.split()) if medium else ""
        step = "" if one.step is None else str(one.step)
        rows.append((step, one.path, _shape(one), size(one.size), str(one.attempt), str(one.rank), caption))
    columns = [
        Column("step", right=True), Column("file", flexible=True, least=20), Column("shape", right=True),
        Column("size", right=True), Column("attempt", right=True), Column("rank", right=True),
        Column("caption", flexible=True),
    ]  # fmt: skip
    for line in table(out, columns, rows) if rows else ():
        out.line(line)


def _shape(one: ArtifactView) -> str:
    """'640 x 480' of an image, '1,000 rows x 5' of a table."""
    thumbnail = one.medium.thumbnail if one.medium else None
    if thumbnail is None:
        return ""
    if thumbnail.width is not None and thumbnail.height is not None:
        return f"{thumbnail.width} x {thumbnail.height}"
    rows = "many" if thumbnail.rows is None else f"{thumbnail.rows:,}"
    return f"{rows} rows x {thumbnail.columns}"


def _entry(one: ArtifactView, *, thumbnail: bool = False) -> Entry | None:
    """As the artifact store lists it; of its thumbnail, where it has one."""
    from incl_shared.queries.registry import Entry

    fields: dict[str, Any] = {
        "attempt": one.attempt, "rank": one.rank, "kind": one.kind, "path": one.path, "sha256": one.sha256,
        "size": one.size, "step": one.step,
    }  # fmt: skip
    if thumbnail:
        small = one.medium.thumbnail if one.medium else None
        if small is None:
            return None
        fields |= {"sha256": small.sha256, "size": small.size, "path": f"{one.path[:2000]}.thumbnail.{small.format}"}
    return Entry(**fields)


async def _save(
    args: argparse.Namespace, out: Output, platform: Platform, experiment: str, found: list[ArtifactView]
) -> None:
    from incl_cli.artifacts import newest
    from incl_cli.commands.download import fetch

    entries = [entry for one in found if (entry := _entry(one, thumbnail=args.thumbnails)) is not None]
    if args.thumbnails and len(entries) < len(found):
        out.note(f"{len(found) - len(entries)} have no thumbnail", "dim")
    if not entries:
        if out.as_json:
            out.json([])
        return
    await fetch(args, out, platform, experiment, newest(entries), Path(args.save))


async def _show(out: Output, platform: Platform, experiment: str, found: list[ArtifactView]) -> None:
    """Thumbnails of images drawn in the terminal, first rows of tables printed."""
    import tempfile

    from incl_cli.inline_images import protocol
    from incl_cli.platform import Wanted
    from incl_cli.text import plain
    from incl_shared.errors import InvalidInput

    shown = [one for one in found if one.medium is not None and one.medium.thumbnail is not None][:_SHOWN]
    draw = protocol(out)
    if draw is None and any(one.medium is not None and one.medium.type == "image" for one in shown):
        raise InvalidInput(
            "this terminal is not known to show images", hint="incl media … --save DIR, and open them there"
        )
    with tempfile.TemporaryDirectory() as folder:
        wanted = {}
        for number, one in enumerate(shown):
            entry = _entry(one, thumbnail=True)
            if entry is not None:
                wanted[number] = Wanted(entry.sha256, entry.size, Path(folder, str(number)))
        await platform.download(experiment, list(wanted.values()), lambda _: None)
        for number, one in enumerate(shown):
            caption = plain(" ".join(one.medium.caption.split())) if one.medium else ""
            out.line(out.paint(f"{plain(one.path)}  {_shape(one)}  {caption}".rstrip(), "dim"))
            data = wanted[number].target.read_bytes()
            if one.medium is not None and one.medium.type == "image":
                if draw is not None:
                    out.line(draw(data))
            else:
                _first_rows(out, data)
    if len(found) > len(shown):
        out.note(f"… and {len(found) - len(shown)} more", "dim")


def _first_rows(out: Output, data: bytes) -> None:
    import json

    from incl_cli.text import Column, table

    document = json.loads(data)
    columns = [Column(str(name), flexible=True) for name in document["columns"]]
    width = len(columns)
    rows: list[Row] = [[str(cell) for cell in line[:width]] + [""] * (width - len(line)) for line in document["cells"]]
    for line in table(out, columns, rows, indent="  ") if rows and columns else ():
        out.line(line)
