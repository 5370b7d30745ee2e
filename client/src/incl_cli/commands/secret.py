"""incl secret set|ls|rm. A value never stands in the arguments: others could read it there, and shells keep it."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from incl_cli.arguments import Parser, UsageProblem, common

if TYPE_CHECKING:
    from incl_cli.running import Session

EXAMPLES = """  incl secret set WANDB_API_KEY            asks for the value
  incl secret set HF_TOKEN < token.txt
  incl secret ls
  incl run --secret HF_TOKEN -- python train.py"""
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
_MAX_BYTES = 65_536


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="set | ls | rm", required=True, parser_class=Parser)
    put = actions.add_parser("set", help="store or replace a secret; its value comes from stdin or a prompt")
    put.add_argument("name")
    listing = actions.add_parser("ls", help="names, never values")
    remove = actions.add_parser("rm", help="forget a secret")
    remove.add_argument("name")
    for action in (put, listing, remove):
        action.add_argument("--project", help="another project than the usual one")
        common(action)


def run(args: argparse.Namespace, session: Session) -> int:
    """Do it. The value is read before there is a loop, so that Ctrl-C ends the waiting."""
    if args.action != "ls" and not _NAME.fullmatch(args.name):
        raise UsageProblem(
            f"{args.name[:60]!r} is not a name of a secret",
            hint="letters, digits and _, as in HF_TOKEN; the value is asked for",
        )
    value = _value(args.name, session) if args.action == "set" else ""
    return session.run(_do(args, session, value))


async def _do(args: argparse.Namespace, session: Session, value: str) -> int:
    from incl_shared.queries.gateway import DeleteSecret, ListSecrets, SetSecret

    platform = await session.platform(args.project)
    out = session.out
    if args.action == "ls":
        names = list((await platform.ask(ListSecrets())).names)
        if args.json:
            out.json(names)
        elif names:
            for name in names:
                out.line(name)
        else:
            out.note("no secrets: incl secret set NAME", "dim")
        return 0
    if args.action == "set":
        await platform.ask(SetSecret(secret=args.name, value=value))
        out.note(f"{args.name} is stored in project {platform.context.project}; jobs get it with --secret {args.name}")
    else:
        await platform.ask(DeleteSecret(secret=args.name))
        out.note(f"{args.name} is forgotten")
    if args.json:
        out.json({"name": args.name, "action": args.action})
    return 0


def _value(name: str, session: Session) -> str:
    if sys.stdin.isatty():
        import getpass

        value = getpass.getpass(f"value of {name}: ", stream=session.out.err)
    else:
        raw = sys.stdin.buffer.read(_MAX_BYTES + 2)
        try:
            value = raw.decode()
        except UnicodeDecodeError:
            raise UsageProblem(
                f"the value of {name} is not UTF-8 text", hint="encode it, with base64 for example"
            ) from None
        value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise UsageProblem(f"the value of {name} is empty", hint=f"incl secret rm {name} forgets it")
    if len(value.encode()) > _MAX_BYTES:
        raise UsageProblem(f"the value of {name} is larger than 64 KiB", hint="put it where jobs can read it, as data")
    return value
