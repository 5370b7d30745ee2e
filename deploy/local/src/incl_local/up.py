"""`incl up`: in the foreground, or detached."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from incl_local import __version__
from incl_local.layout import Layout, default_data
from incl_local.place import Place
from incl_local.platform import Options, Platform
from incl_local.running import Running, read
from incl_local.supervisor import LOG_LIMIT
from incl_shared.errors import UnavailableError
from incl_shared.logs import setup_logs

DETACH_PATIENCE_S = 60.0


def run(arguments: argparse.Namespace) -> int:
    """Start everything; returns when it was told to stop."""
    layout = Layout((arguments.data or default_data()).expanduser().absolute())
    if arguments.detach:
        return _detach(arguments, layout)
    layout.prepare()
    ports = {name: getattr(arguments, f"{name}_port") for name in ("bus", "registry", "gateway", "ops")}
    options = Options(
        processes=arguments.processes,
        ports={name: port for name, port in ports.items() if port is not None},
        context=not arguments.no_context,
        cloud=arguments.cloud or "",
    )
    with open_log(layout.logs / "platform.log") as log:
        setup_logs(stream=log, json_lines=True)
        return asyncio.run(_serve(layout, options, _Screen(arguments.json, layout)))


def open_log(path: Path) -> TextIO:
    """The platform's log, for appending; a large one is set aside first."""
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".old.log"))
    return path.open("a", encoding="utf-8", buffering=1)


async def _serve(layout: Layout, options: Options, screen: _Screen) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    platform = Platform(layout, options, screen.part)
    starting = asyncio.create_task(platform.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        screen.note("stopped before it was ready")
        return 130
    screen.ready(await starting)
    await stopping
    screen.note("stopping; running jobs go on, and the next `incl up` finds them")
    await platform.stop()
    return 0


class _Screen:
    """What the person at the terminal sees."""

    def __init__(self, as_json: bool, layout: Layout) -> None:
        self._json = as_json
        self._began = time.monotonic()
        self._tick = "\x1b[32m✓\x1b[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "✓"
        if not as_json:
            self.note(f"INCL {__version__} on this machine, data in {_home(layout.root)}")

    def part(self, name: str, detail: str, seconds: float) -> None:
        if not self._json:
            self.note(f"  {self._tick} {name:<12} {detail:<28} {seconds:5.2f} s")

    def ready(self, place: Place) -> None:
        seconds = time.monotonic() - self._began
        if self._json:
            answer = {
                "ready": True,
                "seconds": round(seconds, 3),
                "data": str(place.layout.root),
                "ports": dict(place.ports),
            }
            print(json.dumps(answer), flush=True)
            return
        self.note(f"ready in {seconds:.1f} s. Jobs run as you, on this machine, with no isolation unless asked for.")
        self.note("")
        self.note("  in another terminal:  incl run -- python train.py      incl ls      incl doctor")
        self.note("  Ctrl-C stops the platform; running jobs go on and are found again.")

    @staticmethod
    def note(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _home(path: Path) -> str:
    home = str(Path.home())
    return "~" + str(path)[len(home) :] if str(path).startswith(home + "/") else str(path)


def _detach(arguments: argparse.Namespace, layout: Layout) -> int:
    layout.prepare()
    with layout.locked():  # said here, at once, rather than by a process that gives up
        pass
    log = layout.logs / "up.log"
    command = [sys.executable, "-m", "incl_cli", "up", "--data", str(layout.root)]
    for name in ("bus", "registry", "gateway", "ops"):
        if (port := getattr(arguments, f"{name}_port")) is not None:
            command += [f"--{name}-port", str(port)]
    command += [
        flag for flag, on in (("--processes", arguments.processes), ("--no-context", arguments.no_context)) if on
    ]
    if arguments.cloud:
        command += ["--cloud", arguments.cloud]
    began = time.monotonic()
    with log.open("w") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    running = _wait(child, layout, log)
    seconds = time.monotonic() - began
    if arguments.json:
        print(
            json.dumps({"ready": True, "seconds": round(seconds, 3), "data": str(layout.root), "ports": running.ports})
        )
    else:
        sys.stderr.write(f"the platform runs (pid {child.pid}, ready in {seconds:.1f} s); stop it with: incl down\n")
    return 0


def _wait(child: subprocess.Popen[bytes], layout: Layout, log: Path) -> Running:
    deadline = time.monotonic() + DETACH_PATIENCE_S
    while time.monotonic() < deadline:
        running = read(layout)
        if running is not None and running.identity.pid == child.pid and running.ready:
            return running
        if child.poll() is not None:
            break
        time.sleep(0.03)
    said = _complaint(log)
    child.terminate()
    raise UnavailableError("the platform did not start", cause=said["error"], hint=said["hint"])


def _complaint(log: Path) -> dict[str, str]:
    """What a platform that ended said last: its error with the cause, and the hint."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    found = dict.fromkeys(("error", "cause", "hint"), "")
    for line in lines:
        key, _, text = line.partition(": ")
        if key in found:
            found[key] = text
    error = found["error"] or (lines[-1] if lines else "it said nothing")
    return {"error": f"{error}: {found['cause']}" if found["cause"] else error, "hint": found["hint"] or f"see {log}"}
