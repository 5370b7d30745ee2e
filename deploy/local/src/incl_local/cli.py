"""`incl up`, `incl down`, `incl status`, `incl doctor`: found by the command line through `add_parser` and `run`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

_COMMANDS = {
    "up": "incl_local.up",
    "down": "incl_local.down",
    "status": "incl_local.status",
    "doctor": "incl_local.doctor",
}


def add_parser(subparsers: Any) -> None:
    """Declare the four commands."""
    up = subparsers.add_parser(
        "up",
        help="start the platform on this machine",
        description="Starts a private NATS server and every service. Ctrl-C stops them; running jobs go on and are "
        "found again at the next start.",
    )
    up.add_argument("--processes", action="store_true", help="one process a service, restarted when it dies")
    up.add_argument("-d", "--detach", action="store_true", help="return when it is ready, and leave it running")
    for name, what in (
        ("bus", "the NATS server"),
        ("registry", "the artifact store"),
        ("gateway", "the gateway"),
        ("ops", "health and metrics"),
    ):
        up.add_argument(
            f"--{name}-port", type=_port, metavar="PORT", help=f"port of {what}; chosen, and kept, unless given"
        )
    up.add_argument(
        "--cloud", choices=("fake",), help="with a cloud on this machine, for experiments that name an instance"
    )
    up.add_argument("--no-context", action="store_true", help="do not point this user's command line here")
    down = subparsers.add_parser("down", help="stop the platform; jobs go on")
    status = subparsers.add_parser("status", help="what runs, and how it is")
    doctor = subparsers.add_parser("doctor", help="what is wrong, and the command that mends it")
    for parser in (up, down, status, doctor):
        parser.add_argument("--data", type=Path, metavar="DIR", help="the platform's data folder (~/.local/share/incl)")
        parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
        parser.add_argument("--no-color", action="store_true", help="no colours")


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was parsed; the exit code."""
    module = import_module(_COMMANDS[arguments.command])
    return int(module.run(arguments))


def _port(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if not 0 < number < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return number
