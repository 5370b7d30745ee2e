"""Experiments in groups, as `incl ls --group-by` shows them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem
from incl_cli.look import STATE_STYLES
from incl_cli.text import Cell, Column, number, table

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_cli.text import Row
    from incl_shared.queries.tracker import Aggregate, ExperimentGroup, GroupExperiments

MOST = 3
MOST_METRICS = 10
USUAL = 100
"""Groups shown when nobody says how many."""
_PAGE = 1000
_QUOTES = "\"'`"


async def run(args: argparse.Namespace, session: Session) -> int:
    """Ask for the groups, and print them."""
    query, wanted = _query(args), USUAL if args.limit is None else args.limit
    platform = await session.platform(args.project)
    groups, more = await _groups(platform, query, wanted)
    out = session.out
    if args.json:
        out.json([{"by": list(query.by), **one.model_dump(mode="json")} for one in groups])
    elif not groups:
        where = " in the trash" if args.trash else ""
        out.note(f"no experiments{' match' if args.filter else ''}{where}", "dim")
    else:
        _print(out, query, groups)
        if more:
            out.note(f"… there are more: incl ls --group-by {args.group_by} --limit {wanted * 4}", "dim")
    return 0


def _query(args: argparse.Namespace) -> GroupExperiments:
    """The question, checked here before anyone is asked.

    Raises:
        UsageProblem: options that do not go with groups, or too many fields or metrics.
        InvalidInput: by the grammar.
    """
    from incl_shared.filters import parse, parse_field
    from incl_shared.queries.tracker import GroupExperiments

    by = _fields(args.group_by)
    if not 1 <= len(by) <= MOST:
        raise UsageProblem(
            f"--group-by takes 1 to {MOST} fields, not {len(by)}", hint="such as --group-by user,param.lr"
        )
    if len(args.metric) > MOST_METRICS:
        raise UsageProblem(f"--metric is given {len(args.metric)} times; at most {MOST_METRICS}")
    if args.quiet:
        raise UsageProblem("-q lists ids, and groups have none", hint="leave out -q, or --group-by")
    if args.sort is not None:
        raise UsageProblem("--sort is for experiments; groups come by their size", hint="leave out --sort")
    parse(args.filter)
    for field in by:
        parse_field(field)
    return GroupExperiments(by=tuple(by), filter=args.filter, metrics=tuple(args.metric), trash=args.trash)


def _fields(text: str) -> list[str]:
    """The fields between commas; a name in quotes may have commas itself."""
    found, quote = [""], ""
    for letter in text:
        if quote or letter in _QUOTES:
            quote = "" if letter == quote else quote or letter
        if letter == "," and not quote:
            found.append("")
        else:
            found[-1] += letter
    return [field.strip() for field in found if field.strip()]


async def _groups(platform: Any, query: GroupExperiments, wanted: int) -> tuple[list[ExperimentGroup], bool]:
    """As many groups as wanted, whatever a page holds; whether there are more."""
    groups: list[ExperimentGroup] = []
    cursor: str | None = None
    while True:
        limit = min(_PAGE, wanted - len(groups))
        page = await platform.ask(query.model_copy(update={"limit": limit, "cursor": cursor}))
        groups.extend(page.groups)
        cursor = page.cursor
        if cursor is None or len(groups) >= wanted or not page.groups:
            return groups[:wanted], cursor is not None


def _print(out: Output, query: GroupExperiments, groups: list[ExperimentGroup]) -> None:
    from incl_shared.ids import short

    columns = [*(Column(field, flexible=True) for field in query.by), Column("runs", right=True), Column("states")]
    for name in query.metrics:
        columns += [Column(f"{name} {what}", right=True, flexible=True) for what in ("mean", "min", "max")]
    columns.append(Column("newest"))
    rows: list[Row] = []
    for one in groups:
        cells: list[Cell | str] = [_value(value) for value in one.values]
        cells += [Cell(f"{one.experiments:,}", "bold"), _states(one)]
        for name in query.metrics:
            found = one.metrics.get(name)
            if found is None:
                cells += ["", "", ""]
            else:
                cells += [_mean(found, one.experiments), number(found.minimum), number(found.maximum)]
        rows.append([*cells, Cell(short(one.newest), "dim")])
    for line in table(out, columns, rows):
        out.line(line)


def _value(value: str | None) -> Cell | str:
    return Cell("none", "dim") if value is None else value or Cell("''", "dim")


def _states(one: ExperimentGroup) -> Cell:
    """'12 finished, 3 failed'; in its colour where it is one state."""
    states = {state.value: one.states[state] for state in type(next(iter(one.states))) if state in one.states}
    if len(states) == 1:
        (state,) = states
        return Cell(state, STATE_STYLES.get(state, ""))
    return Cell(", ".join(f"{count:,} {state}" for state, count in states.items()))


def _mean(found: Aggregate, experiments: int) -> str:
    """'0.93 ± 0.012', and of how many where not all have the metric."""
    text = number(found.mean) + (f" ± {found.deviation:.2g}" if found.count > 1 else "")
    return text if found.count == experiments else f"{text} (of {found.count:,})"
