"""Prices: the package's list is sound, wrong ones are refused by line, an operator's own win."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_provisioner.catalog import Catalog, load_catalog
from incl_provisioner.domain.cloud.instances import Need, resolve
from incl_provisioner.domain.cloud.machines import Shape
from incl_provisioner.domain.cloud.prices import Disk, Rate, money, override, read_prices, too_old
from incl_shared.errors import InclError, InvalidInput

SMALL = """\
provider: gce
date: 2026-01-02
currency: USD
machines:
  m-1:
    north: {on_demand: 2, spot: 0.5}
    south: {on_demand: 3}
disks:
  ssd: {north: 0.1}
"""


def shape(catalog: Catalog, text: str) -> Shape:
    return resolve(text, Need(), catalog.machines, lambda _: None)[0]


def test_every_price_of_the_package_is_sound_and_of_something_that_exists(catalog: Catalog) -> None:
    prices, table = catalog.prices, catalog.machines
    assert set(prices.machines) <= set(table.machines)
    assert set(prices.gpus) <= set(table.gpus)
    assert set(prices.families) <= {machine.family for machine in table.machines.values()}
    for section in (prices.machines, prices.gpus):
        for regions in section.values():
            assert set(regions) <= table.regions
            assert all(0 < rate.spot <= rate.on_demand for rate in regions.values())
    for name, machine in table.machines.items():
        for zone in machine.zones & {"us-central1-a", "europe-west4-a"}:
            hour = prices.hour(Shape(machine, machine.gpu, machine.gpus), zone.rpartition("-")[0])
            assert not hour.known or 0 < hour.total(spot=True) < hour.total(spot=False), name


def test_an_hour_is_the_sum_of_its_parts(catalog: Catalog) -> None:
    hour = catalog.prices.hour(shape(catalog, "n1-standard-8+t4:2"), "us-central1", [Disk("pd-balanced", 73)])
    assert [name for name, _ in hour.parts] == ["n1-standard-8", "2 x nvidia-tesla-t4", "pd-balanced 73 GiB"]
    assert hour.total(spot=False) == pytest.approx(8 * 0.031611 + 30 * 0.004237 + 2 * 0.35 + 0.01, abs=1e-5)
    assert hour.total(spot=True) == pytest.approx(8 * 0.00882 + 30 * 0.00113 + 2 * 0.175 + 0.01, abs=1e-5)
    assert hour.saving == pytest.approx(1 - hour.total(spot=True) / hour.total(spot=False))


def test_machines_that_bring_their_gpus_are_priced_whole_and_by_parts(catalog: Catalog) -> None:
    whole = catalog.prices.hour(shape(catalog, "a2-highgpu-1g"), "us-central1")
    assert whole.total(spot=False) == 3.673385
    parts = catalog.prices.hour(shape(catalog, "g2-standard-4"), "us-central1")
    assert parts.total(spot=False) == pytest.approx(4 * 0.02499 + 16 * 0.002927 + 0.56004, abs=1e-4)


def test_what_has_no_price_says_so_and_adds_up_to_nothing(catalog: Catalog) -> None:
    hour = catalog.prices.hour(shape(catalog, "b200:8"), "us-central1", [Disk("pd-balanced", 100), Disk("tape", 1)])
    assert hour.missing == ("a4-highgpu-8g", "tape 1 GiB")
    assert hour.total(spot=True) is None
    assert hour.saving is None
    assert catalog.prices.cheapest(shape(catalog, "b200:8"), spot=True) is None


def test_no_spot_price_no_saving() -> None:
    table = read_prices(SMALL, "own.yaml")
    assert table.machines["m-1"]["south"] == Rate(3.0, None)
    assert Rate(3.0, None).plus(Rate(1.0, 0.5)) == Rate(4.0, None)


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("spot: 0.5", "spot: 2.5", 6, "2.5 is more than on_demand, 2"),
        ("spot: 0.5", "spot: 0", 6, "is not above 0"),
        ("spot: 0.5", "spot: -1", 6, "is not above 0"),
        ("spot: 0.5", "spot: .inf", 6, "is not a number"),
        ("on_demand: 3", "on_demand: 1e9", 7, "at most 100000"),
        ("on_demand: 3", "on_demand: free", 7, "is not a number"),
        ("on_demand: 3", "spot: 3", 7, "'on_demand' is missing"),
        ("ssd: {north: 0.1}", "ssd: {north: true}", 9, "is not a number"),
        ("date: 2026-01-02", "date: 2026-13-02", 2, "is not a date"),
        ("currency: USD", "currency: dollars", 3, "is not a text"),
        ("machines:", "machine:", 4, "unknown key"),
        ("    south", "    north", 7, "is here twice"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(before: str, after: str, line: int, words: str) -> None:
    assert before in SMALL
    with pytest.raises(InvalidInput) as caught:
        read_prices(SMALL.replace(before, after, 1), "own.yaml")
    assert caught.value.message.startswith(f"own.yaml:{line}:")
    assert words in caught.value.message
    assert caught.value.hint


def test_an_operators_list_wins_where_it_speaks_and_nowhere_else(catalog: Catalog, tmp_path: Path) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text(
        "date: 2026-11-01\nmachines:\n  a2-highgpu-1g:\n    us-central1: {on_demand: 2.5, spot: 1}\n", encoding="utf-8"
    )
    merged = load_catalog(prices=own).prices
    a100 = shape(catalog, "a100")
    assert merged.hour(a100, "us-central1").total(spot=False) == 2.5
    assert merged.hour(a100, "us-east1") == catalog.prices.hour(a100, "us-east1")
    assert merged.date == "2026-11-01"
    assert merged.source == "gce_prices.yaml, prices.yaml"
    assert merged.families == catalog.prices.families


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("currency: EUR\ndate: 2026-11-01\n", "prices.yaml:1: currency: must be USD"),
        ("provider: other\ndate: 2026-11-01\n", "must be gce"),
        ("machines: {}\n", "'date' is missing"),
        ("", "the file is empty"),
        ("date: [", "prices.yaml:"),
    ],
)
def test_an_operators_list_that_does_not_fit_is_refused(catalog: Catalog, text: str, words: str) -> None:
    with pytest.raises(InclError) as caught:
        override(catalog.prices, text, "prices.yaml")
    assert words in caught.value.message


@given(st.floats(0.0001, 50), st.floats(0.0001, 1), st.integers(1, 16))
def test_sums_keep_their_order(on_demand: float, share: float, count: int) -> None:
    rate = Rate(on_demand, on_demand * share).times(count).plus(Rate(0.1, 0.1))
    assert rate.spot <= rate.on_demand or math.isclose(rate.spot, rate.on_demand)


def test_amounts_for_people_and_the_age_of_a_list() -> None:
    assert money(3.673385, "USD") == "$3.67"
    assert money(0.0123, "USD") == "$0.0123"
    assert money(2.5, "EUR") == "2.50 EUR"
    assert too_old("2025-03-06", "2026-11-28")
    assert not too_old("2026-01-01", "2026-11-28")
    with pytest.raises(InvalidInput):
        too_old("2026-02-31", "2026-11-28")
