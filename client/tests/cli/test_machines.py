"""`incl machines`: where they are, whether they are there, and why."""

from __future__ import annotations

import re

import pytest

from incl_cli.testing import FakePlatform, Run
from incl_shared.queries.provisioner import GangView, Machines


def test_machines_are_listed_with_where_they_are_and_why(cli: Run, fake: FakePlatform) -> None:
    assert "no machine of a cloud" in cli("machines").err
    gang = GangView(
        experiment="0" * 26, attempt=2, nodes=("a", "b"), machine="a2-highgpu-1g", zone="us-central1-a", spot=True,
        phase="made", tries=1, wanted=True, created=1.0, asked=2.0, made=3.0,
    )  # fmt: skip
    gone = gang.model_copy(update={"attempt": 1, "phase": "gone", "preempted": 4.0, "deleted": 5.0})
    waits = gang.model_copy(update={"zone": "", "zones": ("z-a", "z-b"), "phase": "asked", "trouble": "too many calls"})
    fake.machines = Machines(gangs=(gang, gone, waits))
    text = cli("machines").out
    for said in (
        "2 x a2-highgpu-1g spot",
        "us-central1-a",
        "there",
        "deleted",
        "taken back by the provider",
        "being created",
        "z-a, z-b",
        "too many calls",
    ):
        assert said in text
    assert len(cli("machines", "--json").json["gangs"]) == 3


@pytest.mark.parametrize(
    ("gone", "going", "says"),
    [((), (), "there"), ((0, 1), (), "gone"), ((), (0, 1), "being deleted"), ((1,), (0,), "1 being deleted, 1 gone")],
)
def test_machines_that_are_gone_or_going_are_not_said_to_be_there(
    cli: Run, fake: FakePlatform, gone: tuple[int, ...], going: tuple[int, ...], says: str
) -> None:
    gang = GangView(
        experiment="0" * 26, attempt=1, nodes=("a", "b"), machine="e2-standard-2", zone="us-central1-a", phase="made",
        tries=1, wanted=True, created=1.0, asked=2.0, made=3.0, gone=gone, going=going,
    )  # fmt: skip
    fake.machines = Machines(gangs=(gang,))
    said = cli("machines")
    assert f" {says} " in said.out
    assert ("there" in said.out) == (says == "there")
    assert said.err == ""


def test_what_keeps_the_cloud_from_being_used_is_said_below_its_machines(cli: Run, fake: FakePlatform) -> None:
    fake.machines = Machines(gangs=(), trouble="Compute Engine has not answered for 8 s", hint="it is asked again")
    said = cli("machines").err
    assert "the cloud cannot be used now: Compute Engine has not answered for 8 s" in said
    assert "hint: it is asked again" in said


def test_machines_that_nobody_wants_and_those_not_chosen_yet(
    cli: Run, fake: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    asked = GangView(
        experiment="0" * 26, attempt=1, nodes=("a", "b"), machine="e2-standard-2", wanted=False, phase="asked",
        zones=("asia-southeast1-a", "asia-southeast1-b", "asia-southeast1-c"), tries=1, created=1.0, asked=2.0,
        trouble="the provider does not accept the platform's credentials",
    )  # fmt: skip
    fake.machines = Machines(gangs=(asked,))
    text = re.sub(r"\x1b\[[0-9;]*m", "", cli("machines", terminal=True).out)
    assert max(map(len, text.splitlines())) <= 80
    text = cli("machines").out
    assert "being created" not in text
    assert "being deleted" in text
    planned = asked.model_copy(update={"machine": "", "zones": (), "phase": "planned", "wanted": True, "trouble": ""})
    fake.machines = Machines(gangs=(planned, asked))
    text = cli("machines").out
    assert "2 x any" in text
