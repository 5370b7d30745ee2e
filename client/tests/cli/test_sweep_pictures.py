"""incl sweep plot: every kind, in the terminal and as a file, also where there is little to draw."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from incl_cli.commands.sweep import KINDS
from incl_cli.sweep_importance import importance
from incl_cli.sweep_pictures import survival
from incl_cli.sweep_scales import pair_of, ranked, scales
from incl_cli.testing import FakePlatform, Run
from incl_cli.testing_sweeps import FakeSweeps
from incl_shared.errors import ConflictError
from incl_shared.events import TrialState
from incl_shared.sweep import SweepSpec

PARAMETERS: dict[str, Any] = {
    "LR": {"type": "loguniform", "low": 1e-5, "high": 0.1},
    "OPT": ["sgd", "adam", "$x^2$ & <b>"],
    "MOMENTUM": {"type": "quantised", "low": 0, "high": 0.9, "step": 0.1, "when": {"OPT": "sgd"}},
    "HIDDEN": {"type": "int", "low": 16, "high": 512, "log": True},
}
TWO = [{"metric": "val_acc", "goal": "max"}, {"metric": "size", "goal": "min"}]


@pytest.fixture
def sweeps(fake: FakePlatform) -> FakeSweeps:
    return FakeSweeps(fake)


def made(sweeps: FakeSweeps, count: int, objective: Any = None, **more: Any) -> str:
    """A sweep in which LR matters: the best ones are at 10^-2.5. Every fourth trial failed or was stopped early."""
    spec = SweepSpec.model_validate(
        {
            "name": "digits", "experiment": {"command": "true"}, "budget": {"trials": 200}, "parameters": PARAMETERS,
            "objective": objective or {"metric": "val_acc", "goal": "max"}, **more,
        }
    )  # fmt: skip
    sweep, rng = sweeps.add(spec), random.Random(1)
    for number in range(count):
        point: dict[str, Any] = {"LR": 10 ** rng.uniform(-5, -1), "HIDDEN": rng.randint(16, 512)}
        point["OPT"] = rng.choice(PARAMETERS["OPT"])
        if point["OPT"] == "sgd":
            point["MOMENTUM"] = rng.randint(0, 9) / 10
        values = (1 - abs(math.log10(point["LR"]) + 2.5) / 4, rng.random())[: len(spec.objective)]
        if number % 8 == 3:
            sweeps.tried(sweep, point, state=TrialState.FAILED)
        elif number % 8 == 7:
            sweeps.tried(sweep, point, *values, state=TrialState.PRUNED, steps=3, rung=3)
        else:
            sweeps.tried(sweep, point, *values, steps=27)
    return sweep


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "objective"), [(1, None), (5, None), (60, None), (60, TWO)])
def test_every_kind_in_the_terminal_and_as_a_file(
    cli: Run, sweeps: FakeSweeps, kind: str, count: int, objective: Any
) -> None:
    made(sweeps, count, objective)
    drawn = cli("sweep", "plot", "--kind", kind)
    if kind == "importance" and count == 1:
        assert (drawn.code, "needs 4 complete trials, digits has 1" in drawn.err) == (4, True)
        assert cli("sweep", "plot", "--kind", kind, "--out", "x.png").code == 4
        assert not Path("x.png").exists()
        return
    assert drawn.code == 0, drawn.err
    lines = drawn.out.splitlines()
    assert "digits" in drawn.out or kind == "slice"
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in drawn.out
    for ending, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")):
        written = cli("sweep", "plot", "--kind", kind, "--out", f"x{ending}")
        assert (written.code, written.out) == (0, ""), written.err
        content = Path(f"x{ending}").read_bytes()
        assert content.startswith(begins)
        assert b"<b>" not in content
        assert b'href="http' not in content
        assert b"src=" not in content
    assert [path.name for path in Path().glob(".x*")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_draw_is_said(cli: Run, sweeps: FakeSweeps, kind: str) -> None:
    made(sweeps, 0)
    empty = cli("sweep", "plot", "--kind", kind)
    assert (empty.code == 0) == (kind == "timeline"), empty.err
    for _ in range(4):
        sweeps.tried(next(iter(sweeps.trials)), {"LR": 0.1, "OPT": "adam", "HIDDEN": 16}, state=TrialState.FAILED)
    failed = cli("sweep", "plot", "--kind", kind, "--out", "x.svg")
    assert (failed.code == 0) == (kind == "timeline"), failed.err


def test_the_same_value_everywhere(cli: Run, sweeps: FakeSweeps) -> None:
    sweep = made(sweeps, 0)
    for _ in range(5):
        sweeps.tried(sweep, {"LR": 0.1, "OPT": "adam", "HIDDEN": 16}, 0.5, steps=1)
    for kind in KINDS:
        assert cli("sweep", "plot", "--kind", kind).code == 0
        assert cli("sweep", "plot", "--kind", kind, "--out", "x.png").code == 0


def test_what_matters_is_found(cli: Run, sweeps: FakeSweeps) -> None:
    view = sweeps.views[made(sweeps, 120)]
    found = ranked(view, sweeps.trials[view.row.id])
    shares = importance(list(scales(view).values()), found)
    assert set(shares) == set(PARAMETERS)
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda name: shares[name]) == "LR"
    assert shares["LR"] > 0.6
    drawn = cli("sweep", "plot", "--kind", "importance").out.splitlines()
    assert drawn[1].split()[0] == "LR"
    assert drawn[1].split()[-2] == f"{shares['LR'] * 100:.0f}"
    assert pair_of(view, found, ())[0].name == "LR"


def test_values_lie_where_they_belong(sweeps: FakeSweeps) -> None:
    axes = scales(sweeps.views[made(sweeps, 0)])
    assert axes["LR"].place(1e-3) == pytest.approx(0.5)
    assert (axes["LR"].label(0.5), axes["HIDDEN"].label(1.0)) == ("0.001", "512")
    assert [axes["OPT"].place(choice) for choice in PARAMETERS["OPT"]] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert axes["OPT"].label(0.5) == "adam"
    assert axes["MOMENTUM"].place(2.0) == 1.0


def test_those_that_were_stopped_early(sweeps: FakeSweeps) -> None:
    sweep = made(sweeps, 16)
    steps, alive, stopped = survival(sweeps.views[sweep], sweeps.trials[sweep])
    assert (steps[0], alive[0], alive[-1]) == (0, 14, 0)
    assert stopped == [(3.0, 14.0), (3.0, 13.0)]
    assert (steps[-1], sorted(set(steps))) == (27, [0, 3, 27])


def test_parameters_are_chosen(cli: Run, sweeps: FakeSweeps) -> None:
    made(sweeps, 40)
    chosen = cli("sweep", "plot", "--kind", "rank", "--parameters", "HIDDEN,OPT").out
    assert "HIDDEN: 16 … 512" in chosen
    assert "up: OPT" in chosen
    assert "LR" not in cli("sweep", "plot", "--kind", "slice", "--parameters", "HIDDEN").out
    unknown = cli("sweep", "plot", "--kind", "rank", "--parameters", "HIDDEN,NO")
    assert (unknown.code, "has no parameter NO" in unknown.err) == (4, True)
    assert cli("sweep", "plot", "--kind", "contour", "--parameters", "HIDDEN").code == 5


def test_pictures_of_two_need_two(cli: Run, sweeps: FakeSweeps) -> None:
    made(sweeps, 0, parameters={"LR": PARAMETERS["LR"]})
    sweeps.tried(next(iter(sweeps.trials)), {"LR": 0.01}, 0.5)
    refused = cli("sweep", "plot", "--kind", "contour")
    assert (refused.code, "--kind slice" in refused.err) == (5, True)


def test_no_trial_has_both(sweeps: FakeSweeps) -> None:
    from incl_cli.sweep_pictures import placed

    sweep = made(sweeps, 0)
    sweeps.tried(sweep, {"LR": 0.1, "OPT": "adam", "HIDDEN": 16}, 0.5)
    view = sweeps.views[sweep]
    axes = scales(view)
    with pytest.raises(ConflictError, match="no trial has both"):
        placed(ranked(view, sweeps.trials[sweep]), axes["MOMENTUM"], axes["LR"])


def test_a_file_needs_matplotlib_and_a_known_ending(
    cli: Run, sweeps: FakeSweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(sweeps, 5)
    assert cli("sweep", "plot", "--out", "x.pdf").code == 2
    nowhere = cli("sweep", "plot", "--out", "no/such/x.png")
    assert (nowhere.code, "cannot write" in nowhere.err) == (5, True)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    missing = cli("sweep", "plot", "--out", "x.png")
    assert missing.code != 0
    assert "pip install 'incl[plot]'" in missing.err
    assert cli("sweep", "plot").code == 0
