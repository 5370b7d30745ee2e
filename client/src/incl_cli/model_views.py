"""incl model ls|show|history|verify: what is looked at."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from incl_cli import model_names
from incl_cli.arguments import UsageProblem
from incl_cli.text import Cell, Column, Row, age, moment, number, plain, plural, size, table
from incl_shared.ids import short
from incl_shared.queries.models import (
    GetTrail,
    Lineage,
    ListModels,
    ListVersions,
    ModelRow,
    TrailEntry,
    VerifyModel,
    VersionPage,
    VersionView,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from incl_cli.output import Output
    from incl_cli.running import Session

DAMAGED = 8
"""The exit code of a trail that is not whole, as of damaged bytes."""
_SHOWN_FILES = 20


async def list_models(args: argparse.Namespace, session: Session) -> int:
    """incl model ls."""
    _at_least_one(args.limit)
    if len(args.contains) > 63:
        raise UsageProblem("no name of a model is so long", hint="incl model ls")
    platform = await session.platform(args.project)
    rows: list[ModelRow] = []
    cursor: str | None = None
    while len(rows) < args.limit:
        page = await platform.ask(
            ListModels(contains=args.contains, trash=args.trash, limit=min(200, args.limit - len(rows)), cursor=cursor)
        )
        rows += page.models
        cursor = page.cursor
        if cursor is None:
            break
    if args.json:
        session.out.json([row.model_dump(mode="json") for row in rows])
    elif not rows:
        session.out.note("no models: incl model register @last --name NAME --path FILE", "dim")
    else:
        columns = [
            Column("model", flexible=True, least=12), Column("newest", right=True), Column("aliases", flexible=True),
            Column("tags", flexible=True), Column("changed"),
        ]  # fmt: skip
        cells: list[Row] = [
            (Cell(row.name, "bold"), str(row.newest), _aliases(row), ", ".join(row.tags), Cell(age(row.changed), "dim"))
            for row in rows
        ]
        for line in table(session.out, columns, cells):
            session.out.line(line)
    return 0


def _at_least_one(limit: int) -> None:
    if limit < 1:
        raise UsageProblem(f"--limit needs at least 1, not {limit}")


def _aliases(row: ModelRow) -> str:
    return ", ".join(f"{one.alias} → {one.number}{' (protected)' if one.protected else ''}" for one in row.aliases)


async def show(args: argparse.Namespace, session: Session) -> int:
    """incl model show: the model, or one version."""
    _at_least_one(args.limit)
    reference = model_names.parse(args.reference)
    platform = await session.platform(args.project)
    if reference.number is not None or reference.alias is not None:
        view = await model_names.version(platform, reference)
        files = await model_names.files(platform, view)
        if args.json:
            listed = [file.model_dump(mode="json", exclude={"kind"}) for file in files]
            session.out.json(view.model_dump(mode="json") | {"listed": listed})
        else:
            for line in _version(session.out, view, [(file.path, file.size) for file in files]):
                session.out.line(line)
        return 0
    pages: list[VersionPage] = []
    versions: list[VersionView] = []
    cursor: int | None = None
    while not pages or (cursor is not None and len(versions) < args.limit):
        limit = min(100, args.limit - len(versions))
        pages.append(await platform.ask(ListVersions(model=reference.model, limit=limit, cursor=cursor)))
        versions += pages[-1].versions
        cursor = pages[-1].cursor
    model = pages[0].model
    if args.json:
        shown = [view.model_dump(mode="json", exclude={"lineage"}) for view in versions]
        session.out.json(model.model_dump(mode="json") | {"versions": shown})
    else:
        _model(session.out, model, versions, more=cursor is not None)
    return 0


def _model(out: Output, model: ModelRow, versions: Sequence[VersionView], *, more: bool) -> None:
    out.line(
        out.paint(model.name, "bold") + f"  {plural(model.newest, 'version')}, made by {model.by} {age(model.created)}"
    )
    if model.trashed is not None:
        out.line(out.paint(f"in the trash since {moment(model.trashed)}", "yellow"))
    for line in _words(out, model):
        out.line(line)
    columns = [
        Column("version", right=True), Column("aliases", flexible=True), Column("experiment"),
        Column("files", right=True), Column("size", right=True), Column("by"), Column("registered"),
        Column("tags", flexible=True),
        Column("note", flexible=True),
    ]  # fmt: skip
    rows: list[Row] = [
        (
            Cell(str(one.number), "bold"), Cell(", ".join(one.aliases), "green"), short(one.experiment), str(one.files),
            size(one.size), one.by, Cell("in the trash" if one.trashed else age(one.created), "dim"),
            ", ".join(one.tags), one.note.partition("\n")[0],
        )
        for one in versions
    ]  # fmt: skip
    for line in table(out, columns, rows) if rows else ():
        out.line(line)
    if more:
        out.note("older ones: --limit shows more", "dim")


def _words(out: Output, view: ModelRow | VersionView) -> Iterator[str]:
    if view.tags:
        yield f"  tags         {plain(', '.join(view.tags))}"
    for key, value in view.metadata.items():
        yield f"  {plain(key).ljust(12)} {plain(json.dumps(value, ensure_ascii=False))}"
    if view.note:
        yield from (out.paint("  " + plain(line), "dim") for line in view.note.splitlines())


def _version(out: Output, view: VersionView, files: Sequence[tuple[str, int]]) -> Iterator[str]:
    aliases = "".join(out.paint(f"  @{alias}", "green") for alias in view.aliases)
    yield out.paint(f"{view.model}:{view.number}", "bold") + aliases
    yield f"  registered   {moment(view.created)} by {view.by}"
    yield from _words(out, view)
    yield f"  files        {plural(view.files, 'file')}, {size(view.size)}, manifest {view.manifest[:12]}"
    for path, length in files[:_SHOWN_FILES]:
        yield f"    {plain(path)}  {out.paint(size(length), 'dim')}"
    if len(files) > _SHOWN_FILES:
        yield out.paint(f"    and {len(files) - _SHOWN_FILES:,} more", "dim")
    if view.lineage is not None:
        yield out.paint("made by", "bold")
        for name, text in _lineage(view.lineage):
            if text:
                yield f"  {name.ljust(12)} {plain(text)}"
        for text in view.lineage.missing:
            yield out.paint(f"  not known    {plain(text)}", "yellow")


def _lineage(made: Lineage) -> Iterator[tuple[str, str]]:
    yield "experiment", f"{made.experiment} {made.name}, attempt {made.attempt}, of {made.user}"
    yield "command", made.command
    branch = f" on {made.git_branch}" if made.git_branch else ""
    changed = ", with changes that were not committed" + (" (kept)" if made.diff else "") if made.git_dirty else ""
    yield "git", f"{made.git_commit[:12]}{branch}{changed}" if made.git_commit else ""
    yield "code", made.code[:12] if made.code else ""
    yield "image", f"{made.image} {' '.join(made.image_digests)}".strip() if made.image else ""
    yield "packages", f"{made.packages[:12]}, Python {made.python}" if made.packages else ""
    yield "data", ", ".join(made.data)
    yield "seed", made.seed or ""
    for one in made.hardware:
        gpus = f", {plural(one.gpus, 'GPU')}" if one.gpus else ""
        where = f", {one.machine} in {one.zone}{' (spot)' if one.spot else ''}" if one.machine else ""
        yield f"rank {one.rank}", f"{one.node}{where}{gpus}"
    values = [
        f"{name} {number(one.last)}" + (f" (best {number(one.best)})" if one.best is not None else "")
        for name, one in made.metrics.items()
    ]
    yield "metrics", ", ".join(values[:8]) + (" …" if len(values) > 8 else "")


async def history(args: argparse.Namespace, session: Session) -> int:
    """incl model history."""
    _at_least_one(args.limit)
    model = model_names.name(args.model)
    alias = model_names.name(args.alias) if args.alias else None
    platform = await session.platform(args.project)
    entries: list[TrailEntry] = []
    cursor: int | None = None
    while len(entries) < args.limit:
        query = GetTrail(model=model, alias=alias, limit=min(100, args.limit - len(entries)), cursor=cursor)
        page = await platform.ask(query)
        entries += page.entries
        cursor = page.cursor
        if cursor is None:
            break
    if args.json:
        session.out.json([entry.model_dump(mode="json") for entry in entries])
        return 0
    columns = [Column("", right=True), Column("when"), Column("by"), Column("what", flexible=True, least=30)]
    rows: list[Row] = [
        (Cell(str(entry.sequence), "dim"), moment(entry.time), Cell(entry.by, "bold"), _said(entry))
        for entry in entries
    ]
    for line in table(session.out, columns, rows) if rows else ():
        session.out.line(line)
    return 0


def _said(entry: TrailEntry) -> str:
    known: dict[str, Any] = entry.details
    which = f"version {known['number']}" if known.get("number") is not None else "the model"
    if entry.action == "registered":
        made = f"{plural(int(known.get('files', 0)), 'file')} of {short(str(known.get('experiment')))}"
        return f"registered {which}: {made}, manifest {str(known.get('manifest'))[:12]}"
    if entry.action == "alias":
        before = f", from {known['previous']}" if known.get("previous") else ""
        where = f"to {known['number']}" if known.get("number") else "away"
        reason = f": {known['reason']}" if known.get("reason") else ""
        return f"moved {known.get('alias')} {where}{before}{reason}"
    if entry.action in ("asked", "approved", "refused", "protected", "unprotected"):
        return _of_approvals(entry)
    if entry.action == "changed":
        fields = [name for name in known if name != "number"]
        return f"changed the {' and '.join(fields)} of {which}"
    if entry.action in ("trashed", "restored"):
        return f"put {which} into the trash" if entry.action == "trashed" else f"took {which} out of the trash"
    if entry.action == "purged":
        return f"purged the versions {', '.join(str(one) for one in known.get('numbers', ()))}"
    return f"{entry.action} {which}"


def _of_approvals(entry: TrailEntry) -> str:
    known: dict[str, Any] = entry.details
    alias, reason = known.get("alias"), f": {known['reason']}" if known.get("reason") else ""
    request = f" (request {known['request']})" if known.get("request") else ""
    if entry.action == "asked":
        where = "unprotected" if known.get("unprotect") else f"moved to {known.get('number') or 'nothing'}"
        return f"asked for {alias} to be {where}{request}{reason}"
    if entry.action in ("approved", "refused"):
        return f"{entry.action} what {known.get('asked_by')} asked for {alias}{request}{reason}"
    return f"{alias} is {entry.action}{request}{reason}"


async def verify(args: argparse.Namespace, session: Session) -> int:
    """incl model verify; exit code 8 when something is wrong."""
    model = model_names.name(args.model)
    head = args.head.lower() if args.head else None
    if head is not None and (len(head) != 64 or set(head) - set("0123456789abcdef")):
        raise UsageProblem("--head takes the 64 hexadecimal digits that incl model verify prints")
    platform = await session.platform(args.project)
    found = await platform.ask(VerifyModel(model=model, head=head), timeout=120.0)
    out = session.out
    if args.json:
        out.json(found)
    for problem in found.problems if not args.json else ():
        out.line(out.paint("✗ ", "red") + plain(problem))
    if found.problems:
        out.note(f"{model}: {plural(len(found.problems), 'problem')}; the registry's backup has what was", "red")
        return DAMAGED
    if not args.json:
        out.line(found.head)
        entries = f"{found.entries} entr{'y' if found.entries == 1 else 'ies'}"
        out.note(f"whole: {entries}, {plural(found.versions, 'version')}; all that they tell of is there", "green")
        out.note("the last hash is above: kept elsewhere it proves later, by --head, that nothing was changed", "dim")
    return 0
