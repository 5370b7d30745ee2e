"""Ranking: every part named, ties settled, bad zones fall behind and come back, no zone starves."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_provisioner.catalog import Catalog, load_catalog
from incl_provisioner.domain.cloud.classify import classify
from incl_provisioner.domain.cloud.cooldowns import CooldownBook, Target
from incl_provisioner.domain.cloud.errors import CloudError
from incl_provisioner.domain.cloud.history import Belief, PreemptionHistory
from incl_provisioner.domain.cloud.instances import Need, resolve
from incl_provisioner.domain.cloud.machines import Shape, read_machines
from incl_provisioner.domain.cloud.prices import read_prices
from incl_provisioner.domain.cloud.zones import Advice, Pins, State, allowed, by_region, rank, waiting
from incl_shared.errors import InvalidInput

H = 3600.0
STOCKOUT = classify([CloudError("ZONE_RESOURCE_POOL_EXHAUSTED")])
CREDENTIALS = classify([CloudError("", "", 401)])
MACHINES = read_machines(
    """\
provider: other
date: 2026-01-02
zones: {north: [a, b, c], south: [a]}
machines:
  m: {family: m, cores: 4, memory_gib: 16, boot_disks: [ssd], zones: all}
  n: {family: m, cores: 8, memory_gib: 32, boot_disks: [ssd], zones: {south: [a]}}
""",
    "machines.yaml",
)
PRICES = read_prices(
    """\
provider: other
date: 2026-01-02
currency: USD
machines:
  m: {north: {on_demand: 4, spot: 1}, south: {on_demand: 5, spot: 1.5}}
""",
    "prices.yaml",
)
M = Shape(MACHINES.machines["m"])
ALL = MACHINES.zones


def order(state: State, *, spot: bool = True, **more: object) -> list[str]:
    return [each.zone for each in rank([M], ALL, state, PRICES, spot=spot, **more)]


def test_price_first_and_ties_by_name() -> None:
    assert order(State(0.0)) == ["north-a", "north-b", "north-c", "south-a"]


def test_a_key_settles_ties_the_same_for_one_and_differently_for_many() -> None:
    assert order(State(0.0, key="x")) == order(State(0.0, key="x"))
    firsts = Counter(order(State(0.0, key=str(number)))[0] for number in range(300))
    assert set(firsts) == {"north-a", "north-b", "north-c"}
    assert min(firsts.values()) > 60


def test_a_zone_that_takes_machines_falls_behind_and_is_forgiven() -> None:
    history = PreemptionHistory()
    for hour in range(4):
        history.lived("north-a", "m", 1.0, hour * H, preempted=True)
    after = order(State(4 * H, history=history))
    assert after[:3] == ["north-b", "north-c", "north-a"]
    much_later = rank([M], ALL, State(60 * 24 * H, history=history), PRICES, spot=True)
    assert much_later[0].zone == "north-a"
    history.prune(60 * 24 * H)
    assert list(history) == []


def test_enough_preemptions_outweigh_a_dearer_region() -> None:
    history = PreemptionHistory()
    for zone in ("north-a", "north-b", "north-c"):
        for hour in range(48):
            history.lived(zone, "m", 0.5, hour * H / 2, preempted=True)
    assert order(State(24 * H, history=history))[0] == "north-a"
    weights_of_gangs = rank([M], ALL, State(24 * H, history=history), PRICES, spot=True, nodes=4)
    assert weights_of_gangs[0].zone == "south-a"


def test_advice_of_the_provider_moves_zones() -> None:
    north_a, north_b = Target("north-a", "m", True), Target("north-b", "m", True)
    advice = {north_b: Advice(obtainability=0.95), north_a: Advice(obtainability=0.1)}
    assert order(State(0.0, advice=advice)) == ["north-b", "north-c", "north-a", "south-a"]
    bad = {north_a: Advice(rate=2.0)}
    assert order(State(0.0, advice=bad))[0] == "north-b"
    assert order(State(0.0, advice=bad), spot=False)[0] == "north-a"


def test_a_stockout_cools_comes_last_and_returns() -> None:
    book = CooldownBook()
    book.failed(Target("north-a", "m", True), STOCKOUT, 0.0)
    state = State(10.0, cooldowns=book)
    ranked = rank([M], ALL, state, PRICES, spot=True)
    assert [each.zone for each in ranked][-1] == "north-a"
    assert ranked[-1].cooling.message == "the zone has no such machine free now"
    assert order(State(301.0, cooldowns=book))[0] == "north-a"
    assert order(state, spot=False)[0] == "north-a"


def test_when_all_is_cooled_the_reason_says_which_comes_first_and_when() -> None:
    book = CooldownBook()
    assert waiting(rank([M], ALL, State(0.0, cooldowns=book), PRICES, spot=True)) == ""
    for at, zone in enumerate(sorted(ALL)):
        book.failed(Target(zone, "m", True), STOCKOUT, at * 60.0)
    ranked = rank([M], ALL, State(200.0, cooldowns=book), PRICES, spot=True)
    assert [each.zone for each in ranked] == sorted(ALL)
    said = "4 of 4 zones wait, the next until 00:05 UTC: north-a: the zone has no such machine free now"
    assert waiting(ranked) == said
    book.failed(Target("north-a", "m", True), CREDENTIALS, 200.0)
    elsewhere = rank([M], ["south-a"], State(205.0, cooldowns=book), PRICES, spot=False)
    assert "credentials" in elsewhere[0].cooling.message
    assert by_region(ranked) == ()


def test_data_draws_and_a_gang_has_the_zones_of_one_region() -> None:
    history = PreemptionHistory()
    history.lived("north-a", "m", 1.0, 0.0, preempted=True)
    state = State(0.0, history=history)
    near = rank([M], ALL, state, PRICES, spot=False, data={"south"})
    assert near[0].zone == "north-a"
    assert "data in south" in near[0].why()
    choices = by_region(rank([M], ALL, state, PRICES, spot=True))
    assert [(choice.region, choice.zones) for choice in choices] == [
        ("north", ("north-b", "north-c", "north-a")), ("south", ("south-a",)),
    ]  # fmt: skip


def test_a_score_is_the_sum_of_its_named_parts_and_says_why() -> None:
    history = PreemptionHistory()
    history.lived("north-a", "m", 10.0, 0.0, preempted=True)
    best = rank([M], ["north-a"], State(0.0, history=history), PRICES, spot=True, nodes=2)[0]
    assert [part.name for part in best.parts] == ["price", "preemptions", "capacity"]
    assert best.score == pytest.approx(sum(part.amount for part in best.parts))
    assert best.parts[0].amount == 2.0
    rate = (1 + 0.05 * 12) / (10 + 12)
    assert best.parts[1].amount == pytest.approx(2.0 * rate * 2 * 0.25)
    assert best.why() == "+$0.0727 for preemptions (1.0 seen in 10 h); +$0.30 for the wait (no advice)"


def test_what_has_no_price_is_reckoned_as_the_dearest() -> None:
    n = Shape(MACHINES.machines["n"])
    ranked = rank([M, n], ALL, State(0.0), PRICES, spot=False)
    assert [(each.zone, each.shape.name) for each in ranked][-2:] == [("south-a", "m"), ("south-a", "n")]
    assert ranked[-1].why().startswith("price unknown")


@pytest.mark.parametrize(
    ("pins", "message", "hint"),
    [
        (Pins(zones=("north-d",)), "no zone 'north-d'", "north-"),
        (Pins(regions=("soth",)), "no region 'soth'", "south"),
        (Pins(regions=("xxxxxxx",)), "no region", "known: north, south"),
        (Pins(zones=("north-a",), regions=("south",)), "no zone is in both lists", "leave one"),
    ],
)
def test_pins_that_lead_nowhere_are_told(pins: Pins, message: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        allowed(MACHINES, pins)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_pins_narrow_and_a_machine_that_is_not_there_is_told() -> None:
    assert allowed(MACHINES, Pins()) == ALL
    assert allowed(MACHINES, Pins(regions=("south",))) == {"south-a"}
    assert allowed(MACHINES, Pins(zones=("north-a", "south-a"), regions=("south",))) == {"south-a"}
    with pytest.raises(InvalidInput, match="n is in no zone that is allowed") as caught:
        rank([Shape(MACHINES.machines["n"])], {"north-a"}, State(0.0), PRICES, spot=True)
    assert caught.value.hint == "it is in south-a"


def test_gpus_are_ranked_only_where_they_are(catalog: Catalog) -> None:
    shapes = resolve("p100", Need(), catalog.machines, lambda _: None)[:1]
    ranked = rank(shapes, allowed(catalog.machines, Pins()), State(0.0), catalog.prices, spot=True)
    assert {each.zone for each in ranked} == shapes[0].zones
    assert all(each.hour.known for each in ranked[:3])


events = st.lists(
    st.tuples(st.sampled_from(sorted(ALL)), st.floats(0, 5), st.booleans(), st.floats(0, 20 * H)), max_size=80
)


@given(events)
def test_whatever_was_met_rates_are_sane_and_fade_to_what_is_believed(
    met: list[tuple[str, float, bool, float]],
) -> None:
    history, now = PreemptionHistory(), 0.0
    for zone, hours, preempted, passed in met:
        now += passed
        history.lived(zone, "m", hours, now, preempted=preempted)
    for zone in ALL:
        here = history.estimate(zone, "m", now)
        assert here.rate >= 0
        later = history.estimate(zone, "m", now + 40 * 24 * H)
        assert later.rate == pytest.approx(Belief().rate, rel=1e-3)
        kept = PreemptionHistory(known=list(history))
        assert kept.estimate(zone, "m", now) == here


@given(events, st.lists(st.sampled_from(sorted(ALL)), max_size=4))
@settings(max_examples=60)
def test_whatever_happened_every_zone_comes_first_again_some_day(
    met: list[tuple[str, float, bool, float]], others: list[str]
) -> None:
    """Nothing starves for ever: once a zone's past has faded and the cheaper ones are cooled, it is the first."""
    history, book, now = PreemptionHistory(), CooldownBook(), 0.0
    for zone, hours, preempted, passed in met:
        now += passed
        history.lived(zone, "m", hours, now, preempted=preempted)
        book.failed(Target(zone, "m", True), STOCKOUT, now)
    later = now + 40 * 24 * H
    for wanted in ALL:
        fresh = CooldownBook(known=list(book))
        for zone in ALL - {wanted}:
            fresh.failed(Target(zone, "m", True), STOCKOUT, later)
        state = State(later + 1.0, cooldowns=fresh, history=history)
        assert order(state)[0] == wanted


def _live(seed: int, taken: dict[str, float], days: int = 6) -> tuple[Counter[str], int]:
    """A life of short machines where zones take them at given rates: hours by zone, preemptions in all."""
    dice, history, hours, lost, now = random.Random(seed), PreemptionHistory(), Counter(), 0, 0.0
    while now < days * 24 * H:
        zone = order(State(now, history=history, key=str(seed)))[0]
        span = min(dice.expovariate(taken[zone]) if taken[zone] else 1e9, 4.0)
        preempted = span < 4.0
        now += span * H
        history.lived(zone, "m", span, now, preempted=preempted)
        hours[zone] += span
        lost += preempted
    return hours, lost


def test_in_a_recorded_like_life_the_calm_zone_gets_most_of_the_hours_and_the_wild_ones_few() -> None:
    taken = {"north-a": 0.8, "north-b": 0.02, "north-c": 0.6, "south-a": 0.02}
    shares, losses = [], []
    for seed in range(6):
        hours, lost = _live(seed, taken)
        shares.append(hours["north-b"] / sum(hours.values()))
        losses.append(lost)
    blind = 6 * 24 * 0.8
    assert min(shares) > 0.6
    assert max(losses) < blind / 2


def test_when_the_calm_zone_turns_wild_another_takes_over() -> None:
    history = PreemptionHistory()
    now = 0.0
    for _ in range(40):
        now += 4 * H
        history.lived("north-a", "m", 4.0, now)
    assert order(State(now, history=history))[0] == "north-a"
    tries = 0
    while order(State(now, history=history))[0] == "north-a":
        now += 0.5 * H
        history.lived("north-a", "m", 0.5, now, preempted=True)
        tries += 1
    assert 1 <= tries <= 6


def test_the_package_tables_rank_every_machine_somewhere() -> None:
    catalog = load_catalog()
    for machine in catalog.machines.machines.values():
        shape = Shape(machine, machine.gpu, machine.gpus)
        assert rank([shape], catalog.machines.zones, State(0.0), catalog.prices, spot=False)
