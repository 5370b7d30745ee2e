"""incl compare."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem, common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_cli.text import Row
    from incl_shared.queries.tracker import ExperimentView

EXAMPLES = """  incl compare 3f9k2x7q 8d2mz0aa
  incl compare @last @last~1 --all
  incl compare $(incl ls -q 'tag = sweep') --json"""
_MOST = 20
_SILENT = ("notes", "tags", "name", "project", "env")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", nargs="+", help="two or more: id, the end of one, name, @last, @last~1")
    parser.add_argument("-a", "--all", action="store_true", help="what is equal too")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Compare."""
    from incl_cli.look import find_all

    if not 2 <= len(args.experiment) <= _MOST:
        raise UsageProblem(f"from 2 to {_MOST} experiments can be compared", hint="incl compare @last @last~1")
    platform = await session.platform(args.project)
    views = await find_all(platform, args.experiment)
    if len(views) < 2:
        raise UsageProblem("these are all the same experiment", hint="incl ls shows others")
    sections = compare(views, everything=args.all, written=not args.json)
    if args.json:
        session.out.json({"experiments": [{"id": view.row.id, "name": view.row.name} for view in views], **sections})
    else:
        _print(session.out, views, sections)
    cut = [view for view in views if view.metric_count > len(view.metrics)]
    if cut:
        shown, all_ = len(cut[0].metrics), cut[0].metric_count
        session.out.note(f"of the {all_:,} metrics of {cut[0].row.name} the first {shown:,} were compared", "dim")
    return 0


def compare(
    views: Sequence[ExperimentView], *, everything: bool = False, written: bool = False
) -> dict[str, dict[str, list[Any]]]:
    """section -> key -> a value for each experiment (none: it has none); metrics always, the rest where it differs.

    written: sizes and durations of the file as people write them, not as bytes and seconds.
    """
    from incl_cli.look import is_own

    sections = {
        "result": [_result(view) for view in views],
        "config": [dict(view.config) for view in views],
        "env": [dict(view.spec.env) if view.spec else {} for view in views],
        "spec": [_spec(view, written=written) for view in views],
        "code": [_code(view) for view in views],
        "metrics": [{m.name: m.last for m in view.metrics if everything or is_own(m.name)} for view in views],
        "best": [{m.name: m.best for m in view.metrics if m.best is not None} for view in views],
    }
    found = {}
    for name, columns in sections.items():
        keys = list(dict.fromkeys(key for column in columns for key in column))
        rows = {key: [column.get(key) for column in columns] for key in keys}
        always = everything or name in ("metrics", "best")
        found[name] = {key: row for key, row in rows.items() if always or any(value != row[0] for value in row)}
    return found


def _result(view: ExperimentView) -> dict[str, Any]:
    from incl_cli.summary import took

    ran = took(view)
    return {
        "state": view.row.state.value,
        "reason": view.row.reason.value if view.row.reason else None,
        "attempts": view.row.attempts,
        "duration_s": round(ran, 1) if ran is not None else None,
        "points": view.points,
    }


def _spec(view: ExperimentView, *, written: bool) -> dict[str, Any]:
    if view.spec is None:
        return {}
    from incl_shared.specfile import spec_values

    flat = _flat(spec_values(view.spec) if written else view.spec.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if key.split(".")[0] not in _SILENT}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, child in value.items():
        if isinstance(child, Mapping) and child:
            flat |= _flat(child, f"{prefix}{key}.")
        elif not isinstance(child, Mapping):
            flat[f"{prefix}{key}"] = child
    return flat


def _code(view: ExperimentView) -> dict[str, Any]:
    origin = view.provenance
    return {
        "git commit": origin.git_commit[:12] if origin.git_commit else None,
        "git branch": origin.git_branch,
        "uncommitted": origin.diff_sha256[:12] if origin.diff_sha256 else None,
        "code": view.code.sha256[:12] if view.code else None,
        "python": origin.python or None,
        "packages": origin.packages_sha256[:12] if origin.packages_sha256 else None,
    }


def _print(out: Output, views: Sequence[ExperimentView], sections: dict[str, dict[str, list[Any]]]) -> None:
    from incl_cli.text import Cell, Column, table
    from incl_shared.ids import short

    rows: list[Row] = [(Cell("name", "dim"), *(view.row.name for view in views))]
    for name, section in sections.items():
        if section:
            rows.append((Cell(name, "bold"), *("" for _ in views)))
        rows += [(f"  {key}", *(_cell(value) for value in values)) for key, values in section.items()]
    columns = [Column("", flexible=True, least=14)]
    columns += [Column(short(view.row.id), flexible=True, least=10) for view in views]
    for line in table(out, columns, rows):
        out.line(line)
    if not any(section for name, section in sections.items() if name not in ("metrics", "best")):
        out.note("nothing else differs", "dim")


def _cell(value: Any) -> str:
    import shlex

    from incl_cli.text import number

    if isinstance(value, list) and value[:2] == ["sh", "-c"] and len(value) == 3:
        return str(value[2])
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(float(value)) if isinstance(value, float) else str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return shlex.join(value) if value else "-"
    if isinstance(value, list | dict):
        return "; ".join(map(_fields, value)) if isinstance(value, list) else _fields(value)
    return str(value)


def _fields(value: Any) -> str:
    """What is set of a mapping in a list: 'path /srv/data, mount /data'."""
    if not isinstance(value, dict):
        return _cell(value)
    return ", ".join(f"{key} {_cell(child)}" for key, child in value.items() if child not in (None, "", [], {}))
