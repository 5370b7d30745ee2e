"""The sweep file: what it may say, and how it is refused, with the line where it stands."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.specfile import Override
from incl_shared.sweep import SweepSpec, env_text, money_text
from incl_shared.sweep_space import active
from incl_shared.sweepfile import (
    experiment_folder,
    load_sweep,
    sweep_schema,
    sweep_schema_text,
    sweep_text,
    validate_sweep,
)

GOOD = """\
name: digits
experiment:
  command: python train.py
  env: {RATIO: 1.10}
parameters:
  LR: {type: loguniform, low: 1e-5, high: 0.1}
  OPT: [sgd, adam]
  MOMENTUM: {type: quantised, low: 0, high: 0.9, step: 0.1, when: {OPT: sgd}}
  LAYERS: {type: int, low: 1, high: 8}
objective: {metric: val_acc, goal: max}
budget: {trials: 50, hours: 12}
initial:
  - {LR: 0.001, OPT: adam, LAYERS: 2}
"""


def read(folder: Path, text: str, *changes: Override) -> SweepSpec:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return validate_sweep(load_sweep(path), changes)


def test_a_whole_file(tmp_path: Path) -> None:
    spec = read(tmp_path, GOOD)
    assert spec.parameters["OPT"].choices == ("sgd", "adam")
    assert spec.parameters["MOMENTUM"].when == {"OPT": ("sgd",)}
    assert (spec.objective[0].metric, spec.objective[0].value) == ("val_acc", "last")
    assert (spec.parallel, spec.algorithm.name, spec.most) == (4, "tpe", 50)
    assert spec.experiment.env == {"RATIO": "1.10"}, "as it was written"
    assert read(tmp_path, sweep_text(spec)) == spec


def test_the_experiment_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "train.yaml").write_text("command: python train.py\nresorces: {cpu: 2}\n")
    text = GOOD.replace(
        "experiment:\n  command: python train.py\n  env: {RATIO: 1.10}\n", "experiment: inner/train.yaml\n"
    )
    with pytest.raises(InvalidInput, match=r"train\.yaml:2: unknown key 'resorces'"):
        read(tmp_path, text)
    (tmp_path / "inner" / "train.yaml").write_text("command: python train.py\nenv: {RATIO: 1.10}\n")
    assert read(tmp_path, text) == read(tmp_path, GOOD)
    (tmp_path / "sweep.yaml").write_text(text)
    assert experiment_folder(tmp_path / "sweep.yaml") == tmp_path / "inner"
    with pytest.raises(NotFoundError):
        read(tmp_path, text.replace("inner/train.yaml", "nowhere.yaml"))


def test_options_change_a_file(tmp_path: Path) -> None:
    spec = read(tmp_path, GOOD, Override(("budget", "trials"), 3, "--trials"), Override(("algorithm",), "grid", "x"))
    assert (spec.budget.trials, spec.budget.hours, spec.algorithm.name) == (3, 12.0, "grid")


BAD = {
    "no parameters": ("parameters:\n", "x-parameters:\n", "'parameters' is missing"),
    "an empty space": (GOOD[GOOD.index("  LR") : GOOD.index("objective")], "  {}\n", "there are none"),
    "a log range with 0": ("low: 1e-5", "low: 0", "yaml:6: parameters: LR: a logarithmic range cannot begin at 0"),
    "an empty range": ("low: 1e-5", "low: 1", "LR: .1, 0.1. is empty"),
    "no range": ("{type: int, low: 1, high: 8}", "{type: int, low: 1}", "LAYERS: it needs low and high"),
    "half a layer": ("low: 1, high: 8", "low: 0.5, high: 8", "whole numbers"),
    "no step": ("high: 0.9, step: 0.1", "high: 0.9", "quantised needs a step"),
    "a step of a log range": ("high: 0.1}", "high: 0.1, step: 0.1}", "a step is of int"),
    "no choices": ("[sgd, adam]", "[]", "OPT: it has no choices"),
    "a choice twice": ("[sgd, adam]", "[sgd, sgd]", "a choice stands twice"),
    "a condition that is never met": ("when: {OPT: sgd}", "when: {OPT: rmsprop}", "when OPT is 'rmsprop', which"),
    "a condition on nothing": ("when: {OPT: sgd}", "when: {SIZE: 3}", "it depends on SIZE, which there is not"),
    "a circle": ("OPT: [sgd, adam]", "OPT: {type: categorical, choices: [sgd, adam], when: {MOMENTUM: 0.5}}", "circle"),
    "no variable": ("  LR:", "  learning-rate:", "'learning-rate' is not a name of an environment variable"),
    "the platform's own": ("  LR:", "  INCL_LR:", "INCL_LR is set by the platform"),
    "what programs depend on": ("  LR:", "  PATH:", "PATH is a variable that programs depend on"),
    "a secret too": ("env: {RATIO: 1.10}", "secrets: [LR]", "LR is a secret of the experiment too"),
    "no limit": ("{trials: 50, hours: 12}", "{}", "budget: there is no limit"),
    "too many": ("trials: 50", "trials: 20000", "less than or equal to 10000"),
    "the other way": ("env: {RATIO: 1.10}", "metrics: {val_acc: min}", "val_acc is better the other way"),
    "no goal": ("goal: max", "goal: highest", "expected one of 'max' or 'min'"),
    "an unknown algorithm": ("budget:", "algorithm: cma\nbudget:", "algorithm"),
    "an unknown key": ("budget:", "paralel: 3\nbudget:", "unknown key 'paralel'"),
    "an unknown key of a parameter": ("low: 1, high: 8", "low: 1, hight: 8", "unknown key 'hight'"),
    "a point too few": (", LAYERS: 2}", "}", "initial: point 1: LAYERS is missing"),
    "a point too many": ("OPT: adam, LAYERS", "OPT: adam, MOMENTUM: 0.1, LAYERS", "MOMENTUM does not exist there"),
    "a point outside": ("{LR: 0.001", "{LR: 3", "initial: point 1: LR cannot be 3"),
    "a command at the top": ("experiment:\n  command", "command: true\nx-experiment:\n  command", "below experiment"),
    "another project": ("name: digits", "name: digits\nproject: a\nx-x: 1", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", [name for name in BAD if BAD[name][2]])
def test_what_is_wrong_is_said_where_it_stands(tmp_path: Path, case: str) -> None:
    old, new, said = BAD[case]
    assert old in GOOD
    with pytest.raises(InvalidInput, match=said) as refused:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert refused.value.hint
    assert "sweep.yaml" in refused.value.message


def test_near_misses_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, GOOD.replace("low: 1, high: 8", "low: 1, hight: 8"))
    assert "did you mean 'high'?" in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (1, "1"), (1.0, "1.0"), (1e-05, "1e-05"), ("a b", "a b")])
def test_values_as_variables(value: bool | int | float | str, text: str) -> None:
    assert env_text(value) == text


def test_what_is_active(tmp_path: Path) -> None:
    parameters = read(tmp_path, GOOD).parameters
    assert active(parameters, {"OPT": "sgd"}) == {"LR", "OPT", "LAYERS", "MOMENTUM"}
    assert active(parameters, {"OPT": "adam"}) == {"LR", "OPT", "LAYERS"}


def test_the_schema_for_editors_is_current() -> None:
    stored = resources.files("incl_shared.contracts").joinpath("sweep.schema.json").read_text(encoding="utf-8")
    assert stored == sweep_schema_text(), "run: incl sweep schema > shared/src/incl_shared/contracts/sweep.schema.json"


SAYS = {
    "experiment": {"command": "x", "resources": {"memory": "2GB"}},
    "parameters": {"A": {"type": "uniform", "low": 0, "high": 1}},
    "objective": {"metric": "loss", "goal": "min"},
    "budget": {"trials": 3},
}


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"parameters": {"A": ["x", 1, True], "B": {"type": "int", "low": 1, "high": 2, "when": {"A": "x"}}}}, True),
        ({"parameters": {"A": [1, 2], "B": {"type": "int", "low": 1, "high": 2, "when": {"A": [1]}}}}, True),
        ({"objective": [{"metric": "a", "goal": "max", "value": "best"}, {"metric": "b", "goal": "min"}]}, True),
        ({"algorithm": "optuna.TPESampler", "early_stopping": "none", "x-own": 1}, True),
        ({"algorithm": {"name": "optuna.TPESampler", "options": {"multivariate": True}}}, True),
        ({"early_stopping": {"name": "asha", "min": 1, "eta": 4}, "initial": [{"A": 0.5}]}, True),
        ({"algorithm": "bayes"}, False),
        ({"early_stopping": "never"}, False),
        ({"objective": {"metric": "loss", "goal": "up"}}, False),
        ({"objective": []}, False),
        ({"budget": {"tries": 3}}, False),
        ({"paralel": 3}, False),
        ({"parallel": 0}, False),
        ({"parameters": {"A": {"type": "normal"}}}, False),
        ({"experiment": {"command": "x", "resorces": {}}}, False),
    ],
    ids=repr,
)
def test_the_schema_says_what_the_reader_says(tmp_path: Path, changes: dict[str, object], good: bool) -> None:
    document = {**SAYS, **changes}
    assert jsonschema.Draft202012Validator(sweep_schema()).is_valid(document) is good
    if good:
        assert read(tmp_path, json.dumps(document)).parameters
    else:
        with pytest.raises(InvalidInput):
            read(tmp_path, json.dumps(document))


def test_the_schema_knows_an_experiment_by_its_path_and_none() -> None:
    checker = jsonschema.Draft202012Validator(sweep_schema())
    assert checker.is_valid({**SAYS, "experiment": "train.yaml"})
    assert checker.is_valid({key: value for key, value in SAYS.items() if key != "experiment"})


def test_amounts_of_money() -> None:
    assert [money_text(one) for one in (0.0, 0.00412, 0.5, 12.3456)] == ["0.00", "0.00412", "0.5", "12.35"]
