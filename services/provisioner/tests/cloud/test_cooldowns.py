"""Cooldowns: what they reach, how they grow, and that time forgives."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from incl_provisioner.domain.cloud.classify import classify
from incl_provisioner.domain.cloud.cooldowns import CooldownBook, Growth, Target
from incl_provisioner.domain.cloud.errors import CloudError, Verdict

STOCKOUT = classify([CloudError("ZONE_RESOURCE_POOL_EXHAUSTED")])
REGION_QUOTA = classify([CloudError("quotaExceeded", "Quota 'CPUS' exceeded. Limit: 8.0 in region us-central1.")])
GLOBAL_QUOTA = classify([CloudError("quotaExceeded", "Quota 'GPUS_ALL_REGIONS' exceeded. Limit: 1.0 globally.")])
CREDENTIALS = classify([CloudError("", "", 401)])
RATE = classify([CloudError("rateLimitExceeded")])

A = Target("us-central1-a", "a2-highgpu-1g", True)
B = Target("us-central1-b", "a2-highgpu-1g", True)
FAR = Target("europe-west4-a", "a2-highgpu-1g", True)


def test_a_stockout_holds_for_this_machine_in_this_zone_and_returns() -> None:
    book = CooldownBook()
    book.failed(A, STOCKOUT, 0.0)
    assert book.cooled(A, 299.0) is not None
    assert book.cooled(A, 299.0).message == STOCKOUT.message
    for other in (B, FAR, Target(A.zone, "n1-standard-4", True), Target(A.zone, A.machine, False)):
        assert book.cooled(other, 1.0) is None
    assert book.cooled(A, 300.0) is None


def test_quotas_reach_the_region_or_everywhere_and_credentials_everything() -> None:
    book = CooldownBook()
    book.failed(A, REGION_QUOTA, 0.0)
    assert book.cooled(B, 1.0) is not None
    assert book.cooled(FAR, 1.0) is None
    book.failed(A, GLOBAL_QUOTA, 0.0)
    assert book.cooled(FAR, 1.0) is not None
    assert book.cooled(Target("europe-west4-a", "e2-standard-2", False), 1.0) is None
    book.failed(A, CREDENTIALS, 0.0)
    assert book.cooled(Target("europe-west4-a", "e2-standard-2", False), 1.0) is not None


def test_what_has_no_place_cools_nothing() -> None:
    book = CooldownBook()
    assert book.failed(A, RATE, 0.0) is None
    assert book.cooled(A, 0.0) is None


def test_repetition_doubles_up_to_a_limit_and_calls_in_flight_do_not_count_twice() -> None:
    book = CooldownBook(Growth(longest_s=3000.0))
    now, spans = 0.0, []
    for _ in range(8):
        cooling = book.failed(A, STOCKOUT, now)
        assert book.failed(A, STOCKOUT, now + 1.0) == cooling
        spans.append(cooling.until - now)
        now = cooling.until
    assert spans == [300.0, 600.0, 1200.0, 2400.0, 3000.0, 3000.0, 3000.0, 3000.0]


def test_time_forgives_a_level_for_each_quiet_span_and_success_all() -> None:
    book = CooldownBook()
    first = book.failed(A, STOCKOUT, 0.0)
    second = book.failed(A, STOCKOUT, first.until)
    third = book.failed(A, STOCKOUT, second.until + 1800.0)
    assert third.until - (second.until + 1800.0) == 600.0
    book.succeeded(A)
    assert book.cooled(A, third.until - 1.0) is None
    assert book.failed(A, STOCKOUT, third.until).level == 0


def test_what_is_forgiven_leaves_the_book_and_a_kept_book_goes_on() -> None:
    book = CooldownBook()
    cooling = book.failed(A, STOCKOUT, 0.0)
    again = CooldownBook(known=list(book))
    assert again.cooled(A, 10.0) == cooling
    book.prune(cooling.until + 1799.0)
    assert list(book) == [cooling]
    book.prune(cooling.until + 1800.0)
    assert list(book) == []


targets = st.builds(Target, st.sampled_from(["r1-a", "r1-b", "r2-a"]), st.sampled_from(["m", "n"]), st.booleans())
verdicts = st.sampled_from([STOCKOUT, REGION_QUOTA, GLOBAL_QUOTA, CREDENTIALS, RATE])
steps = st.lists(st.tuples(targets, verdicts | st.none(), st.floats(0, 5000)), max_size=60)


@given(steps)
def test_whatever_happened_nothing_is_cooled_for_ever(history: list[tuple[Target, Verdict | None, float]]) -> None:
    book, now = CooldownBook(), 0.0
    for target, verdict, passed in history:
        now += passed
        if verdict is None:
            book.succeeded(target)
            assert book.cooled(target, now) is None
        elif (cooling := book.failed(target, verdict, now)) is not None:
            assert book.cooled(target, now) is not None
            assert cooling.until - now <= 3600.0
    everything = [Target(z, m, s) for z, m, s in itertools.product(("r1-a", "r1-b", "r2-a"), "mn", (True, False))]
    assert all(book.cooled(target, now + 3600.0) is None for target in everything)
    book.prune(now + 1e6)
    assert list(book) == []
