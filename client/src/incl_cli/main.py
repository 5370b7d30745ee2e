"""The door: finds the command, runs it, and turns every end into an exit code and readable words.

Exit codes: 0 done · 1 other error · 2 wrong input · 3 the experiment failed or was stopped · 4 not found · 5 conflict
· 6 denied · 7 a server cannot be reached · 8 damaged bytes · 70 our fault · 130 interrupted or detached.
"""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any

from incl_cli.arguments import UsageProblem, did_you_mean
from incl_cli.catalog import ALIASES, BY_NAME, COMMANDS, Command
from incl_cli.output import Output, paint

INTERRUPTED = 130


def entry() -> int:
    """The console script. Short-lived: the garbage collector need not look while modules load."""
    gc.set_threshold(50_000)
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        return _broken_pipe()
    return code


def main(argv: Sequence[str], output: Output | None = None, connect: Callable[..., Any] | None = None) -> int:
    """Run one command line; the exit code.

    output: where to write; connect: how to reach the platform (incl_cli.platform.connect), for tests.
    """
    words = list(argv)
    before = words[: words.index("--")] if "--" in words else words
    out = output or Output(as_json="--json" in before, color=False if "--no-color" in before else None)
    try:
        return _dispatch(words, out, connect)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        out.note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  the edge of the program
        return complain(error, out, words)


def _dispatch(words: list[str], out: Output, connect: Callable[..., Any] | None) -> int:
    while words and words[0] in ("--no-color", "--json"):
        words = words[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        return _help(words[1:], out, connect)
    if words[0] in ("-V", "--version"):
        return _version(out)
    command = _find(words[0])
    if command.local:
        return _local(command, words[1:])
    from incl_cli.running import run_command

    return run_command(command, words[1:], out, connect)


def _find(word: str) -> Command:
    command = BY_NAME.get(ALIASES.get(word, word))
    if command is not None:
        return command
    what = "option" if word.startswith("-") else "command"
    hint = did_you_mean(word, [*BY_NAME, "--help", "--version"]) or "incl --help"
    raise UsageProblem(f"there is no {what} {word[:60]!r}", hint=hint)


def _local(command: Command, words: list[str]) -> int:
    from importlib import import_module

    from incl_cli.arguments import Parser

    try:
        module = import_module(command.module)
    except ModuleNotFoundError as missing:
        if missing.name not in ("incl_local", command.module):
            raise
        raise UsageProblem(
            f"incl {command.name} needs the platform, which is not installed here", hint="pip install incl-local"
        ) from None
    parser = Parser(prog="incl")
    module.add_parser(parser.add_subparsers(dest="command", metavar="command", parser_class=Parser))
    return int(module.run(parser.read([command.name, *words])) or 0)


def _help(words: list[str], out: Output, connect: Callable[..., Any] | None) -> int:
    if words:
        return _dispatch([words[0], "--help"], out, connect)
    bold = "bold" if out.color else ""
    lines = [
        f"{paint('incl', bold)}: run deep-learning experiments anywhere, and keep what they say",
        "",
        f"{paint('Usage:', bold)} incl <command> [options]",
    ]
    group = ""
    for command in COMMANDS:
        if command.group != group:
            group = command.group
            lines += ["", paint(group, bold)]
        lines.append(f"  {paint(command.name.ljust(12), 'cyan' if out.color else '')}{command.summary}")
    lines += [
        "",
        f"{paint('Options', bold)}",
        "  --json      machine-readable output, for every command",
        "  --no-color  no colours",
        "  --version   the version",
        "  --help      this, or the help of a command: incl run --help",
        "",
        f"{paint('Start', bold)}",
        "  incl up                       the platform on this machine",
        "  incl run -- python train.py   an experiment on it",
        "  incl ls                       what there is",
    ]
    out.line("\n".join(lines))
    return 0


def _version(out: Output) -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("incl")
    except PackageNotFoundError:
        number = "unknown"
    out.line(f"incl {number}")
    return 0


def complain(error: Exception, out: Output, words: Sequence[str]) -> int:
    """Say what went wrong on stderr; the exit code."""
    errors = sys.modules.get("incl_shared.errors")
    expected = isinstance(error, UsageProblem) or (errors is not None and isinstance(error, errors.InclError))
    if expected:
        known: Any = error
        code, message, cause, hint, exit_code = known.code, known.message, known.cause, known.hint, known.exit_code
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        code, exit_code, message = "disk", 1, "this machine's disk takes nothing more"
        cause = (error.strerror or str(error)) + (f": {error.filename}" if error.filename else "")
        hint = "df -h; make room, then the same command again"
    else:
        from incl_cli.crash import write_crash

        path = write_crash(error, words)
        code, exit_code = "internal", 70
        message, cause = "incl has a fault: this should not have happened", f"{type(error).__name__}: {error}"[:300]
        hint = f"please report it with {path}" if path else "please report it"
    if out.as_json:
        import json

        envelope = {"error": {"code": code, "message": message, "cause": cause, "hint": hint}}
        out.err.write(json.dumps(envelope, ensure_ascii=False) + "\n")
        return int(exit_code)
    for name, text, style in (("error", message, "error"), ("cause", cause, "dim"), ("hint", hint, "cyan")):
        if text:
            indent = "\n" + " " * (len(name) + 2)
            shown = indent.join(_folded(text, out.width_err - len(name) - 2))
            out.err.write(paint(f"{name}: ", style if out.color_err else "") + shown + "\n")
    return int(exit_code)


def _folded(text: str, width: int) -> list[str]:
    """Its lines, broken between words where the terminal is narrower; no word, path or link is."""
    import textwrap

    lines = text.split("\n")
    if width < 20 or all(len(line) <= width for line in lines):
        return lines
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
    ]


def _broken_pipe() -> int:
    """The reader went away (`incl ls | head`): no words, and none at the interpreter's end either."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
