"""incl queue."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_cli.text import Cell, Row
    from incl_shared.queries.provisioner import Cluster, NodeView

EXAMPLES = """  incl queue
  incl queue --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Show the machines and the queue."""
    from incl_shared.queries.provisioner import GetCluster

    platform = await session.platform(args.project)
    cluster = await platform.ask(GetCluster())
    if args.json:
        session.out.json(cluster)
    else:
        _print(session.out, cluster)
    return 0


def _print(out: Output, cluster: Cluster) -> None:
    from incl_cli.text import Cell, Column, duration, number, plural, size, table
    from incl_shared.ids import short

    columns = [
        Column("machine", flexible=True),
        Column("state"),
        Column("cores", right=True),
        Column("memory", right=True),
        Column("gpus", right=True),
        Column("jobs", right=True),
        Column("runs", flexible=True),
    ]
    rows: list[Row] = [
        [
            Cell(node.node, "bold"),
            _state(node),
            f"{number(round(node.cpu_used, 3))}/{number(node.cpu)}",
            f"{size(node.memory_used)}/{size(node.memory)}",
            f"{node.gpus_used}/{node.gpus}" if node.gpus else "",
            str(node.jobs),
            Cell(", ".join(node.runtimes), "dim"),
        ]
        for node in cluster.nodes
    ]
    if not rows:
        out.note("no machines: incl up starts one here", "yellow")
    for line in table(out, columns, rows) if rows else []:
        out.line(line)
    out.line(f"{'' if not rows else chr(10)}{plural(cluster.running, 'experiment')} running, {cluster.queued} queued")
    waiting: list[Row] = [
        [
            Cell(short(item.experiment), "bold"),
            item.name,
            item.user,
            str(item.priority) if item.priority else "",
            duration(item.waiting_s),
            Cell(item.reason, "dim"),
        ]
        for item in cluster.queue
    ]
    heads = [
        Column("id"),
        Column("name", flexible=True),
        Column("user"),
        Column("priority", right=True),
        Column("waits", right=True),
        Column("for", flexible=True, least=12),
    ]
    for line in table(out, heads, waiting) if waiting else []:
        out.line(line)


def _state(node: NodeView) -> Cell:
    from incl_cli.text import Cell, duration

    if node.refused:
        return Cell("refused: incl admin stuck", "red")
    return Cell("ready", "green") if node.alive else Cell(f"silent for {duration(node.seen_s)}", "red")
