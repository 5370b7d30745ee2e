"""`make demo`: the platform, a real training run, and what is left of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from incl_local.layout import Layout, default_data
from incl_local.running import read

EXAMPLE = Path("examples") / "digits" / "train.yaml"
BIN = Path(sys.executable).parent
OUTPUTS = Path("demo-outputs")


def main() -> int:
    """Start what does not run yet, train, keep the outputs, stop what was started."""
    if not EXAMPLE.exists():
        sys.stderr.write("error: the example is not here\nhint: run `make demo` in the checkout\n")
        return 2
    layout = Layout(default_data().absolute())
    running = read(layout)
    ours = running is None or not running.identity.alive()
    if ours:
        code = _incl("up", "--detach")
        if code:
            return code
    try:
        return _train(ours)
    finally:
        if ours:
            _incl("down")


def _train(ours: bool) -> int:
    _say(f"$ incl run {EXAMPLE}")
    code = _incl("run", str(EXAMPLE))
    if code:
        return code
    _say("\n$ incl metrics @last val_acc")
    _incl("metrics", "@last", "val_acc")
    _say(f"\n$ incl download @last -o {OUTPUTS}")
    _incl("download", "@last", "-o", str(OUTPUTS))
    start = "  incl up -d                        # the platform again\n" if ours else ""
    _say(
        f"\nThe outputs lie in {OUTPUTS}/. What to try next:\n\n"
        f"  . {os.path.relpath(BIN / 'activate'):<31} # incl, and a Python with scikit-learn\n{start}"
        "  incl show @last                   # stages, attempts, metrics, files\n"
        "  incl rerun @last --env LR=0.001   # the same code, another learning rate\n"
        "  incl compare @last~1 @last        # what is different\n"
        "  incl ls 'val_acc > 0.9' --sort -val_acc\n"
    )
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _incl(*words: str) -> int:
    """One command of the command line, in the foreground; Ctrl-C goes to it alone."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "incl_cli", *words],
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
        )
        return child.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        time.sleep(0)


if __name__ == "__main__":
    sys.exit(main())
