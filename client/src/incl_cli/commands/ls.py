"""incl ls."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import Parser, common

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_cli.text import Row
    from incl_shared.queries.tracker import ExperimentRow

EXAMPLES = """  incl ls
  incl ls 'val_acc > 0.9 and status = finished' --sort -val_acc
  incl ls 'tag = baseline and not status in (failed, stopped)' --limit 200 --json
  incl ls 'created > 3d ago and duration > 1h and env.LR < 0.01'
  incl ls --trash        what incl rm put there; incl restore brings it back
  incl ls --group-by user,state
  incl ls 'tag = sweep' --group-by param.lr,param.optimizer --metric val_acc --metric loss

groups:
  --group-by counts the experiments that pass by the values of 1 to 3 fields: how many, their states, and of each
  --metric the mean ± standard deviation, least and greatest of the last values; the greatest group first. Times are
  grouped by their day (UTC); an experiment with several tags is in several groups

filters:
  FIELD = != < <= > >= VALUE, FIELD ~ TEXT (contains), FIELD in (A, B); and, or, not, ( )
  fields: id name user project tag status reason nodes gpus attempts created started ended duration;
  any other name is a metric; metric.NAME, config.NAME, env.NAME and param.NAME say which kind it is"""

_NEWEST, _USUAL = "-created", 25


def arguments(parser: Parser) -> None:
    """Declare the arguments."""
    parser.dashed = ("--sort",)
    parser.add_argument("filter", nargs="?", default="", help="which ones: 'val_acc > 0.9 and status = finished'")
    parser.add_argument("--sort", default=None, metavar="KEY", help="order; - before it: greatest first (-created)")
    parser.add_argument("-n", "--limit", type=int, default=None, metavar="N", help="at most so many (25; groups: 100)")
    parser.add_argument("--group-by", metavar="FIELDS", help="count them by these fields: user,param.lr")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="with --group-by: a metric's mean (repeatable)"
    )
    parser.add_argument("--trash", action="store_true", help="what lies in the trash, and nothing else")
    parser.add_argument("--project", help="another project than the usual one")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only, one a line")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """List."""
    from incl_cli.arguments import UsageProblem

    if args.limit is not None and args.limit < 1:
        raise UsageProblem("--limit must be at least 1")
    if args.group_by is not None:
        from incl_cli import grouping

        return await grouping.run(args, session)
    if args.metric:
        raise UsageProblem("--metric needs --group-by", hint="incl ls --group-by user --metric " + args.metric[0][:80])
    if args.filter or args.sort is not None:
        check_filter(args.filter, args.sort or "")
    args.sort = _NEWEST if args.sort is None else args.sort
    args.limit = _USUAL if args.limit is None else args.limit
    platform = await session.platform(args.project)
    rows, more = await _rows(platform, args)
    out = session.out
    if args.json:
        out.json([row.model_dump(mode="json") for row in rows])
    elif args.quiet:
        for row in rows:
            out.line(row.id)
    elif not rows:
        out.note(_nothing(args), "dim")
    else:
        _print(out, rows)
        if more:
            out.note(f"… there are more: incl ls --limit {args.limit * 4}", "dim")
    return 0


def _nothing(args: argparse.Namespace) -> str:
    if args.filter:
        return "no experiments match" + (" in the trash" if args.trash else "")
    return "the trash is empty" if args.trash else "no experiments yet: incl run -- python train.py"


def check_filter(text: str, sort: str) -> None:
    """Complain here, with a caret, before anyone is asked.

    Raises:
        InvalidInput: by the grammar.
        UsageProblem: it is a lonely word, which is probably a name.
    """
    import re

    from incl_cli.arguments import UsageProblem
    from incl_shared.filters import parse, parse_sort

    if re.fullmatch(r"[\w.@~-]+", text):
        raise UsageProblem(
            f"{text!r} is a word, not a filter",
            hint=f"incl ls 'name ~ \"{text}\"', incl show {text}, or a comparison such as loss < 0.1",
        )
    parse(text)
    parse_sort(sort)


async def _rows(platform: Any, args: argparse.Namespace) -> tuple[list[ExperimentRow], bool]:
    from incl_shared.queries.tracker import ListExperiments

    rows: list[ExperimentRow] = []
    cursor: str | None = None
    query = ListExperiments(filter=args.filter, sort=args.sort, trash=args.trash)
    while True:
        limit = min(1000, args.limit - len(rows))
        page = await platform.ask(query.model_copy(update={"limit": limit, "cursor": cursor}))
        rows.extend(page.rows)
        cursor = page.cursor
        if cursor is None or len(rows) >= args.limit or not page.rows:
            return rows[: args.limit], cursor is not None


def _print(out: Any, rows: list[ExperimentRow]) -> None:
    import time

    from incl_cli.look import state_cell
    from incl_cli.text import Cell, Column, age, duration, number, table
    from incl_shared.ids import short

    now = time.time()
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))[:5]
    columns = [
        Column("id"),
        Column("name", flexible=True, least=10),
        Column("state", flexible=True),
        Column("took", right=True),
        *(Column(name, right=True, flexible=True) for name in names),
        Column("created"),
        Column("tags", flexible=True, least=5),
        Column("", flexible=True, least=0),
    ]
    cells: list[Row] = []
    for row in rows:
        took = (row.ended or now) - row.started if row.started else None
        cells.append(
            [
                Cell(short(row.id), "bold"),
                row.name,
                state_cell(row.state.value, row.reason.value if row.reason else None),
                duration(took) if took is not None else "",
                *(number(row.metrics[name]) if name in row.metrics else "" for name in names),
                Cell(age(row.created, now), "dim"),
                Cell(",".join(row.tags), "dim"),
                Cell(row.waiting if row.state.value == "queued" else "", "dim"),
            ]
        )
    for line in table(out, columns, cells):
        out.line(line)
