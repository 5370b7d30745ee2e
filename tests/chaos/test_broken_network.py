"""A machine that is cut off, for less than its lease and for more: its work is done once, whatever it says later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_local.chaos import ledger
from incl_local.chaos.arena import Arena
from incl_local.chaos.broken import Siege, small_arena
from incl_local.chaos.network import Network, NoNamespaces, far_node
from incl_local.chaos.rounds import allow_attempts
from incl_local.chaos.victims import freeze_for
from incl_local.testing import wait
from incl_shared.events.experiments import AttemptEnded
from incl_shared.states import EndReason
from incl_shared.testing.invariants import assert_holds, collect

LEASE_S = 20.0
"""Shorter than the 30 s that it usually is: the agent takes whatever the wanted state says."""


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    environment = {
        "INCL_PROVISIONER_NODE_LEASE_S": f"{LEASE_S:g}",
        "INCL_TRACKER_SETTLE_AFTER_S": f"{LEASE_S:g}",
    }
    with small_arena(tmp_path_factory.mktemp("broken network"), environment) as made:
        yield made


@pytest.fixture(scope="module")
def network(arena: Arena) -> Iterator[Network]:
    ports = [arena.chaos.place.ports["bus"], arena.gate.port]
    try:
        with Network(f"incl-chaos-{os.getpid()}", ports).made() as made:
            yield made
    except NoNamespaces as error:
        pytest.skip(f"no network namespace can be made here: {error}")


@pytest.fixture(scope="module")
def far(arena: Arena, network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of the machine that is far away; single jobs go there, as it is the smaller one."""
    with far_node(arena, network, tmp_path_factory.mktemp("far")) as folder:
        wait(lambda: alive(arena, "far"), 30, "the far machine to say hello")
        yield folder


def alive(arena: Arena, node: str) -> bool:
    queue = arena.chaos.home.incl("queue", "--json")
    return queue.code == 0 and any(each["node"] == node and each["alive"] for each in queue.json["nodes"])


def settled(arena: Arena, experiment: str, attempt: int) -> bool:
    view = arena.chaos.home.show(experiment)
    return any(each["attempt"] == attempt and each["settled"] for each in view["attempts"])


def is_far(siege: Siege, far: Path) -> bool:
    """Whether the job that is held runs on the far machine; an earlier one may be drained there still."""
    return any((far / "jobs").glob(f"{siege.stage.held['running'].experiment}-*-*"))


async def test_it_comes_back_before_its_lease_is_over(
    arena: Arena, network: Network, far: Path, tmp_path: Path
) -> None:
    def cut(siege: Siege) -> None:
        assert is_far(siege, far), "the job is on the machine that will be cut off"
        before = siege.steps()
        network.cut()
        freeze_for(LEASE_S * 0.4)
        network.heal()
        assert siege.steps() > before + 20, "the job went on"

    outcome = await Siege(arena, tmp_path, cut).endure("cut off for less than its lease", ("running",))
    assert_holds(outcome.evidence)
    assert not collect.process_leftovers(far / "jobs")


@pytest.mark.timeout(300)
async def test_it_comes_back_after_its_lease_is_over(arena: Arena, network: Network, far: Path, tmp_path: Path) -> None:
    def cut(siege: Siege) -> None:
        assert is_far(siege, far), "the job is on the machine that will be cut off"
        experiment, books = siege.stage.held["running"].experiment, tmp_path / "ledger"
        network.cut()
        try:
            wait(lambda: len(ledger.read(books, experiment)) == 2, LEASE_S * 3, "another machine to go on with it")
            first, second = ledger.read(books, experiment)
            assert first.ran().ended < second.ran().began, "two attempts lived at once"
            assert not collect.process_leftovers(far / "jobs"), "it was ended by its own machine"
            wait(lambda: len(ledger.read(books, experiment)[1].steps) > 10, 30, "the second attempt to get on")
        finally:
            network.heal()
        wait(lambda: alive(arena, "far"), 30, "the machine to be back")
        wait(lambda: not list((far / "jobs").glob("*-*-*")), 60, "all that it had to say to be said")
        wait(lambda: settled(arena, experiment, 1), 100, "the lost attempt to be settled, its time to wait begun anew")

    outcome = await Siege(arena, tmp_path, cut).endure("cut off for more than its lease", ("running",))
    assert_holds(allow_attempts(outcome.evidence, 2))
    ends = [fact.event for fact in outcome.evidence.facts if isinstance(fact.event, AttemptEnded)]
    assert [(end.attempt, end.reason) for end in ends] == [(1, EndReason.LOST), (2, EndReason.COMPLETED)]
    late = {(each.attempt, each.stream) for each in outcome.evidence.stored}
    assert late == {(1, "metrics"), (1, "logs"), (2, "metrics"), (2, "logs")}
