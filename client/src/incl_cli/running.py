"""From a command's module to its exit code."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Callable, Coroutine, Sequence
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

    def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Run a command's coroutine; the platform is let go of at its end."""
        import asyncio

        return int(asyncio.run(self._guarded(work)) or 0)

    async def _guarded(self, work: Coroutine[Any, Any, int]) -> int:
        try:
            return await work
        finally:
            await self.close()

    async def close(self) -> None:
        """Let go of the platform."""
        if self._platform is not None:
            await self._platform.close()


def parser_of(command: Command) -> tuple[Parser, Any]:
    """A command's parser and its module, which has EXAMPLES, arguments(parser) and run(args, session)."""
    module = import_module(command.module)
    parser = make_parser(command.name, command.summary, getattr(module, "EXAMPLES", ""))
    module.arguments(parser)
    return parser, module


def run_command(command: Command, words: list[str], out: Output, connect: Callable[..., Any] | None) -> int:
    """Parse and run one command."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    parser, module = parser_of(command)
    words = getattr(module, "shorthand", list)(words)
    after: list[str] | None = None
    if "--" in words and getattr(module, "TAKES_COMMAND", False):
        split = words.index("--")
        words, after = words[:split], words[split + 1 :]
    args = parser.read(words)
    args.after = after
    return _run(module, args, Session(out, connect, words if after is None else [*words, "--", *after]))


def _run(module: Any, args: argparse.Namespace, session: Session) -> int:
    if not inspect.iscoroutinefunction(module.run):
        return int(module.run(args, session) or 0)
    return session.run(module.run(args, session))
