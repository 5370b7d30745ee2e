"""While a sweep runs, the service of sweeps, and all that it speaks with, is killed, restarted and frozen.

No trial is lost and none is doubled: each is asked for once, is one experiment, runs once, and is learned from.
`make chaos` strikes every victim. Otherwise the service of sweeps is killed and frozen, and one more blow is drawn by a
seed of the day; INCL_CHAOS_SEEDS=7,8 plays these.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from incl_local.chaos.arena import Arena
from incl_local.chaos.rounds import Blow
from incl_local.chaos.victims import Fault, freeze_for
from incl_local.testing import wait

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ALL = os.environ.get("INCL_CHAOS") == "all"
TODAY = datetime.datetime.now(datetime.UTC).date().toordinal()
VICTIMS = ("hpo", "hpo", "hpo", "tracker", "provisioner", "nats", "postgres", "platform")
"""Of blows that are drawn: mostly the service of sweeps itself."""
LONGEST_FREEZE_S = 12.0
TRIALS, PARALLEL = 16, 3
OVER_S = 150.0
TRAIN = """\
import json, os, time
import incl
with open(os.environ["LEDGER"], "a") as ledger:
    ledger.write(json.dumps([incl.trial, os.environ["INCL_ATTEMPT"], os.environ["X"]]) + "\\n")
x = float(os.environ["X"])
for step in range(4):
    incl.log({"loss": (x - 0.3) ** 2 + 4 - step}, step=step)
    time.sleep(0.15)
incl.log({"loss": (x - 0.3) ** 2}, step=4)
"""
SWEEP = """\
experiment: {{command: python train.py, resources: {{cpu: 0.25}}, env: {{LEDGER: {ledger}}}}}
parameters:
  X: {{type: uniform, low: -2, high: 2}}
objective: {{metric: loss, goal: min}}
early_stopping: none
budget: {{trials: {trials}}}
parallel: {parallel}
"""


def drawn(seed: int) -> Blow:
    """A victim, a fault, and how many trials have begun before it (as `moment`)."""
    chance = random.Random(seed)
    fault = chance.choice(list(Fault))
    seconds = round(chance.uniform(1.0, LONGEST_FREEZE_S), 1) if fault is Fault.FREEZE else 0.0
    return Blow(chance.choice(VICTIMS), fault, seconds, (), moment=float(chance.randint(1, TRIALS - PARALLEL)))


def blows() -> list[Blow]:
    """Those of this run."""
    if given := os.environ.get("INCL_CHAOS_SEEDS"):
        return [drawn(int(seed)) for seed in given.split(",")]
    freeze = [Blow("hpo", Fault.FREEZE, 10.0, (), moment=5.0)]
    kill = [Blow("hpo", Fault.KILL, 0.0, (), moment=3.0)]
    if not ALL:
        return [*kill, *freeze, drawn(TODAY)]
    others = [Blow(victim, Fault.KILL, 0.0, (), moment=4.0) for victim in VICTIMS[3:]]
    return [*kill, *freeze, Blow("hpo", Fault.RESTART, 0.0, (), moment=4.0), *others]


@pytest.mark.parametrize("blow", blows(), ids=str)
async def test_no_trial_is_lost_or_doubled(arena: Arena, tmp_path: Path, blow: Blow) -> None:
    ledger = tmp_path / "ledger"
    (tmp_path / "train.py").write_text(TRAIN)
    said = SWEEP.format(ledger=json.dumps(str(ledger)), trials=TRIALS, parallel=PARALLEL)
    (tmp_path / "sweep.yaml").write_text(said)
    home = arena.chaos.home
    started = await asyncio.to_thread(home.incl, "sweep", "run", "sweep.yaml", "--detach", cwd=tmp_path)
    assert started.code == 0, started.err
    sweep = started.out.strip()
    begun = int(blow.moment)
    await asyncio.to_thread(wait, lambda: len(_ran(ledger)) >= begun, 60, f"{begun} trials")
    await asyncio.to_thread(_strike, arena, blow)
    view = await asyncio.to_thread(_over, arena, sweep)
    trials = home.incl("sweep", "trials", sweep, "--json").json
    _check(trials, _ran(ledger), view)
    rows = home.incl("ls", f"sweep = {sweep}", "--sort", "trial", "-n", "100", "--json").json
    assert [(row["id"], row["trial"]) for row in rows] == [(trial["experiment"], trial["trial"]) for trial in trials]


def _check(trials: list[Any], ran: list[Any], view: Any) -> None:
    assert (view["row"]["state"], view["row"]["counts"]) == ("finished", {"complete": TRIALS}), view["row"]
    assert [trial["trial"] for trial in trials] == list(range(TRIALS))
    assert len({trial["experiment"] for trial in trials}) == TRIALS
    assert len({trial["parameters"]["X"] for trial in trials}) == TRIALS
    assert sorted((number, attempt) for number, attempt, _ in ran) == [(number, "1") for number in range(TRIALS)]
    assert {number: float(x) for number, _, x in ran} == {t["trial"]: t["parameters"]["X"] for t in trials}
    for trial in trials:
        assert trial["values"] == [pytest.approx((trial["parameters"]["X"] - 0.3) ** 2)], "the last point counts"


def _ran(ledger: Path) -> list[Any]:
    """(trial, attempt, X) of every process that a trial had."""
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []


def _strike(arena: Arena, blow: Blow) -> None:
    if blow.fault is Fault.FREEZE:
        with arena.chaos.frozen(blow.victim):
            freeze_for(blow.seconds)
    elif blow.fault is Fault.RESTART:
        arena.chaos.restart(blow.victim)
    else:
        arena.chaos.kill(blow.victim)


def _over(arena: Arena, sweep: str) -> Any:
    """What is said of it once it is over. A command that meets the fault is asked again."""

    def ended() -> Any:
        shown = arena.chaos.home.incl("sweep", "show", sweep, "--json")
        return shown.json if shown.code == 0 and shown.json["row"]["ended"] is not None else None

    return wait(ended, OVER_S, f"the end of sweep {sweep}")
