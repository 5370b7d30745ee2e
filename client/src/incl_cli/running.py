"""From a command's module to its exit code."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from incl_cli.arguments import Parser, make_parser
from incl_cli.catalog import Command
from incl_cli.output import Output


class Session:
    """What a command runs with: its output, and the platform once it is asked for."""

    def __init__(self, out: Output, connect: Callable[..., Any] | None, words: Sequence[str] = ()) -> None:
        self.out = out
        self.words = tuple(words)
        self._connect = connect
        self._platform: Any = None

    async def platform(self, project: str | None = None) -> Any:
        """The platform, connected.

        Raises:
            UnavailableError: there is none, or it does not answer.
        """
        if self._platform is None:
            if self._connect is not None:
                self._platform = await self._connect(project)
            else:
                from incl_cli.bus_platform import connect

                self._platform = await connect(project, self.out)
        return self._platform

    async def close(self) -> None:
        """Let go of the platform."""
        if self._platform is not None:
            await self._platform.close()


def parser_of(command: Command) -> tuple[Parser, Any]:
    """A command's parser and its module: `SUMMARY`-less modules have EXAMPLES, arguments(parser), run(args, session)."""
    module = import_module(command.module)
    parser = make_parser(command.name, command.summary, getattr(module, "EXAMPLES", ""))
    module.arguments(parser)
    return parser, module


def run_command(command: Command, words: list[str], out: Output, connect: Callable[..., Any] | None) -> int:
    """Parse and run one command."""
    parser, module = parser_of(command)
    after: list[str] | None = None
    if "--" in words and getattr(module, "TAKES_COMMAND", False):
        split = words.index("--")
        words, after = words[:split], words[split + 1 :]
    args = parser.parse_args(words)
    args.after = after
    return _run(module, args, Session(out, connect, words if after is None else [*words, "--", *after]))


def _run(module: Any, args: argparse.Namespace, session: Session) -> int:
    if not asyncio.iscoroutinefunction(module.run):
        return int(module.run(args, session) or 0)
    return int(asyncio.run(_guarded(module, args, session)) or 0)


async def _guarded(module: Any, args: argparse.Namespace, session: Session) -> Any:
    try:
        return await module.run(args, session)
    finally:
        await session.close()
