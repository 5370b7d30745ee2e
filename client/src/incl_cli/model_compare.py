"""incl model compare, and incl model card: what is read off the records of versions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from incl_cli import model_names
from incl_cli.arguments import UsageProblem
from incl_cli.text import Cell, Column, Row, moment, number, plain, size, table

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_shared.queries.models import ModelFile, VersionView

_MADE_BY = (
    "experiment", "attempt", "command", "git_commit", "git_branch", "git_dirty", "code", "diff", "packages", "python",
    "image", "image_digests", "data", "seed",
)  # fmt: skip


async def compare(args: argparse.Namespace, session: Session) -> int:
    """incl model compare: only what differs, unless --all."""
    references = [model_names.parse(text) for text in args.references]
    if len(references) < 2:
        raise UsageProblem("name two versions or more", hint="incl model compare chest-xray:2 chest-xray@production")
    platform = await session.platform(args.project)
    views = [await model_names.version(platform, reference) for reference in references]
    columns = [facts(view, await model_names.files(platform, view)) for view in views]
    names = [f"{view.model}:{view.number}" for view in views]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = {key: [column.get(key) for column in columns] for key in keys}
    differing = {key: values for key, values in rows.items() if any(value != values[0] for value in values)}
    shown = rows if args.all else differing
    if args.json:
        session.out.json({"versions": names, "rows": shown})
        return 0
    if not shown:
        session.out.note("they do not differ", "dim")
        return 0
    heads = [Column("", flexible=True), *(Column(name, flexible=True, least=12) for name in names)]
    cells: list[Row] = [
        (Cell(key, "bold" if key in differing else ""), *(_short(value) for value in values))
        for key, values in shown.items()
    ]
    for line in table(session.out, heads, cells):
        session.out.line(line)
    return 0


def facts(view: VersionView, files: list[ModelFile]) -> dict[str, Any]:
    """Everything that two versions can differ in, by name."""
    found: dict[str, Any] = {}
    made = view.lineage
    if made is not None:
        found |= {
            f"metric {name}": one.best if one.best is not None else one.last for name, one in made.metrics.items()
        }
        found |= _named("env", made.environment) | _named("config", made.config)
        found |= {name: _plain(getattr(made, name)) for name in _MADE_BY}
        found["hardware"] = [f"{one.node} {one.machine} {one.gpus}".strip() for one in made.hardware]
    found |= {"size": view.size} | {f"file {file.path}": file.sha256 for file in files}
    found |= _named("metadata", view.metadata) | {"tags": list(view.tags), "note": view.note}
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}


def _named(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{kind} {name}": value for name, value in values.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else " ".join(text.split())


async def card(args: argparse.Namespace, session: Session) -> int:
    """incl model card: a first draft in Markdown, of what is known."""
    platform = await session.platform(args.project)
    view = await model_names.version(platform, model_names.parse(args.reference))
    text = "\n".join(draft(view, await model_names.files(platform, view)))
    if args.json:
        session.out.json({"model": view.model, "number": view.number, "card": text})
        return 0
    session.out.line(text)
    session.out.note(f"keep what you make of it: incl model set {view.model}:{view.number} --note @card.md", "dim")
    return 0


def draft(view: VersionView, files: list[ModelFile]) -> Iterator[str]:
    """The lines of a model card. What only people know is a question in it; foreign words are code, never markup."""
    made = view.lineage
    yield f"# {view.model}, version {view.number}"
    yield ""
    yield f"Registered {moment(view.created)} by {view.by}. {len(files)} file(s), {size(view.size)}."
    for title, question in (
        ("Intended use", "For whom and for what? What is it not for?"),
        ("Limits and risks", "Where does it fail? Which groups or sites were not in the data?"),
    ):
        yield from ("", f"## {title}", "", f"_{question}_")
    if made is None:
        return
    yield from ("", "## Results", "")
    if made.metrics:
        yield from ("| metric | last | best |", "|---|---|---|")
        yield from (
            f"| {_code(name)} | {number(one.last)} | {number(one.best)} |" for name, one in made.metrics.items()
        )
    else:
        yield "_No metric was logged. On which data was it tested, and how good is it?_"
    yield from ("", "## How it was made", "")
    for name in _MADE_BY:
        value = getattr(made, name)
        if value not in (None, "", (), False):
            yield f"- {name.replace('_', ' ')}: {_code(', '.join(value) if isinstance(value, tuple) else value)}"
    yield from (f"- {name}: {_code(value)}" for name, value in sorted((made.environment | made.config).items()))
    yield from (f"- rank {one.rank}: {_code(f'{one.node} {one.machine} {one.zone}'.strip())}" for one in made.hardware)
    if made.missing:
        yield from ("", "## Not known", "")
        yield from (f"- {_code(text)}" for text in made.missing)
    yield from ("", "## Files", "", f"manifest `{view.manifest}`", "")
    yield from (f"- {_code(file.path)}: `{file.sha256}`, {size(file.size)}" for file in files[:100])


def _code(value: object) -> str:
    """As code in Markdown, on one line, whatever it holds: nothing in it is markup, or ends a table's cell."""
    text = plain(" ".join(str(value).split()))[:500].replace("`", "'").replace("|", "/")
    return f"`{text}`" if text else ""
