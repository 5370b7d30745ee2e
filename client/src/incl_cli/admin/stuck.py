"""incl admin stuck: everything that does not move, with the reason and the next step."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_cli.stuck import Found
    from incl_shared.queries.stuck import Finding

SUMMARY = "Everything that does not move, with the reason and the next step"
EXAMPLES = """  incl admin stuck
  incl admin stuck --after 30s              what has stood still for so long, whatever is usual for it
  incl admin stuck --json                   exit code 9: something is stuck"""
STUCK = 9
"""The exit code when something is."""
_MARKS = {"error": "✗", "warning": "!", "note": "·"}
_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}
_WIDTH = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--after",
        dest="standing",
        metavar="TIME",
        help="leave out what has stood still for less: 30s, 5m, 2h",
    )
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Do it; 9 when something is stuck."""
    from pathlib import Path

    from incl_cli.admin.credential import administrator
    from incl_cli.context import load_context
    from incl_cli.stuck import look

    data = load_context().data_dir
    found = await look(administrator, Path(data) if data else None, _seconds(args.standing))
    if args.json:
        session.out.json({"findings": found.findings, "more": dict(found.more), "stuck": found.stuck})
    else:
        show(session.out, found)
    return STUCK if found.stuck else 0


def _seconds(text: str | None) -> float | None:
    from incl_cli.arguments import UsageProblem

    if text is None:
        return None
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h", "d") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise UsageProblem(f"--after cannot be {text[:40]!r}", hint="it takes a time: 30s, 5m, 2h")
    return seconds


def show(out: Output, found: Found) -> None:
    """For people: a block each, the worst first."""
    width = min(out.width, _WIDTH) if out.out.isatty() else _WIDTH
    for finding in found.findings:
        for line in _block(out, finding, width):
            out.line(line)
    for kind, count in sorted(found.more.items()):
        out.line(out.paint(f"· {count} more of {kind}", "dim"))
    out.note(_summary(found), "" if found.stuck else "green")


def _block(out: Output, finding: Finding, width: int) -> list[str]:
    from incl_cli.text import duration, plain

    style = _STYLES[finding.severity]
    since = f" · {duration(finding.since_s)}" if finding.since_s is not None else ""
    head = textwrap.shorten(
        f"{finding.kind}  {plain(finding.subject)}", max(20, width - 2 - len(since)), placeholder="…"
    )
    kind, _, subject = head.partition(" ")
    mark, kind = out.paint(_MARKS[finding.severity], style), out.paint(kind, f"bold {style}")
    lines = [f"{mark} {kind}  {subject.strip()}{out.paint(since, 'dim')}"]
    lines += textwrap.wrap(plain(finding.reason), width - 4, initial_indent="    ", subsequent_indent="    ")
    if finding.hint:
        hint = textwrap.wrap(plain(finding.hint), width - 4, initial_indent="  → ", subsequent_indent="    ")
        lines += [out.paint(line, "cyan") for line in hint]
    return lines


def _summary(found: Found) -> str:
    if not found.stuck:
        return "nothing is stuck"
    counts = [
        (sum(one.severity == severity for one in found.findings), word)
        for severity, word in (("error", "error"), ("warning", "warning"))
    ]
    words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return f"{' and '.join(words)}; what each means: docs/runbooks/operating.md"
