"""The queue: order, shares, passing within bounds, nobody starves, fast."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from incl_provisioner.domain.placement import Demand, Room, could_ever
from incl_provisioner.domain.reasons import why
from incl_provisioner.domain.scheduler import Assignment, Policy, Scheduler, Waiting


def room(node: str = "a", cpu: int = 4000, gpus: int = 0) -> Room:
    return Room(node, "127.0.0.1", cpu, 8 << 30, gpus, frozenset({"host"}))


def waits(
    name: str, cpu: int = 1000, *, nodes: int = 1, user: str = "ann", priority: int = 0, since: float = 0.0
) -> Waiting:
    return Waiting(name, user, "default", priority, since, 1, Demand(nodes, cpu))


def queue(*waiting: Waiting, cpu: int = 4000, policy: Policy | None = None) -> Scheduler:
    scheduler = Scheduler(policy)
    scheduler.machine(room(cpu=cpu))
    for each in waiting:
        scheduler.enqueue(each)
    return scheduler


def names(assignments: list[Assignment]) -> list[str]:
    return [each.waiting.experiment for each in assignments]


def end(scheduler: Scheduler, name: str) -> None:
    scheduler.release(name, list(scheduler.running[name].slots))


def test_priority_then_first_come() -> None:
    scheduler = queue(waits("b", since=2), waits("a", since=1), waits("c", priority=1, since=3), cpu=2000)
    assert names(scheduler.decide(3)) == ["c", "a"]
    end(scheduler, "c")
    assert names(scheduler.decide(3)) == ["b"]


def test_the_user_with_less_running_goes_first() -> None:
    mine = [waits(f"a{n}", user="ann", since=n) for n in range(4)]
    hers = [waits(f"b{n}", user="ben", since=10 + n) for n in range(4)]
    assert sorted(names(queue(*mine, *hers).decide(20))) == ["a0", "a1", "b0", "b1"]


def test_a_gang_is_placed_whole_or_waits() -> None:
    scheduler = queue(waits("one", 2000), waits("gang", 1000, nodes=3, since=1))
    assert names(scheduler.decide(1)) == ["one"]
    assert scheduler.rooms["a"].cpu_used == 2000
    end(scheduler, "one")
    assert names(scheduler.decide(2)) == ["gang"]
    assert scheduler.rooms["a"].cpu_used == 3000


def test_a_small_job_passes_one_that_does_not_fit() -> None:
    scheduler = queue(waits("run", 3000), waits("big", 4000, since=1), waits("small", 1000, since=2))
    assert names(scheduler.decide(2)) == ["run", "small"]


def test_passing_ends_after_so_many() -> None:
    policy = Policy(patience_s=1e9, max_passes=3)
    scheduler = queue(waits("run", 3000), waits("big", 4000, since=1), policy=policy)
    assert names(scheduler.decide(1)) == ["run"]
    passed = 0
    for number in range(20):
        scheduler.enqueue(waits(f"s{number}", since=2 + number))
        for name in names(scheduler.decide(2 + number)):
            passed += 1
            end(scheduler, name)
    assert passed == 3
    end(scheduler, "run")
    assert names(scheduler.decide(30))[0] == "big"


def test_passing_within_one_pass_is_bounded_too() -> None:
    policy = Policy(patience_s=1e9, max_passes=2)
    small = [waits(f"s{number}", 100, since=2 + number) for number in range(9)]
    scheduler = queue(waits("run", 3000), waits("big", 4000, since=1), *small, policy=policy)
    assert names(scheduler.decide(20)) == ["run", "s0", "s1"]


def test_passing_ends_after_so_long_also_for_the_user_with_less_running() -> None:
    policy = Policy(patience_s=10, max_passes=10**6)
    scheduler = queue(waits("run", 1000), waits("big", 4000, since=1), policy=policy)
    assert names(scheduler.decide(1)) == ["run"]
    scheduler.enqueue(waits("b0", user="ben", since=2))
    assert names(scheduler.decide(10.9)) == ["b0"]
    scheduler.enqueue(waits("b1", user="ben", since=3))
    assert names(scheduler.decide(11.1)) == []
    end(scheduler, "run")
    end(scheduler, "b0")
    assert names(scheduler.decide(12)) == ["big"]


def test_waiting_makes_a_low_priority_rise() -> None:
    policy = Policy(aging_s=100)
    old, new = waits("old", 4000, priority=-2, since=0), waits("new", 4000, since=301)
    assert names(queue(old, new, policy=policy).decide(302)) == ["old"]


def test_a_pause_before_a_retry_is_kept() -> None:
    scheduler = queue()
    paused = waits("a")
    paused.not_before = 50.0
    scheduler.enqueue(paused)
    assert scheduler.decide(49) == []
    assert scheduler.next_due() == 50.0
    assert why(paused, scheduler) == "a pause before attempt 1"
    assert names(scheduler.decide(50)) == ["a"]
    assert scheduler.next_due() is None


def test_one_that_was_stopped_is_not_placed() -> None:
    scheduler = queue(waits("a"), waits("b", since=1), cpu=1000)
    scheduler.dequeue("a")
    assert names(scheduler.decide(2)) == ["b"]


def test_enqueued_twice_is_placed_once() -> None:
    scheduler = queue(waits("a"), waits("a"))
    assert names(scheduler.decide(1)) == ["a"]
    assert scheduler.decide(1) == []


def test_quotas_are_asked() -> None:
    @dataclass
    class Two:
        running: dict[str, int] = field(default_factory=dict)

        def refusal(self, user: str, project: str, demand: Demand) -> str | None:
            return "two at once are allowed" if self.running.get(user, 0) >= 2 else None

        def started(self, user: str, project: str, demand: Demand) -> None:
            self.running[user] = self.running.get(user, 0) + 1

        def ended(self, user: str, project: str, demand: Demand) -> None:
            self.running[user] -= 1

    scheduler = Scheduler(quotas=Two())
    scheduler.machine(room())
    for number in range(4):
        scheduler.enqueue(waits(f"a{number}", since=number))
    assert names(scheduler.decide(5)) == ["a0", "a1"]
    assert why(scheduler.waiting["a2"], scheduler) == "two at once are allowed"
    end(scheduler, "a0")
    assert names(scheduler.decide(6)) == ["a2"]


def test_reasons_are_for_people() -> None:
    scheduler = queue(waits("run", 2500), waits("big", 4000, since=1), waits("next", 3000, since=2))
    scheduler.decide(3)
    assert why(scheduler.waiting["big"], scheduler) == "needs 4 cores, 1.5 of 4 free"
    assert why(scheduler.waiting["next"], scheduler) == "needs 3 cores, 1.5 of 4 free; 1 ahead in the queue"
    gang = waits("gang", 1000, nodes=4, since=3)
    scheduler.enqueue(gang)
    assert why(gang, scheduler).startswith("needs 1 core on each of 4 nodes, 1.5 of 4 free; 2 ahead")
    scheduler.rooms["a"].alive = False
    assert why(gang, scheduler) == "no machine is ready"


jobs = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(1, 2000), st.sampled_from(["ann", "ben", "cy"]), st.integers(0, 3),
        st.integers(1, 6),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(jobs, st.integers(0, 10))
def test_nobody_starves_beside_an_endless_stream(wanted: list[tuple[int, int, str, int, int]], passes: int) -> None:
    """Ever new small jobs of another user come; all the others are placed in the end, never over capacity."""
    scheduler = Scheduler(Policy(patience_s=5, max_passes=passes, aging_s=20))
    scheduler.machine(room("a", 3000))
    scheduler.machine(room("b", 3000))
    lengths: dict[str, int] = {}
    for number, (nodes, cpu, user, priority, length) in enumerate(wanted):
        if not could_ever(Demand(nodes, cpu), scheduler.rooms.values()):
            continue
        scheduler.enqueue(waits(f"j{number}", cpu, nodes=nodes, user=user, priority=priority, since=number / 100))
        lengths[f"j{number}"] = length
    ends: dict[str, float] = {}
    left = set(lengths)
    now, stream = 1.0, 0
    while left and now < 600:
        for _ in range(3):
            stream += 1
            scheduler.enqueue(waits(f"s{stream}", 900, user="zoe", priority=3, since=now))
        for assignment in scheduler.decide(now):
            name = assignment.waiting.experiment
            left.discard(name)
            ends[name] = now + lengths.get(name, 2)
        for each in scheduler.rooms.values():
            assert each.cpu_used <= each.cpu
            assert each.cpu_held == 0
        now += 1
        for name in [name for name, at in ends.items() if at <= now]:
            del ends[name]
            end(scheduler, name)
    assert not left


def test_thousands_are_placed_in_a_second() -> None:
    scheduler = Scheduler()
    for number in range(50):
        scheduler.machine(room(f"n{number}", 4000))
    for number in range(4000):
        scheduler.enqueue(waits(f"j{number:05}", 50, user=f"u{number % 7}", since=number))
    start = time.thread_time()
    made = scheduler.decide(5000, most=10_000)
    assert len(made) == 4000
    assert time.thread_time() - start < 2.0


def test_a_long_line_that_is_blocked_costs_nothing() -> None:
    scheduler = queue(waits("run", 4000))
    for number in range(20_000):
        scheduler.enqueue(waits(f"j{number:05}", 50, since=1 + number))
    scheduler.decide(1)
    start = time.thread_time()
    for _ in range(200):
        assert scheduler.decide(2) == []
    assert time.thread_time() - start < 0.5
