"""incl share."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.running import Session

KINDS = ("output", "checkpoint", "media", "code", "provenance")
EXAMPLES = """  incl share 3f9k2x7q report.html
  incl share @last plots/roc.png --for 2h
  curl -LO "$(incl share @last model.npz)\""""
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_MOST_S = 7 * 86_400


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", help="id, the end of one, name, @last")
    parser.add_argument("path", metavar="PATH", help="one file of it")
    parser.add_argument("--for", dest="life", default="24h", metavar="TIME", help="10m, 2h, 7d at most (24h)")
    parser.add_argument("--kind", choices=KINDS, help="where several kinds have the path")
    parser.add_argument("--attempt", type=int, metavar="N", help="of this attempt (the newest that has it)")
    parser.add_argument("--rank", type=int, metavar="N", help="of this node")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Print the link. Whoever has it can fetch the file until it expires; nothing takes it back before."""
    from incl_cli.artifacts import choose, every, newest
    from incl_cli.look import find
    from incl_cli.text import moment, size
    from incl_shared.errors import AmbiguousError
    from incl_shared.queries.registry import ShareFile

    seconds = life(args.life)
    platform = await session.platform(args.project)
    view = await find(platform, args.experiment)
    entries = [
        entry
        for entry in newest(await every(platform, view.row.id, attempt=args.attempt))
        if entry.kind in ([args.kind] if args.kind else KINDS) and (args.rank is None or entry.rank == args.rank)
    ]
    chosen = choose(entries, [args.path])
    if len(chosen) > 1:
        some = ", ".join(f"{entry.path} ({entry.kind}, rank {entry.rank})" for entry in chosen[:5])
        raise AmbiguousError(
            f"{args.path!r} is {len(chosen)} files", cause=some, hint="name one; --kind and --rank choose"
        )
    [entry] = chosen
    answer = await platform.ask(
        ShareFile(experiment=view.row.id, path=entry.path, sha256=entry.sha256, seconds=seconds)
    )
    if args.json:
        file = entry.model_dump(mode="json", include={"path", "kind", "attempt", "rank", "sha256", "size"})
        session.out.json({"url": answer.url, "expires": answer.expires} | file)
        return 0
    session.out.line(answer.url)
    session.out.note(
        f"{entry.path}, {size(entry.size)}: whoever has the link can fetch it until {moment(answer.expires)}", "dim"
    )
    if re.match(r"https?://(127\.|localhost|\[::1\])", answer.url):
        session.out.note(
            "it leads to this machine: from elsewhere it works once INCL_REGISTRY_PUBLIC_URL names one", "dim"
        )
    return 0


def life(text: str) -> int:
    """Seconds of 10m, 2h, 7d.

    Raises:
        InvalidInput: it is none, or longer than seven days.
    """
    from incl_shared.errors import InvalidInput

    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 60 <= seconds <= _MOST_S:
        wrong = "is no time" if found is None else f"is too {'short' if seconds < 60 else 'long'} for a link"
        raise InvalidInput(f"{text[:40]!r} {wrong}", hint="from 1m to 7d: --for 30m, --for 12h, --for 3d")
    return seconds
