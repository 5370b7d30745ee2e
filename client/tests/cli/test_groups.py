"""incl ls --group-by: counts, states and metrics of experiments that have the same values."""

from __future__ import annotations

import re

import pytest

from incl_cli.look import STATE_STYLES
from incl_cli.testing import FakePlatform, Run
from incl_shared.errors import InvalidInput
from incl_shared.queries.tracker import GroupExperiments
from incl_shared.states import ExperimentState

FINISHED, FAILED, LOST = ExperimentState.FINISHED, ExperimentState.FAILED, ExperimentState.LOST


@pytest.fixture(autouse=True)
def runs(fake: FakePlatform) -> None:
    """Six experiments of two users."""
    for number, (user, state) in enumerate(
        [("ada", FINISHED), ("ada", FINISHED), ("ada", FAILED), ("bob", LOST), ("bob", LOST), ("ada", FINISHED)]
    ):
        metrics = {"acc": 0.5 + number / 10} if state is FINISHED else {}
        view = fake.add(user=user, state=state, created=1000.0 + number, config={"lr": "0.1" if number else ""})
        fake.views[view.row.id] = view.model_copy(update={"row": view.row.model_copy(update={"metrics": metrics})})


def test_a_table_of_groups(cli: Run) -> None:
    heading, ada, bob = cli("ls", "--group-by", "user", "--metric", "acc").out.splitlines()
    assert re.split(r"  +", heading) == ["user", "runs", "states", "acc mean", "acc min", "acc max", "newest"]
    assert re.split(r"  +", ada)[:6] == ["ada", "4", "3 finished, 1 failed", "0.7 ± 0.26 (of 3)", "0.5", "1"]
    assert bob.split()[:3] == ["bob", "2", "lost"]


def test_values_that_are_missing_or_empty_are_told_apart(cli: Run, fake: FakePlatform) -> None:
    fake.add(user="ada", state=FINISHED)
    lines = cli("ls", "--group-by", "param.lr, user").out.splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == ["''", "0.1", "0.1", "none"]


def test_groups_as_json_with_all_pages(cli: Run, fake: FakePlatform) -> None:
    fake.page = 1
    result = cli("ls", "created > 1969-01-01", "--group-by", "user,state", "--metric", "acc", "--json")
    assert [(one["values"], one["experiments"]) for one in result.json] == [
        (["ada", "finished"], 3), (["bob", "lost"], 2), (["ada", "failed"], 1),
    ]  # fmt: skip
    assert result.json[0]["by"] == ["user", "state"]
    assert result.json[0]["metrics"]["acc"]["count"] == 3
    assert len([query for query in fake.asked if isinstance(query, GroupExperiments)]) == 3


def test_the_filter_and_the_trash_are_asked_for(cli: Run, fake: FakePlatform) -> None:
    assert len(cli("ls", "user = bob", "--group-by", "state").out.splitlines()) == 2
    assert "no experiments in the trash" in cli("ls", "--group-by", "user", "--trash").err
    assert "no experiments match" in cli("ls", "user = nobody", "--group-by", "user").err
    assert cli("ls", "--group-by", "user", "--trash", "--json").json == []


def test_more_groups_than_wanted_are_told(cli: Run) -> None:
    result = cli("ls", "--group-by", "user", "--limit", "1")
    assert len(result.out.splitlines()) == 2
    assert "--limit 4" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "acc"], "--metric needs --group-by"),
        (["--group-by", ""], "1 to 3 fields"),
        (["--group-by", "a,b,c,d"], "1 to 3 fields, not 4"),
        (["--group-by", "user", "--sort", "name"], "--sort is for experiments"),
        (["--group-by", "user", "-q"], "-q lists ids"),
        (["--group-by", "a b"], "expected one field"),
        (["nodes >> 1", "--group-by", "user"], "expected a value"),
        (["--group-by", "user", "--limit", "0"], "at least 1"),
        (["--group-by", "user", *["--metric", "acc"] * 11], "at most 10"),
    ],
)
def test_what_does_not_go_is_told_before_anyone_is_asked(
    cli: Run, fake: FakePlatform, words: list[str], message: str
) -> None:
    result = cli("ls", *words)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert fake.asked == []


def test_a_name_in_quotes_may_have_a_comma(cli: Run, fake: FakePlatform) -> None:
    cli("ls", "--group-by", "user,metric.'a,b'")
    (query,) = (query for query in fake.asked if isinstance(query, GroupExperiments))
    assert query.by == ("user", "metric.'a,b'")


def test_what_the_tracker_refuses_is_told(cli: Run, fake: FakePlatform) -> None:
    fake.refusals[GroupExperiments] = InvalidInput("no metric 'lr'", hint="did you mean param.lr?")
    result = cli("ls", "--group-by", "lr")
    assert result.code == 2
    assert "param.lr" in result.err


def test_every_state_has_a_colour(cli: Run) -> None:
    assert set(STATE_STYLES) == {state.value for state in ExperimentState}
    assert "\x1b[31mlost" in cli("ls", "--group-by", "user", terminal=True).out
