"""The bus's store is gone, with jobs running and telemetry under way: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from incl_local.aftermath import assert_right
from incl_local.layout import Layout
from incl_local.testing import Home, wait

SCRIPT = """
import os, time, incl
step = 0
while step < 5 or not os.path.exists(os.environ["GO"]):
    incl.log({"loss": 1.0 / (step + 1)}, step=step)
    print("line", step, flush=True)
    time.sleep(0.01)
    step += 1
"""


def submit(home: Home, project: Path, go: Path) -> str:
    """An experiment that logs until the file `go` is there."""
    (project / "train.py").write_text(SCRIPT)
    return home.submit("--env", f"GO={go}", "--", "python", "train.py", cwd=project)


def whole(home: Home, experiment: str) -> Any:
    """It is finished, and each point and line is there once."""
    home.until(experiment, ["finished"])
    view = wait(lambda: (v := home.show(experiment)) and v["settled"] and v, 30, "settled")
    lines = [line for line in home.incl("logs", experiment).out.splitlines() if "line " in line]
    assert sorted(int(line.rsplit(" ", 1)[1]) for line in lines) == list(range(len(lines)))
    assert (len(view["attempts"]), view["gaps"], view["points"]) == (1, 0, len(lines))
    return view


def children(home: Home) -> dict[str, Any]:
    running: dict[str, Any] = json.loads((home.data / "run.json").read_text())
    return running


def kill_all(home: Home) -> None:
    """kill -9 of the platform and of its bus; the jobs' shims go on."""
    running = children(home)
    for pid in (running["pid"], *(child["pid"] for child in running["children"].values())):
        process = psutil.Process(pid)
        process.kill()
        process.wait(10) if process.ppid() == os.getpid() else psutil.wait_procs([process], timeout=10)


def running_for_a_while(home: Home, experiment: str) -> None:
    home.until(experiment, ["running"])
    wait(lambda: home.show(experiment)["points"] > 20, 30, "points are stored")


def ended(home: Home, experiment: str) -> bool:
    """Whether its shim has written down the end, which needs no platform."""
    return any((home.data / "agent" / "jobs").glob(f"{experiment}-*/**/exit.json"))


@pytest.mark.timeout(300)
def test_everything_is_killed_and_the_bus_is_lost(fresh: Home, project: Path) -> None:
    store = fresh.data / "nats" / "jetstream"
    assert fresh.incl("up", "--detach", timeout=90).code == 0
    go = {name: fresh.folder / name for name in ("at once", "short", "long")}
    go["at once"].touch()
    done = submit(fresh, project, go["at once"])
    before = whole(fresh, done)
    short, long = submit(fresh, project, go["short"]), submit(fresh, project, go["long"])
    running_for_a_while(fresh, short)
    running_for_a_while(fresh, long)
    kill_all(fresh)
    go["short"].touch()
    wait(lambda: ended(fresh, short), 30, "the short one ended without a platform")
    shutil.rmtree(store)
    started = fresh.incl("up", "--detach", timeout=90)
    assert started.code == 0, started.err
    whole(fresh, short)
    go["long"].touch()
    whole(fresh, long)
    assert fresh.show(done) == before
    whole(fresh, submit(fresh, project, go["at once"]))
    assert_right(Layout(fresh.data))


def test_the_bus_alone_is_lost_while_all_else_runs(fresh: Home, project: Path) -> None:
    assert fresh.incl("up", "--detach", timeout=90).code == 0
    go = fresh.folder / "go"
    experiment = submit(fresh, project, go)
    running_for_a_while(fresh, experiment)
    bus = children(fresh)["children"]["nats"]["pid"]
    os.kill(bus, signal.SIGSTOP)
    shutil.rmtree(fresh.data / "nats" / "jetstream")
    os.kill(bus, signal.SIGKILL)
    wait(lambda: children(fresh)["children"].get("nats", {}).get("pid", bus) != bus, 20, "a new bus")
    before = fresh.show(experiment)["points"]
    wait(lambda: fresh.show(experiment)["points"] > before + 20, 40, "points are stored again")
    go.touch()
    whole(fresh, experiment)
    whole(fresh, submit(fresh, project, go))
    assert_right(Layout(fresh.data))
