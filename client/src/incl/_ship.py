"""Starting the shipper of a run outside the platform, where there is a platform to ship to."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Optional


def context_file() -> str:
    """Where the command line keeps which platform it speaks to (as incl_cli.places says)."""
    named = os.environ.get("INCL_CONTEXT_FILE")
    if named:
        return named
    home = os.environ.get("INCL_HOME")
    if home:
        return os.path.join(home, "config", "context.json")
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "incl", "context.json")


def start(directory: str) -> bool:
    """Start the shipper beside the script, detached. Returns whether there is one; it never raises or waits."""
    try:
        if sys.version_info < (3, 11) or not sys.executable or not os.path.isfile(context_file()):
            return False
        from importlib.util import find_spec

        if find_spec("incl_cli.ship") is None or find_spec("incl_shared") is None:
            return False
        with open(os.path.join(directory, "ship.log"), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "incl_cli.ship", directory],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("INCL_RUN_")},
            )
        # It is left alone on purpose; without this the interpreter would complain that it still runs.
        process.returncode = 0
    except Exception:
        return False
    return True


def process_start(pid: int) -> Optional[str]:
    """When the process began, in the kernel's own count; with the pid it names one process. None where not known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError, ValueError):
        return None


def boot_id() -> Optional[str]:
    """Names the time since this machine was started; None where not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None


def quoted(path: str) -> str:
    """A path as a shell takes it."""
    from shlex import quote

    return quote(path)
