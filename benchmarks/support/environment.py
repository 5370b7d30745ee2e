"""The peers' own virtual environment, in .bench of the repository: what they need never meets what INCL needs.

It is made when first asked for, from hashes (`requirements-peers.lock`), by pip and its settings on this machine, and
made anew when the lock has changed. Data sets that take long to make are kept beside it, in .bench/cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent
PLACE = BENCHMARKS.parent / ".bench"
LOCK = BENCHMARKS / "requirements-peers.lock"
PEERS = ("aim", "mlflow", "trackio", "wandb")
_LEAST_FREE = 3 << 30
_LINES = 15


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"# {text}\n")
    sys.stderr.flush()


def cache(name: str) -> Path:
    """A folder of .bench/cache for a data set; what is in it may be removed at any time."""
    path = PLACE / "cache" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def scratch(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A folder on the disk of the repository (a /tmp in memory would make a database look better than it is)."""
    place = PLACE / "tmp"
    place.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=prefix, dir=place)


def python() -> Path:
    """The interpreter of the peers' environment, made if need be.

    Raises:
        SystemExit: it cannot be made; the reason and the next step are on stderr.
    """
    place = PLACE / "venv"
    interpreter = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = place / "made-from.sha256"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if interpreter.exists() and stamp.exists() and stamp.read_text() == wanted:
        return interpreter
    PLACE.mkdir(exist_ok=True)
    if shutil.disk_usage(PLACE).free < _LEAST_FREE:
        raise SystemExit(_failure("the disk has less than 3 GB free for the peers", "", "make room"))
    say(f"installing the peers (trackers and samplers) into {PLACE.name}/venv: once, about a minute and 1.3 GB")
    shutil.rmtree(place, ignore_errors=True)
    _step([sys.executable, "-m", "venv", str(place)], "on Debian: apt-get install python3-venv")
    pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", "install"]
    hint = "is a package index reachable? try: " + " ".join([*pip[:3], "download --no-deps trackio"])
    _step([*pip, "--require-hashes", "-r", str(LOCK)], hint)
    stamp.write_text(wanted)
    return interpreter


def _step(command: list[str], hint: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode:
        raise SystemExit(
            _failure(f"the peers' environment could not be made (exit {done.returncode})", done.stderr, hint)
        )


def _failure(message: str, output: str, hint: str) -> str:
    lines = [line for line in output.splitlines() if "is ignored: it is neither" not in line]
    return "\n".join([*lines[-_LINES:], f"error: {message}", f"hint: {hint}"])


def versions(names: tuple[str, ...] = PEERS) -> dict[str, str]:
    """The installed version of each of these packages of the peers."""
    script = "import json, sys; from importlib.metadata import version; "
    script += "print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    done = subprocess.run([str(python()), "-P", "-c", script, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
