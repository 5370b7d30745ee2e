"""incl sweep: what is submitted, what is refused, what is shown."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from incl_cli.testing import FakePlatform, Run
from incl_cli.testing_sweeps import FakeSweeps
from incl_shared.errors import UnavailableError, UnsupportedError
from incl_shared.events import (
    ExperimentSubmitted,
    SweepResumeRequested,
    SweepState,
    SweepStopRequested,
    SweepSubmitted,
    TrialState,
)
from incl_shared.queries.hpo import CheckAlgorithm
from incl_shared.queries.provisioner import CheckFeasible, Cluster, NodeView, PlanExperiment, PlanView
from incl_shared.sweep import SweepSpec

FILE = """\
experiment: {command: python train.py, resources: {cpu: 1}}
parameters:
  LR: {type: loguniform, low: 1e-5, high: 0.1}
objective: {metric: loss, goal: min}
budget: {trials: 5}
parallel: 2
"""


@pytest.fixture
def sweeps(fake: FakePlatform) -> FakeSweeps:
    return FakeSweeps(fake)


@pytest.fixture
def spec() -> SweepSpec:
    parameters = {"LR": {"type": "loguniform", "low": 1e-5, "high": 0.1}, "OPT": ["sgd", "adam"]}
    return SweepSpec.model_validate(
        {
            "name": "digits", "experiment": {"command": "true"}, "parameters": parameters, "budget": {"trials": 5},
            "objective": {"metric": "loss", "goal": "min"},
        }
    )  # fmt: skip


def submitted(fake: FakePlatform) -> SweepSubmitted:
    (event, identifier) = fake.published[-1]
    assert isinstance(event, SweepSubmitted)
    assert identifier == event.sweep
    return event


def test_a_file_is_submitted_with_its_folder_and_followed(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    Path("sweep.yaml").write_text(FILE)
    Path("train.py").write_text("print(1)")
    sweeps.values = [3.0, 1.0, 2.0]
    result = cli("sweep", "sweep.yaml")
    assert result.code == 0, result.err
    event = submitted(fake)
    assert (event.spec.name, event.spec.project, event.spec.experiment.project) == ("sweep", "default", "default")
    assert event.code is not None
    assert event.code.files == 2
    assert event.submitter.environment["PATH"]
    assert {entry.kind for entry in fake.entries[event.sweep]} >= {"code"}
    lines = [line for line in result.err.splitlines() if line.startswith("trial ")]
    assert ["best so far" in line for line in lines] == [True, True, False]
    assert "loss 1" in lines[1]
    assert "sweep  finished" in result.out
    assert "it is over" in result.out


@pytest.mark.parametrize("state", [SweepState.FAILED, SweepState.STOPPED])
def test_a_sweep_that_came_to_nothing_is_exit_code_3(cli: Run, sweeps: FakeSweeps, state: SweepState) -> None:
    Path("sweep.yaml").write_text(FILE)
    sweeps.end = state
    assert cli("sweep", "run", "sweep.yaml").code == 3


def test_detached_and_as_json(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    Path("sweep.yaml").write_text(FILE)
    detached = cli("sweep", "run", "sweep.yaml", "--detach", "--trials", "9", "--parallel", "1", "--seed", "3")
    event = submitted(fake)
    assert detached.out.strip() == event.sweep
    assert (event.spec.budget.trials, event.spec.parallel, event.spec.seed) == (9, 1, 3)
    fake.published.clear()
    sweeps.values = [0.5]
    followed = cli("sweep", "run", "sweep.yaml", "--json", "--name", "mine")
    assert followed.json["row"]["name"] == "mine"
    assert followed.json["best"][0]["values"] == [0.5]


def test_options_reach_the_experiment(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    Path("sweep.yaml").write_text(FILE)
    options = ("--set", "experiment.resources.cpu=2", "--set", "experiment.env.V=1.10", "--project", "vision")
    assert cli("sweep", "run", "sweep.yaml", "--detach", *options).code == 0
    spec = submitted(fake).spec
    assert (spec.experiment.resources.cpu, spec.experiment.env) == (2.0, {"V": "1.10"})
    assert spec.project == spec.experiment.project == "vision"


def test_a_dry_run_submits_nothing(cli: Run, fake: FakePlatform) -> None:
    Path("sweep.yaml").write_text(FILE)
    result = cli("sweep", "run", "sweep.yaml", "--dry-run")
    assert result.code == 0
    assert "loguniform" in result.out
    assert fake.published == []


def test_bad_files_and_refusals_are_told_before_anything_is_sent(cli: Run, fake: FakePlatform) -> None:
    Path("sweep.yaml").write_text(FILE.replace("low: 1e-5", "low: 0"))
    bad = cli("sweep", "run", "sweep.yaml")
    assert bad.code == 2
    assert "error: sweep.yaml:3: parameters: LR: a logarithmic range cannot begin at 0" in bad.err
    assert "hint: " in bad.err
    assert cli("sweep", "run", "nowhere.yaml").code == 4
    Path("sweep.yaml").write_text(FILE)
    fake.refusals[CheckFeasible] = UnsupportedError("it needs 8 GPUs, no machine has more than 0")
    refused = cli("sweep", "run", "sweep.yaml")
    assert (refused.code, "8 GPUs" in refused.err) == (2, True)
    fake.refusals.clear()
    fake.publish_error = UnavailableError("the bus was lost")
    lost = cli("sweep", "run", "sweep.yaml")
    assert lost.code == 7
    assert "may have arrived" in lost.err
    assert "incl sweep show" in lost.err
    assert fake.published == []


def test_more_at_once_than_fit_is_said(cli: Run, fake: FakePlatform) -> None:
    Path("sweep.yaml").write_text(FILE.replace("parallel: 2", "parallel: 8"))
    node = NodeView(
        node="local", alive=True, address="127.0.0.1", cpu=4, cpu_used=0, memory=2**30, memory_used=0, gpus=0,
        gpus_used=0, runtimes=(), jobs=0, seen_s=0,
    )  # fmt: skip
    fake.cluster = Cluster(nodes=(node,), queue=(), queued=0, running=0)
    result = cli("sweep", "run", "sweep.yaml", "--detach")
    assert "warning: parallel is 8, but the machines have room for 4 at once" in result.err


def test_lists_and_views(cli: Run, sweeps: FakeSweeps, spec: SweepSpec) -> None:
    assert "no sweeps" in cli("sweep", "ls").err
    sweep = sweeps.add(spec, steps=30, steps_saved=10)
    sweeps.tried(sweep, {"LR": 0.01, "OPT": "sgd"}, 0.5)
    sweeps.tried(sweep, {"LR": 0.1, "OPT": "adam"}, 0.25)
    sweeps.tried(sweep, {"LR": 0.2, "OPT": "adam"}, state=TrialState.FAILED, message="exit code 1")
    listed = cli("sweep", "ls").out
    assert "digits" in listed
    assert "3/5" in listed
    assert "loss 0.25" in listed
    shown = cli("sweep", "show", "digits").out
    assert "3/5 trials   2 complete, 1 failed" in shown
    assert "exit code 1" in shown
    assert "stopped early: 10 steps saved (25%), 30 were run" in shown
    trials = cli("sweep", "trials", sweep[-8:], "--json").json
    assert [trial["trial"] for trial in trials] == [0, 1, 2]
    assert [trial["trial"] for trial in cli("sweep", "trials", "--sort", "value", "--json").json] == [1, 0, 2]
    assert [trial["trial"] for trial in cli("sweep", "trials", "--state", "failed", "--json").json] == [2]
    assert cli("sweep", "best", "--env").out == "LR=0.1\nOPT=adam\n"
    assert cli("sweep", "best", "--json").json[0]["trial"] == 1
    assert cli("sweep", "ls", "--json").json[0]["best"]["trial"] == 1
    assert cli("sweep", "show", "--json").json["spec"]["name"] == "digits"


def test_many_trials_are_paged_through(cli: Run, fake: FakePlatform, sweeps: FakeSweeps, spec: SweepSpec) -> None:
    sweep = sweeps.add(spec)
    for number in range(7):
        sweeps.tried(sweep, {"LR": 0.01, "OPT": "sgd"}, float(number))
    fake.page = 3
    assert len(cli("sweep", "trials", "--json").json) == 7
    assert len(cli("sweep", "trials", "--json", "-n", "5").json) == 5


def test_a_terminal_shows_a_picture(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    Path("sweep.yaml").write_text(FILE)
    sweeps.values = [3.0, 1.0]
    result = cli("sweep", "run", "sweep.yaml", terminal=True)
    assert result.code == 0, result.err
    assert "█" in result.err
    assert "best" in result.out


def test_stopping(cli: Run, fake: FakePlatform, sweeps: FakeSweeps, spec: SweepSpec) -> None:
    sweep = sweeps.add(spec)
    sweeps.tried(sweep, {"LR": 0.01, "OPT": "sgd"}, state=TrialState.RUNNING, ended=None)
    result = cli("sweep", "stop", "digits", "--reason", "enough", "--wait")
    assert result.code == 0, result.err
    assert "digits: asked to stop, with 1 trial that is not over" in result.err
    (event, _) = fake.published[-1]
    assert event == SweepStopRequested(sweep=sweep, reason="enough")
    again = cli("sweep", "stop", "digits")
    assert again.code == 5
    assert "stopped already" in again.err


def test_what_is_not_there(cli: Run, sweeps: FakeSweeps, spec: SweepSpec) -> None:
    assert cli("sweep", "show", "nope").code == 4
    sweeps.add(spec)
    best = cli("sweep", "best")
    assert best.code == 4
    assert "has a value" in best.err
    wrong = cli("sweep", "trials", "--state", "faild")
    assert (wrong.code, "failed" in wrong.err) == (2, True)
    assert cli("sweep", "ls", "-n", "0").code == 2
    assert "no trials yet" in cli("sweep", "trials").err


def finished(sweeps: FakeSweeps, name: str = "sweep") -> str:
    """A sweep of FILE that had its five trials."""
    from incl_shared.sweepfile import load_sweep, validate_sweep

    Path("there.yaml").write_text(f"name: {name}\n{FILE}")
    sweep = sweeps.add(validate_sweep(load_sweep(Path("there.yaml"))))
    for number in range(5):
        sweeps.tried(sweep, {"LR": 0.001 * (number + 1)}, float(number))
    sweeps.ends(sweep, SweepState.FINISHED, message="5 trials, 5 of them with a value")
    return sweep


def test_a_sweep_goes_on(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    sweep = finished(sweeps)
    used_up = cli("sweep", "resume", "sweep")
    assert used_up.code == 5
    assert "has had 5 trials already, of 5" in used_up.err
    assert "--trials 10" in used_up.err
    detached = cli("sweep", "resume", "sweep", "--trials", "8", "--parallel", "2", "--detach")
    assert detached.code == 0, detached.err
    assert fake.published[-1][0] == SweepResumeRequested(sweep=sweep, trials=8, parallel=2)
    followed = cli("sweep", "resume", "sweep", "--trials", "8")
    assert followed.code == 0, followed.err
    assert "it went on" in followed.out
    assert cli("sweep", "resume", "sweep", "--trials", "0").code == 2


def test_a_changed_file_is_refused_with_the_difference(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    sweep = finished(sweeps)
    Path("sweep.yaml").write_text(FILE.replace("high: 0.1", "high: 0.2").replace("cpu: 1", "cpu: 2"))
    refused = cli("sweep", "resume", "sweep", "--file", "sweep.yaml")
    assert refused.code == 5
    assert "error: sweep.yaml is not the file of sweep sweep any more" in refused.err
    assert "parameters.LR.high: 0.1 in the sweep, 0.2 in the file" in refused.err
    assert "experiment.resources.cpu: 1.0 in the sweep, 2.0 in the file" in refused.err
    assert f"--warm-start {sweep[-8:]}" in refused.err
    assert fake.published == []
    Path("sweep.yaml").write_text(FILE.replace("trials: 5", "trials: 9").replace("parallel: 2", "parallel: 3"))
    taken = cli("sweep", "resume", "sweep", "--file", "sweep.yaml", "--detach")
    assert taken.code == 0, taken.err
    assert fake.published[-1][0] == SweepResumeRequested(sweep=sweep, trials=9, parallel=3)


def test_a_sweep_begins_with_others(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    earlier = finished(sweeps, "earlier")
    Path("sweep.yaml").write_text(FILE)
    assert cli("sweep", "run", "sweep.yaml", "--warm-start", "earlier", "--detach").code == 0
    assert submitted(fake).spec.warm_start == (earlier,)
    Path("sweep.yaml").write_text(FILE.replace("metric: loss", "metric: acc") + "warm_start: [earlier]\n")
    other = cli("sweep", "run", "sweep.yaml", "--detach")
    assert (other.code, "another objective" in other.err) == (5, True)


def test_plots(cli: Run, sweeps: FakeSweeps, spec: SweepSpec) -> None:
    sweep = sweeps.add(spec)
    empty = cli("sweep", "plot")
    assert (empty.code, "has a value yet" in empty.err) == (4, True)
    for number, value in enumerate((3.0, 1.0, 2.0)):
        sweeps.tried(sweep, {"LR": 10.0 ** -(number + 1), "OPT": "adam" if number else "sgd"}, value)
    sweeps.tried(sweep, {"LR": 0.5, "OPT": "adam"}, state=TrialState.FAILED)
    history = cli("sweep", "plot").out
    assert "digits: loss (min)" in history
    assert "best so far" in history
    assert "trial" in history.splitlines()[-3]
    assert any("\u2800" < letter <= "\u28ff" for letter in history)
    slices = cli("sweep", "plot", "--kind", "slice").out
    assert "log10 LR" in slices
    (row,) = [line.split() for line in slices.splitlines() if line.startswith("adam")]
    assert row == ["adam", "2", "1", "1.5"]
    timeline = cli("sweep", "plot", "--kind", "timeline").out.splitlines()
    assert "4 trials in" in timeline[0]
    assert [line.split()[:2] for line in timeline[1:]][-1] == ["3", "failed"]
    assert len(cli("sweep", "plot", "--json").json) == 4
    assert cli("sweep", "plot", "--height", "1").code == 2


def test_trials_as_csv(cli: Run, sweeps: FakeSweeps, spec: SweepSpec) -> None:
    sweep = sweeps.add(spec)
    sweeps.tried(sweep, {"LR": 0.01, "OPT": "sgd"}, 0.5)
    sweeps.tried(sweep, {"LR": 0.1}, state=TrialState.FAILED, message='exit code 1, "no data"')
    rows = list(csv.DictReader(cli("sweep", "export").out.splitlines()))
    assert [(row["LR"], row["OPT"], row["loss"], row["state"]) for row in rows] == [
        ("0.01", "sgd", "0.5", "complete"), ("0.1", "", "", "failed"),
    ]  # fmt: skip
    assert rows[1]["message"] == 'exit code 1, "no data"'
    written = cli("sweep", "export", "-o", "trials.csv")
    assert written.code == 0
    assert list(csv.DictReader(Path("trials.csv").read_text().splitlines())) == rows
    refused = cli("sweep", "export", "-o", "no/such/folder.csv")
    assert (refused.code, "cannot write" in refused.err) == (5, True)


def test_a_sampler_of_optuna_is_asked_about_first(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    Path("sweep.yaml").write_text(FILE + "algorithm: {name: optuna.TPESampler, options: {multivariate: true}}\n")
    assert cli("sweep", "run", "sweep.yaml", "--detach").code == 0
    assert submitted(fake).spec.algorithm.options == {"multivariate": True}
    (asked,) = [query for query in fake.asked if isinstance(query, CheckAlgorithm)]
    assert (asked.algorithm.name, list(asked.parameters)) == ("optuna.TPESampler", ["LR"])
    fake.refusals[CheckAlgorithm] = UnsupportedError("algorithm: it is not installed", hint="pip install it")
    fake.published.clear()
    refused = cli("sweep", "run", "sweep.yaml")
    assert (refused.code, fake.published) == (2, [])
    assert "error: algorithm: it is not installed" in refused.err
    assert "hint: pip install it" in refused.err


def test_algorithms_that_there_are_not(cli: Run) -> None:
    Path("sweep.yaml").write_text(FILE)
    unknown = cli("sweep", "run", "sweep.yaml", "--algorithm", "bayes")
    assert unknown.code == 2
    assert "'bayes' is none: tpe, random, grid, sobol, or one of Optuna's" in unknown.err
    Path("sweep.yaml").write_text(FILE + "algorithm: {name: tpe, options: {a: 1}}\n")
    assert "tpe has none" in cli("sweep", "run", "sweep.yaml").err


MONEY = """\
experiment: {command: python train.py, instance: n2-standard-4}
parameters: {LR: {type: loguniform, low: 1e-5, high: 0.1}}
objective: {metric: loss, goal: min}
budget: {money: 20}
"""


def test_money_needs_a_price(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    plan = PlanView(cloud="gce", nodes=1, machine="n2-standard-4", price_on_demand=0.25, currency="USD")
    fake.more[PlanExperiment] = lambda query: plan
    Path("sweep.yaml").write_text(MONEY)
    done = cli("sweep", "run", "sweep.yaml", "--detach", "--money", "10")
    assert (done.code, submitted(fake).spec.budget.money) == (0, 10.0)
    assert "10 USD is 40 h of 1 x n2-standard-4 at 0.25 an hour" in done.err
    unknown = plan.model_copy(update={"price_on_demand": None})
    for other, why in ((unknown, "the price of n2-standard-4 is not in the list"), (PlanView(cloud=""), "no cloud is")):
        fake.more[PlanExperiment] = lambda query, other=other: other
        refused = cli("sweep", "run", "sweep.yaml")
        assert (refused.code, why in refused.err) == (2, True)
    Path("sweep.yaml").write_text(FILE.replace("{trials: 5}", "{money: 5}"))
    own = cli("sweep", "run", "sweep.yaml")
    assert (own.code, "machines of your own cost nothing here" in own.err) == (2, True)


def test_what_was_spent_is_shown_and_more_is_given(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    spec = SweepSpec.model_validate(
        {
            "name": "paid", "experiment": {"command": "true", "instance": "n2-standard-4"}, "budget": {"money": 20},
            "parameters": {"A": [1, 2]}, "objective": {"metric": "loss", "goal": "min"},
        }
    )  # fmt: skip
    sweep = sweeps.add(spec, money=20.0, spent=19.5, currency="USD")
    shown = cli("sweep", "show", "paid").out
    assert "spent: 19.50 of 20 USD" in shown
    assert "█" * 29 + "░ 0 trials" in shown, "how far it is says the money"
    less = cli("sweep", "resume", "paid", "--money", "19")
    assert (less.code, "has cost 19.50 USD already, of 19" in less.err) == (5, True)
    assert cli("sweep", "resume", "paid", "--money", "40", "--detach").code == 0
    assert fake.published[-1][0] == SweepResumeRequested(sweep=sweep, money=40.0)
    assert cli("sweep", "resume", "paid", "--money", "0").code == 2


SEARCH = FILE.split("\n", 1)[1]
"""A sweep file without an experiment."""


def test_run_with_a_sweep_file_is_the_same_as_sweep_run(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    Path("sweep.yaml").write_text(FILE)
    assert cli("sweep", "run", "sweep.yaml", "--detach").code == 0
    one = submitted(fake).spec
    assert cli("run", "--sweep", "sweep.yaml", "--detach").code == 0
    assert submitted(fake).spec == one
    done = cli("run", "--sweep", "sweep.yaml", "-d", "--env", "V=1.10", "--cpu", "2", "--name", "big", "--project", "p")
    spec = submitted(fake).spec
    assert (done.out.strip(), spec.name, spec.experiment.name) == (submitted(fake).sweep, "big", None)
    assert (spec.experiment.env, spec.experiment.resources.cpu) == ({"V": "1.10"}, 2.0)
    assert spec.project == spec.experiment.project == "p"
    assert submitted(fake).provenance.command_line.partition(" ")[2].startswith("run --sweep sweep.yaml")


def test_run_gives_a_sweep_file_its_experiment(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    Path("sweep.yaml").write_text(SEARCH)
    Path("train.yaml").write_text("command: python train.py\nenv: {RATIO: 1.10}\n")
    assert cli("run", "train.yaml", "--sweep", "sweep.yaml", "-d", "--retries", "0").code == 0
    spec = submitted(fake).spec
    assert (spec.name, spec.experiment.env, spec.experiment.retry.attempts) == ("sweep", {"RATIO": "1.10"}, 1)
    assert cli("run", "--sweep", "sweep.yaml", "-d", "--", "python", "other.py").code == 0
    assert list(submitted(fake).spec.experiment.command) == ["python", "other.py"]
    fake.published.clear()
    nothing = cli("run", "--sweep", "sweep.yaml")
    assert (nothing.code, "experiment" in nothing.err) == (2, True)
    Path("sweep.yaml").write_text(FILE)
    two = cli("run", "train.yaml", "--sweep", "sweep.yaml")
    assert (two.code, "sweep.yaml:1: the sweep has an experiment of its own, and train.yaml is" in two.err) == (2, True)
    assert cli("run", "--sweep", "sweep.yaml", "--follow").code == 2
    assert fake.published == []


def test_an_experiment_file_may_have_its_search_in_it(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    inner = "".join(f"  {line}\n" for line in SEARCH.splitlines())
    Path("train.yaml").write_text(f"name: digits\ncommand: python train.py\nenv: {{RATIO: 1.10}}\nsweep:\n{inner}")
    for words in (("run", "--sweep", "train.yaml"), ("sweep", "train.yaml")):
        assert cli(*words, "--detach").code == 0
        spec = submitted(fake).spec
        assert (spec.name, spec.budget.trials, spec.experiment.env) == ("digits", 5, {"RATIO": "1.10"})
    alone = cli("run", "train.yaml", "--detach")
    assert alone.code == 0, alone.err
    assert isinstance(fake.published[-1][0], ExperimentSubmitted), "without --sweep it is one experiment"
    Path("train.yaml").write_text(Path("train.yaml").read_text().replace("low: 1e-5", "low: 0"))
    wrong = cli("sweep", "train.yaml")
    assert "error: train.yaml:6: parameters: LR: a logarithmic range cannot begin at 0" in wrong.err


def test_options_of_an_algorithm_are_set_on_the_command_line(cli: Run, fake: FakePlatform, sweeps: FakeSweeps) -> None:
    Path("sweep.yaml").write_text(FILE + "algorithm: {name: optuna.QMCSampler, options: {scramble: true}}\n")
    popsize = ("--set", "algorithm.options.popsize=7")
    assert cli("sweep", "run", "sweep.yaml", "-d", "--algorithm", "optuna.CmaEsSampler", *popsize).code == 0
    algorithm = submitted(fake).spec.algorithm
    assert (algorithm.name, algorithm.options) == ("optuna.CmaEsSampler", {"popsize": 7}), "not the other one's"
    Path("sweep.yaml").write_text(FILE + "algorithm: optuna.TPESampler\n")
    assert cli("sweep", "run", "sweep.yaml", "-d", "--set", "algorithm.options.multivariate=true").code == 0
    assert submitted(fake).spec.algorithm.options == {"multivariate": True}


def test_one_fault_is_one_complaint(cli: Run) -> None:
    Path("sweep.yaml").write_text(FILE.replace("goal: min", "goal: up"))
    wrong = cli("sweep", "run", "sweep.yaml").err.splitlines()
    assert [line for line in wrong if "sweep.yaml" in line] == [
        "error: sweep.yaml:4: objective.0.goal: expected one of 'max' or 'min', found 'up'"
    ]
