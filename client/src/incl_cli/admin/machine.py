"""What the topics about one machine's platform share: its data folder, and the distribution that knows it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem

if TYPE_CHECKING:
    import argparse


def data_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --data."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="the platform's data folder (~/.local/share/incl)")


def local(name: str) -> Any:
    """A module of incl-local.

    Raises:
        UsageProblem: it is not installed here.
    """
    try:
        return import_module(f"incl_local.{name}")
    except ModuleNotFoundError as missing:
        if missing.name != "incl_local":
            raise
        raise UsageProblem("the platform is not installed here", hint="pip install incl-local") from None


def layout(args: argparse.Namespace) -> Any:
    """The layout of the platform that is meant."""
    module = local("layout")
    return module.Layout((args.data or module.default_data()).expanduser().absolute())
