"""incl token create|ls|revoke."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import Parser, UsageProblem, common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_shared.queries.gateway import TokenView

EXAMPLES = """  incl token create --label laptop --ttl 30d
  incl token ls
  incl token revoke incl_4kx9"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="create | ls | revoke", required=True, parser_class=Parser)
    create = actions.add_parser("create", help="a new token; it is shown this once, on stdout")
    create.add_argument("--label", default="", help="what it is for")
    create.add_argument(
        "--ttl", default="90d", metavar="TIME", help="how long it is good: 12h, 90d (default), or 'never'"
    )
    listing = actions.add_parser("ls", help="your tokens, without their secret part")
    revoke = actions.add_parser("revoke", help="make a token worthless")
    revoke.add_argument("token", help="its id, or how it begins")
    for action in (create, listing, revoke):
        common(action)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    from incl_shared.queries.gateway import CreateToken, ListTokens, RevokeToken

    out = session.out
    if args.action == "create":
        query = CreateToken(label=_label(args.label), ttl_s=_seconds(args.ttl))
        made = await (await session.platform()).ask(query)
        token = made.token.get_secret_value()
        if args.json:
            out.json({"token": token, **made.view.model_dump(mode="json")})
        else:
            out.line(token)
            out.note("keep it now: it is not shown again. Use it: incl login URL --token-file FILE", "dim")
    elif args.action == "ls":
        _list(out, (await (await session.platform()).ask(ListTokens())).tokens)
    else:
        if not 4 <= len(args.token) <= 64:
            raise UsageProblem("name at least the first four characters of the token", hint="incl token ls")
        await (await session.platform()).ask(RevokeToken(token=args.token))
        out.note(f"{args.token} is revoked")
        if args.json:
            out.json({"token": args.token, "revoked": True})
    return 0


def _label(text: str) -> str:
    if len(text) > 128 or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise UsageProblem("--label takes at most 128 characters, none of them a control character")
    return text


def _seconds(text: str) -> float | None:
    from incl_shared.spec import parse_duration

    if text == "never":
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageProblem(f"--ttl: {error}", hint="--ttl 30d") from None
    if not 0 < seconds <= 3_660 * 86_400:
        raise UsageProblem("--ttl must be more than nothing and at most ten years")
    return seconds


def _list(out: Output, tokens: tuple[TokenView, ...]) -> None:
    from incl_cli.text import Cell, Column, Row, age, moment, table

    if out.as_json:
        out.json([token.model_dump(mode="json") for token in tokens])
        return
    if not tokens:
        out.note("no tokens: incl token create", "dim")
        return
    rows: list[Row] = [
        (
            Cell(token.prefix, "bold"),
            token.label,
            age(token.created),
            Cell("revoked", "red") if token.revoked else moment(token.expires) if token.expires else "never ends",
            age(token.used) if token.used else "never",
        )
        for token in tokens
    ]
    for line in table(out, [Column(name) for name in ("token", "label", "made", "good until", "used")], rows):
        out.line(line)
