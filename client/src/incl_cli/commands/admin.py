"""incl admin: what only the owner of a platform on this machine can do. Each topic is a module of incl_cli.admin."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from incl_cli.admin import TOPICS
from incl_cli.arguments import Formatter, Parser

if TYPE_CHECKING:
    import argparse

    from incl_cli.running import Session


def _topic(name: str) -> Any:
    return import_module(f"incl_cli.admin.{name.replace('-', '_')}")


EXAMPLES = "\n".join(_topic(name).EXAMPLES for name in TOPICS)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every topic."""
    topics = parser.add_subparsers(dest="topic", metavar="topic", required=True, parser_class=Parser)
    for name in TOPICS:
        module = _topic(name)
        summary = str(module.SUMMARY)
        module.arguments(
            topics.add_parser(
                name,
                help=summary[:1].lower() + summary[1:],
                description=f"{summary}.",
                epilog=f"examples:\n{module.EXAMPLES}",
                formatter_class=Formatter,
            )
        )


def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    topic = _topic(args.topic)
    work = topic.run(args, session)
    return session.run(work) if inspect.iscoroutine(work) else int(work)
