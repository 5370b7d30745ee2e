"""Argument parsing whose complaints read like all others, and say what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_COLUMNS = 100


class UsageProblem(Exception):  # noqa: N818
    """What was typed is wrong. Not an InclError, so that nothing heavy is imported to say it."""

    code = "usage"
    exit_code = 2

    def __init__(self, message: str, *, cause: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.cause, self.hint = message, cause, hint


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'did you mean …?' for a word that is close to one that is known, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with room for the options, and bold headings where a terminal reads it."""

    bold = False
    columns: int | None = None
    """Of the lines; those of the terminal unless said, a hundred at most."""

    def __init__(self, prog: str) -> None:
        width = self.columns or min(_COLUMNS, shutil.get_terminal_size((_COLUMNS, 24)).columns)
        super().__init__(prog, max_help_position=30, width=width)

    def start_section(self, heading: str | None) -> None:
        """Headings as in the overview: capital, bold."""
        named = heading[:1].upper() + heading[1:] if heading else heading
        super().start_section(f"\x1b[1m{named}\x1b[0m" if named and self.bold else named)

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """'Usage:' with a capital; with a prefix it is asked for the name of a subcommand, which has no heading."""
        if prefix is None:
            prefix = "\x1b[1mUsage:\x1b[0m " if self.bold else "Usage: "
        super().add_usage(usage, actions, groups, prefix)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageProblem. dashed: options whose value may begin with a dash."""

    dashed: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments.

        Raises:
            UsageProblem: something is unknown, missing or wrong.
        """
        words = self._joined(words)
        words = _joined(words, self.dashed)
        found, extra = self.parse_known_intermixed_args(words) if self._plain else self.parse_known_args(words)
        if extra:
            self._unknown(extra[0])
        return found

    def _joined(self, words: Sequence[str]) -> list[str]:
        """`--sort -val_acc` as `--sort=-val_acc`: a value may begin with a dash where it is no option itself."""
        known = self._option_string_actions
        joined: list[str] = []
        for index, word in enumerate(words):
            if word == "--":
                return joined + list(words[index:])
            before = joined[-1] if joined else ""
            wants = before.startswith("--") and before in known and known[before].nargs is None
            if wants and word.startswith("-") and word.partition("=")[0] not in known:
                joined[-1] = f"{before}={word}"
            else:
                joined.append(word)
        return joined

    @property
    def _plain(self) -> bool:
        """Whether options may stand between the positionals: not with subcommands or remainders."""
        return not any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions)

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        choice = re.match(r"argument (.+?): invalid choice: '(.*?)' \(choose from (.*)\)$", message, re.DOTALL)
        if choice is not None:
            known = [word.strip(" '") for word in choice[3].split(",")]
            what = "subcommand" if choice[1].isidentifier() and choice[1] == "action" else choice[1]
            raise UsageProblem(
                f"{self.prog}: {what} cannot be {choice[2][:60]!r}",
                hint=did_you_mean(choice[2], known) or f"choose from {', '.join(known)}",
            )
        number = re.match(r"argument (.+?): invalid (int|float) value: '(.*)'$", message, re.DOTALL)
        if number is not None:
            kind = "a whole number" if number[2] == "int" else "a number"
            raise UsageProblem(
                f"{self.prog}: {number[1].rpartition('/')[2]} cannot be {number[3][:60]!r}", hint=f"it takes {kind}"
            )
        required = re.match(r"the following arguments are required: (.*)$", message)
        if required is not None:
            raise UsageProblem(f"{self.prog}: {required[1]} is missing", hint=f"{self.prog} --help")
        raise UsageProblem(f"{self.prog}: {message}", hint=f"{self.prog} --help")

    def _unknown(self, word: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            hint = did_you_mean(name, known) or f"{self.prog} --help"
            raise UsageProblem(f"{self.prog}: unknown option {name[:60]!r}", hint=hint)
        raise UsageProblem(f"{self.prog}: {word[:60]!r} is one argument too many", hint=f"{self.prog} --help")


def _joined(words: Sequence[str], dashed: tuple[str, ...]) -> list[str]:
    """`--sort -loss` as `--sort=-loss`, which argparse can read."""
    found: list[str] = []
    for word in words:
        if found and found[-1] in dashed and word.startswith("-") and not word.startswith("--"):
            found[-1] = f"{found[-1]}={word}"
        else:
            found.append(word)
    return found


def common(parser: argparse.ArgumentParser, *, machine_readable: bool = True) -> None:
    """The options that every command has."""
    group = parser.add_argument_group("common options")
    if machine_readable:
        group.add_argument(
            "--json", action="store_true", help="machine-readable output on stdout; errors too, on stderr"
        )
    group.add_argument("--no-color", action="store_true", help="no colours (NO_COLOR does the same)")


def make_parser(name: str, summary: str, examples: str = "") -> Parser:
    """The parser of one command."""
    Formatter.bold = sys.stdout.isatty()
    return Parser(prog=f"incl {name}", description=f"{summary}.", epilog=f"examples:\n{examples}" if examples else None)
