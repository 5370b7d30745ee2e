"""Sweeps on a real platform: trials are experiments, the best is right, and whatever is killed costs nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from incl_local.aftermath import assert_right
from incl_local.layout import Layout
from incl_local.testing import Home, wait

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TRAIN = """\
import json, os
import incl
x, y = float(os.environ["X"]), float(os.environ["Y"])
assert json.loads(os.environ["INCL_HPARAMS"])["X"] == os.environ["X"]
assert (incl.sweep, incl.trial) == (os.environ["INCL_SWEEP"], int(os.environ["INCL_TRIAL"]))
assert os.environ["INCL_NAME"].endswith(f"-{incl.trial}")
incl.log({"loss": 99.0}, step=0)
incl.log({"loss": (x - 0.3) ** 2 + (y + 1) ** 2}, step=1)
"""
SWEEP = """\
name: quadratic
experiment: {command: python train.py, resources: {cpu: 0.25}}
parameters:
  X: {type: uniform, low: -2, high: 2}
  Y: {type: uniform, low: -2, high: 2}
objective: {metric: loss, goal: min}
budget: {trials: 12}
parallel: 4
"""


def write(project: Path, train: str = TRAIN, sweep: str = SWEEP) -> None:
    (project / "train.py").write_text(train)
    (project / "sweep.yaml").write_text(sweep)


def test_twelve_trials_over_four_slots_find_a_good_point(home: Home, project: Path) -> None:
    write(project)
    done = home.incl("sweep", "sweep.yaml", cwd=project, timeout=110)
    assert done.code == 0, done.err + done.out
    assert sum(line.startswith("trial ") for line in done.err.splitlines()) == 12
    view = home.incl("sweep", "show", "quadratic", "--json").json
    trials = home.incl("sweep", "trials", "quadratic", "--json").json
    assert [trial["message"] for trial in trials if trial["state"] != "complete"] == []
    assert (view["row"]["state"], view["row"]["counts"]) == ("finished", {"complete": 12})
    for trial in trials:
        x, y = trial["parameters"]["X"], trial["parameters"]["Y"]
        assert trial["values"] == [pytest.approx((x - 0.3) ** 2 + (y + 1) ** 2)], "the last value, not the first"
    (best,) = home.incl("sweep", "best", "quadratic", "--json").json
    assert best == min(trials, key=lambda trial: trial["values"][0])
    assert best["values"][0] < 0.6
    assert len({json.dumps(trial["parameters"]) for trial in trials}) == 12
    check_experiments(home, view["row"]["id"], trials)


def check_experiments(home: Home, sweep: str, trials: list[dict[str, object]]) -> None:
    """Every trial is an experiment, and lists find it by its sweep and its number."""
    rows = home.incl("ls", f"sweep = {sweep}", "--sort", "trial", "--json").json
    assert [(row["id"], row["trial"]) for row in rows] == [(t["experiment"], t["trial"]) for t in trials]
    assert {row["state"] for row in rows} == {"finished"}
    some = home.incl("ls", f"sweep ~ {sweep[-8:]} and trial >= 10", "--json").json
    assert sorted(row["trial"] for row in some) == [10, 11]
    most = max(sum(a["started"] <= b["started"] < a["ended"] for a in rows) for b in rows)
    assert most <= 4


def test_trials_that_all_fail_end_the_sweep_with_the_reason(home: Home, project: Path) -> None:
    write(project, "raise SystemExit('no data')\n", SWEEP.replace("quadratic", "broken"))
    done = home.incl("sweep", "sweep.yaml", cwd=project, timeout=110)
    assert done.code == 3
    assert "none of the first 5 trials has a value" in done.out
    assert "incl logs" in done.out
    view = home.incl("sweep", "show", "broken", "--json").json
    assert view["row"]["state"] == "failed"
    assert view["row"]["trials"] < 12
    assert home.incl("sweep", "best", "broken").code == 4


def test_a_stopped_sweep_stops_its_trials(home: Home, project: Path) -> None:
    patient = "import time\nprint('started', flush=True)\ntime.sleep(120)\n"
    write(project, patient, SWEEP.replace("quadratic", "patient").replace("parallel: 4", "parallel: 2"))
    started = home.incl("sweep", "run", "sweep.yaml", "--detach", cwd=project)
    assert started.code == 0, started.err
    sweep = started.out.strip()
    running = f"sweep = {sweep} and status = running"
    wait(lambda: len(home.incl("ls", running, "--json").json) == 2, 60, "two trials run")
    stopped = home.incl("sweep", "stop", sweep, "--reason", "enough", "--wait", timeout=60)
    assert stopped.code == 0, stopped.err
    rows = home.incl("ls", f"sweep = {sweep}", "--json").json
    assert [row["state"] for row in rows] == ["stopped", "stopped"]
    view = home.incl("sweep", "show", sweep, "--json").json
    assert view["row"]["state"] == "stopped"
    assert view["row"]["message"].endswith(": enough")


def test_the_example_is_searched(home: Home) -> None:
    options = ("--trials", "3", "--parallel", "2", "--set", "experiment.resources.cpu=0.5")
    done = home.incl("sweep", str(EXAMPLES / "digits" / "sweep.yaml"), *options, timeout=110)
    assert done.code == 0, done.err + done.out
    (best,) = home.incl("sweep", "best", "digits-sweep", "--json").json
    assert best["values"][0] > 0.3


EPOCHS = """\
import os, time
import incl
x = float(os.environ["X"])
for epoch in range(1, 10):
    incl.log({"loss": (x - 0.3) ** 2 + 1 / epoch}, step=epoch)
    time.sleep(0.4)
"""


def test_trials_that_are_behind_are_stopped_early(home: Home, project: Path) -> None:
    text = SWEEP.replace("quadratic", "early") + "early_stopping: {name: asha, min: 1, eta: 3}\n"
    write(project, EPOCHS, text)
    done = home.incl("sweep", "sweep.yaml", cwd=project, timeout=115)
    assert done.code == 0, done.err + done.out
    view = home.incl("sweep", "show", "early", "--json").json
    trials = home.incl("sweep", "trials", "early", "--json").json
    states = {trial["experiment"]: trial["state"] for trial in trials}
    pruned = {experiment for experiment, state in states.items() if state == "pruned"}
    assert set(states.values()) == {"complete", "pruned"}
    assert view["row"]["steps_saved"] == sum(9 - trial["steps"] for trial in trials if trial["state"] == "pruned") > 0
    assert "steps saved" in done.out
    rows = home.incl("ls", f"sweep = {view['row']['id']}", "--json").json
    assert {row["id"] for row in rows if row["state"] == "stopped"} == pruned
    complete = [trial for trial in trials if trial["state"] == "complete"]
    assert view["row"]["best"] == min(complete, key=lambda trial: trial["values"][0])


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Home]:
    """A platform with a process for each service."""
    place = Home(tmp_path / "apart")
    started = place.incl("up", "--detach", "--processes", timeout=90)
    assert started.code == 0, started.err
    yield place
    place.incl("down", timeout=60)


def test_the_service_is_killed_and_the_sweep_goes_on(apart: Home, project: Path) -> None:
    write(project)
    sweep = apart.incl("sweep", "run", "sweep.yaml", "--detach", cwd=project, timeout=60).out.strip()
    for wanted in (2, 6):
        wait(lambda: len(trials_of(apart, sweep)) >= wanted, 60, f"{wanted} trials")  # noqa: B023
        before = {trial["trial"]: trial["parameters"] for trial in trials_of(apart, sweep)}
        kill(apart)
        wait(lambda: trials_of(apart, sweep), 60, "the service answers again")
        after = {trial["trial"]: trial["parameters"] for trial in trials_of(apart, sweep)}
        assert {number: after[number] for number in before} == before
    wait(lambda: apart.incl("sweep", "show", sweep, "--json").json["row"]["ended"], 110, "its end")
    trials = trials_of(apart, sweep)
    assert [trial["trial"] for trial in trials] == list(range(12))
    assert [trial["message"] for trial in trials if trial["state"] != "complete"] == []
    assert len(apart.incl("ls", f"sweep = {sweep}", "--json").json) == 12
    assert_right(Layout(apart.data))


def trials_of(home: Home, sweep: str) -> list[dict[str, object]]:
    result = home.incl("sweep", "trials", sweep, "--json")
    return list(result.json) if result.code == 0 else []


def kill(home: Home) -> None:
    """SIGKILL the service of sweeps of this platform."""
    (pid,) = (
        process.pid
        for process in psutil.process_iter()
        if _words(process)[1:4] == ["-m", "incl_local.service", "hpo"] and str(home.data) in _words(process)
    )
    os.kill(pid, signal.SIGKILL)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
