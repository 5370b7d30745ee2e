"""The disk of everything is full, for real: who asks is told at once, jobs go on, and all goes on by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from incl_local.chaos.arena import Arena
from incl_local.chaos.broken import Siege, small_arena
from incl_local.chaos.victims import freeze_for
from incl_local.layout import Layout
from incl_local.testing import wait
from incl_shared.testing.disk import fill, small_disk
from incl_shared.testing.invariants import assert_holds
from incl_shared.testing.nats import SMALL

SIZE = 256 << 20
NEARLY = 12 << 20
"""Bytes that are left where the bus refuses already, and nothing else has failed."""


@dataclass(frozen=True)
class Place:
    arena: Arena
    disk: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("broken disk")
    with small_disk(folder / "home" / "data", SIZE) as disk:
        Layout(disk).prepare()
        (disk / "limits.json").write_text(json.dumps(asdict(SMALL)))
        with small_arena(folder) as arena:
            yield Place(arena, disk)


def full(place: Place) -> bool:
    status = place.arena.chaos.home.incl("status", "--json")
    assert status.out, status.err
    return bool(json.loads(status.out)["disk"]["full"])


async def test_the_bus_refuses_before_the_disk_is_full(place: Place, tmp_path: Path) -> None:
    home = place.arena.chaos.home

    def nearly(siege: Siege) -> None:
        ballast = fill(place.disk, leave=NEARLY)
        try:
            wait(lambda: full(place), 10, "the platform to see it")
            before, began = siege.steps(), time.monotonic()
            refused = home.incl("run", "--detach", "--", "true", cwd=siege.stage.held["running"].folder)
            took = time.monotonic() - began
            assert refused.code != 0 and "full" in refused.err and "make room" in refused.err, refused.err
            assert took < 8.0, f"it was told only after {took:.1f} s"
            assert home.incl("ls").code == 0 and "FULL" in home.incl("status").out
            assert "make room" in home.incl("doctor").out
            wait(lambda: siege.steps() > before + 20, 20, "the job to go on")
            freeze_for(35.0)  # longer than a node's lease: a bus that takes no word is no node's silence
        finally:
            ballast.unlink()
        wait(lambda: not full(place), 10, "the platform to see that there is room")

    outcome = await Siege(place.arena, tmp_path, nearly).endure("the disk is nearly full")
    print(json.dumps({"disk": "nearly full", "recovery": outcome.recovery}))
    assert_holds(outcome.evidence)


async def test_not_a_byte_is_left(place: Place, tmp_path: Path) -> None:
    """Databases, bus, artifacts, journal, spool: what a job logs meanwhile is dropped and counted, or waits."""

    def to_the_last(siege: Siege) -> None:
        ballast = fill(place.disk)
        try:
            siege.stage.let_go()
            freeze_for(12.0)
        finally:
            ballast.unlink()
        wait(lambda: not full(place), 30, "the platform to see that there is room")

    phases = ("queued", "unpacking", "running", "checkpointing", "uploading", "ending")
    outcome = await Siege(place.arena, tmp_path, to_the_last).endure("the disk is full", phases)
    print(json.dumps({"disk": "full", "recovery": outcome.recovery}))
    submitted = tuple(replace(each, lossless=False, attempts=4) for each in outcome.evidence.submitted)
    assert_holds(replace(outcome.evidence, submitted=submitted))
    lost = sum(sum(told.lost.values()) for told in outcome.evidence.told)
    print(json.dumps({"records dropped and counted": lost}))
