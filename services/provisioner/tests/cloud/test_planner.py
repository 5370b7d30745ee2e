"""The planner of a configured cloud, and the question of a dry run over a real bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from incl_provisioner.planner import cloud_settings, create_planner
from incl_provisioner.settings import CloudOptions, ProvisionerSettings
from incl_provisioner.testing.platform import Start
from incl_shared.clock import SystemClock
from incl_shared.errors import InclError, InvalidInput
from incl_shared.queries.provisioner import PlanExperiment
from incl_shared.testing.clock import FakeClock

CLOUD = CloudOptions(project="lab", regions=("us-central1", "europe-west4"), service_account="runner@lab")
ASK = {"command": ["true"], "instance": "a100", "spot": True, "nodes": 2}


async def test_a_dry_run_is_told_the_plan(start: Start, sqlite_url: str, tmp_path: Path) -> None:
    prices = tmp_path / "mine.yaml"
    prices.write_text("date: 2026-11-01\nmachines: {a2-highgpu-1g: {us-central1: {on_demand: 3, spot: 1}}}\n")
    platform = await start(sqlite_url, cloud=CLOUD, prices=prices)
    plan = await platform.client.ask(PlanExperiment(spec=ASK), project="default", user="ann")
    assert (plan.cloud, plan.machine, plan.gpu, plan.nodes, plan.spot) == (
        "gce", "a2-highgpu-1g", "nvidia-tesla-a100", 2, True,
    )  # fmt: skip
    assert plan.zones[0].zone == "us-central1-a"
    assert plan.zones[0].price == plan.price_spot == pytest.approx(2 * (1 + 5 / 730))
    assert plan.zones_in_all == 6
    assert plan.price_date == "2026-11-01"
    assert plan.summary.startswith("2 x a2-highgpu-1g spot in us-central1-a: $2.01 an hour, 67% less")
    assert plan.service_account == "runner@lab"
    with pytest.raises(InvalidInput, match="there is no instance 'a10'") as caught:
        await platform.client.ask(PlanExperiment(spec={**ASK, "instance": "a10"}), project="default", user="ann")
    assert caught.value.hint == "did you mean a100?"
    with pytest.raises(InvalidInput, match="project 'other'"):
        await platform.client.ask(PlanExperiment(spec={**ASK, "project": "other"}), project="default", user="ann")
    none = await platform.client.ask(PlanExperiment(spec={"command": ["true"]}), project="default", user="ann")
    assert none.cloud == ""


async def test_without_a_cloud_there_is_no_plan(start: Start, sqlite_url: str) -> None:
    platform = await start(sqlite_url)
    plan = await platform.client.ask(PlanExperiment(spec=ASK), project="default", user="ann")
    assert plan.cloud == ""


def test_what_an_operator_sets_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "prices.yaml"
    wrong.write_text("date: 2026-11-01\ngpus:\n  nvidia-l4:\n    us-central1: {on_demand: 1, spot: 2}\n")
    for name, value in {
        "DATABASE_URL": "sqlite:///x", "CLOUD__PROJECT": "lab", "CLOUD__REGIONS": '["us-east1"]', "CLOUD__SPOT": "true",
        "PRICES": str(wrong),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"INCL_PROVISIONER_{name}", value)
    settings = ProvisionerSettings()
    assert settings.cloud is not None
    assert cloud_settings(settings.cloud).regions == ("us-east1",)
    with pytest.raises(InclError, match=r"prices.yaml:4: gpus.nvidia-l4.us-central1.spot: 2 is more than on_demand, 1"):
        create_planner(settings, SystemClock())


def test_the_planner_is_the_clock_and_the_tables_brought_together() -> None:
    from incl_shared.spec import ExperimentSpec

    settings = ProvisionerSettings(database_url="sqlite:///x", cloud=CLOUD)
    planner = create_planner(settings, FakeClock(4_000_000_000.0))
    assert planner is not None
    plan = planner.plan(ExperimentSpec.model_validate(ASK))
    assert "the list of prices is of" in plan.notes[0]
    assert create_planner(ProvisionerSettings(database_url="sqlite:///x"), SystemClock()) is None
