"""Plans: from an experiment's file to zones, disks, image, price and the machine's own end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_provisioner.catalog import Catalog, load_catalog
from incl_provisioner.domain.cloud.classify import classify
from incl_provisioner.domain.cloud.cooldowns import CooldownBook, Target
from incl_provisioner.domain.cloud.errors import CloudError
from incl_provisioner.domain.cloud.plan import CloudSettings, Plan, Wish, first_calls, lasts, make_plan, summary
from incl_provisioner.domain.cloud.policy import AfterPreemptions
from incl_provisioner.domain.cloud.prices import Disk
from incl_provisioner.domain.cloud.zones import State
from incl_shared.errors import InclError, InvalidInput
from incl_shared.spec import ExperimentSpec

SETTINGS = CloudSettings("lab", regions=("us-central1", "europe-west4"), service_account="runner@lab")
CATALOG = load_catalog()


def plan(values: dict[str, object], wish: Wish | None = None, state: State | None = None, **more: object) -> Plan:
    spec = ExperimentSpec.model_validate({"command": ["true"], **values})
    settings = more.pop("settings", SETTINGS)
    return make_plan(
        spec,
        wish or Wish(),
        CATALOG.machines,
        CATALOG.prices,
        settings,
        AfterPreemptions(),
        state or State(0.0),
        **more,
    )


def test_a_gang_of_spot_gpus() -> None:
    made = plan({"instance": "a100", "spot": True, "nodes": 2, "max_duration": "2h"})
    assert made.shape.name == "a2-highgpu-1g"
    assert made.first.zone == "us-central1-a"
    assert {each.region for each in made.zones} == {"us-central1", "europe-west4"}
    assert made.image == SETTINGS.gpu_image
    assert made.disks == (Disk("pd-balanced", 50),)
    assert made.max_run_duration_s == 2 * (7200 + 30) + 1800, "it may serve the next attempt too"
    assert made.price() == pytest.approx(2 * (1.293355 + 50 * 0.1 / 730))
    assert made.price(spot=False) == pytest.approx(2 * (3.673385 + 50 * 0.1 / 730))
    assert summary(made) == "2 x a2-highgpu-1g spot in us-central1-a: $2.60 an hour, 65% less than on demand"
    assert first_calls(made)[0] == ("us-central1", ("us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f"))
    assert made.service_account == "runner@lab"
    assert not made.external_ip


def test_a_machine_serves_another_attempt_if_it_lives_long_enough_for_a_whole_one() -> None:
    gang = ExperimentSpec.model_validate({"command": ["true"], "nodes": 2, "max_duration": "2h"})
    endless = ExperimentSpec.model_validate({"command": ["true"], "nodes": 2})
    assert (
        plan({"nodes": 2, "instance": "t4", "max_duration": "2h", "retry": {"attempts": 1}}).max_run_duration_s == 9030
    )
    assert lasts(gang, SETTINGS, 7230 + 1800)
    assert not lasts(gang, SETTINGS, 7230 + 1801)
    assert lasts(endless, SETTINGS, 3.5 * 86_400)
    assert not lasts(endless, SETTINGS, 3.5 * 86_400 + 1)


def test_cores_alone_and_what_spot_would_save() -> None:
    made = plan({"resources": {"cpu": 4, "memory": "16GiB"}})
    assert made.shape.name == "e2-standard-4"
    assert not made.decision.spot
    assert made.image == SETTINGS.image
    assert made.max_run_duration_s == 7 * 86_400
    assert "; spot would save" in summary(made)


def test_disks_as_the_machine_needs_them() -> None:
    assert plan({"instance": "b200:8"}).disks == (Disk("hyperdisk-balanced", 50),)
    both = plan({"instance": "auto", "resources": {"cpu": 8, "memory": "64GB"}})
    assert {each.shape.machine.family for each in both.zones} >= {"e2", "n4"}
    for each in both.zones:
        assert any(each.shape.machine.boot_disks[0] in name for name, _ in each.hour.parts)
    assert plan({"instance": "a100-80gb:2"}).scratch == (Disk("local-ssd", 375),) * 2


def test_what_has_no_price_is_planned_all_the_same_and_says_so() -> None:
    made = plan({"instance": "h200:8", "nodes": 4})
    assert made.price() is None
    assert summary(made).endswith(": price unknown")
    assert "no price is known for a3-ultragpu-8g" in made.notes[0]


def test_old_prices_are_told() -> None:
    assert "the list of prices is of" in plan({"instance": "t4"}, today="2099-01-01").notes[0]
    assert plan({"instance": "t4"}, today=CATALOG.prices.date).notes == ()


def test_after_repeated_preemption_on_demand() -> None:
    spec = {"instance": "t4", "spot": True}
    assert plan(spec, Wish(preemptions=(1.0, 2.0))).decision.spot
    made = plan(spec, Wish(preemptions=(0.0, 0.0, 0.0)))
    assert not made.decision.spot
    assert made.decision.why == "taken 3 times within 6 h"
    assert not made.first.spot


def test_what_is_cooled_comes_last_and_is_not_called() -> None:
    book = CooldownBook()
    stockout = classify([CloudError("ZONE_RESOURCE_POOL_EXHAUSTED")])
    book.failed(Target("us-central1-a", "a2-highgpu-1g", True), stockout, 0.0)
    made = plan({"instance": "a100", "spot": True}, state=State(1.0, cooldowns=book))
    assert made.first.zone == "us-central1-b"
    assert made.zones[-1].zone == "us-central1-a"
    assert all("us-central1-a" not in zones for _, zones in first_calls(made))
    for each in made.zones:
        book.failed(each.target, stockout, 2.0)
    held = plan({"instance": "a100", "spot": True}, state=State(3.0, cooldowns=book))
    assert held.notes[0].startswith("6 of 6 zones wait, the next until 00:05 UTC: us-central1-a")
    assert first_calls(held) == ()


def test_data_and_pins() -> None:
    near = plan({"instance": "t4"}, Wish(data_regions=("europe-west4",)))
    assert near.first.region == "europe-west4"
    pinned = plan({"instance": "t4", "zones": ["us-central1-f"]})
    assert {each.zone for each in pinned.zones} == {"us-central1-f"}
    with pytest.raises(InvalidInput, match="not among those that this platform may use") as caught:
        plan({"instance": "t4", "regions": ["us-west1"]})
    assert caught.value.hint == "it may use europe-west4, us-central1"
    with pytest.raises(InvalidInput, match="no zone that is allowed"):
        plan({"instance": "p100", "zones": ["europe-west4-c"]})


def test_a_machine_that_is_nowhere_here_is_told_where_it_is() -> None:
    with pytest.raises(InvalidInput) as caught:
        plan({"instance": "v100"}, settings=CloudSettings("lab", regions=("us-east4",)))
    assert "asia-east1-c" in caught.value.hint


def test_an_attempt_longer_than_a_machine_lives_is_refused() -> None:
    most = SETTINGS.longest_s - SETTINGS.margin_s - 30
    assert plan({"instance": "t4", "max_duration": most}).max_run_duration_s == SETTINGS.longest_s
    with pytest.raises(InvalidInput, match="max_duration is 1000h") as caught:
        plan({"instance": "t4", "max_duration": "1000h"})
    assert caught.value.hint.startswith("167h at most")


specs = st.fixed_dictionaries(
    {
        "instance": st.none()
        | st.sampled_from(["t4", "a100:8", "h100x8", "n2-standard-8", "l4:4", "nonsense", "v100:2"]),
        "spot": st.none() | st.booleans(),
        "nodes": st.integers(1, 64),
        "resources": st.fixed_dictionaries({"cpu": st.floats(0.5, 100), "gpu": st.integers(0, 9)}),
        "max_duration": st.none() | st.floats(1, 8 * 86_400),
    }
)


@given(specs, st.lists(st.floats(0, 1e5), max_size=5), st.floats(1e5, 1e6))
def test_a_plan_always_holds_together(values: dict[str, object], taken: list[float], now: float) -> None:
    try:
        made = plan(values, Wish(preemptions=tuple(taken)), State(now))
    except InclError as error:
        assert error.hint
        return
    assert made.zones
    assert all(each.zone in each.shape.zones for each in made.zones)
    assert all(each.region in SETTINGS.regions for each in made.zones)
    assert 300 <= made.max_run_duration_s <= SETTINGS.longest_s
    assert made.shape.machine.cores >= values["resources"]["cpu"]
    assert made.disks[0].kind in made.shape.machine.boot_disks
    assert [each.score for each in made.zones] == sorted(each.score for each in made.zones)
    assert made.price() is None or made.price() > 0
    assert summary(made)


def test_the_same_question_gets_the_same_plan(catalog: Catalog) -> None:
    def shown() -> list[tuple[str, str, float]]:
        return [(each.zone, each.shape.name, each.score) for each in plan({"instance": "t4", "spot": True}).zones]

    assert shown() == shown()
