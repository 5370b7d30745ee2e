"""incl completion bash|zsh|fish: made from the parsers, so that it is complete."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.running import Session

EXAMPLES = """  bash: eval "$(incl completion bash)"             in ~/.bashrc
  zsh:  eval "$(incl completion zsh)"              in ~/.zshrc, after compinit
  fish: incl completion fish > ~/.config/fish/completions/incl.fish"""
_REFERRING = ("show", "logs", "stop", "rerun", "download", "compare", "metrics")

_BASH = """_incl() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=()
    if [ "${{COMP_WORDS[1]}}" = run ] && [ "$COMP_CWORD" -gt 1 ] && [ "${{current#-}}" = "$current" ]; then
        COMPREPLY=($(compgen -f -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -o filenames -F _incl incl
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    common(parser, machine_readable=False)


def run(args: argparse.Namespace, session: Session) -> int:
    """Print the script."""
    session.out.out.write({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell]())
    return 0


def words_of() -> dict[str, list[str]]:
    """Command -> what may follow it: options, subcommands, and @last where an experiment is named."""
    from incl_cli.documents import parsers

    found = {}
    for command, parser in parsers():
        words = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001
        for action in parser._actions:  # noqa: SLF001
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
                words += list(action.choices)
        found[command.name] = [*words, *(["@last"] if command.name in _REFERRING else [])]
    return found


def _bash() -> str:
    known = words_of()
    cases = "\n".join(f'            {name}) words="{" ".join(words)}" ;;' for name, words in known.items())
    return _BASH.format(commands=" ".join(known), cases=cases)


def _zsh() -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash()


def _fish() -> str:
    from incl_cli.catalog import BY_NAME

    lines = ["complete -c incl -f"]
    for name, words in words_of().items():
        summary = BY_NAME[name].summary.replace("'", "")
        lines.append(f"complete -c incl -n __fish_use_subcommand -a {name} -d '{summary}'")
        inside = f"'__fish_seen_subcommand_from {name}'"
        for word in words:
            kind = (
                f"-l {word[2:]}"
                if word.startswith("--")
                else f"-s {word[1:]}"
                if word.startswith("-")
                else f"-a {word}"
            )
            lines.append(f"complete -c incl -n {inside} {kind}")
    lines.append("complete -c incl -n '__fish_seen_subcommand_from run download sync' -F")
    return "\n".join(lines) + "\n"
