"""Retention: by the rules, to the artifact store and back; what is damaged or came meanwhile costs nothing."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest

from incl_shared.archive.frames import BadFrames
from incl_shared.states import ExperimentState
from incl_tracker.domain.archive import read, write
from incl_tracker.domain.retention import DAY_S, Rule, action, soonest

A, B = "0" * 26, "1" * 26
FRAMES = [["series", 1, "loss", 0, 1, "w"], ["chunk", 1, 0, b"x" * 1000, None], ["lines", 0, 1, 0, "log", 1, b"y"]]

EARLIER = (
    "KLUv/QBITQMA9AUsAAAAk65pbmNsLXRlbGVtZXRyeQG6MBIAAACWpnNlcmllcwGkbG9zcwABoXf1AwAAlaVjaHVuawEAxQPoeMASAAAAl6VsaW5l"
    "cwABAKNsb2cBxAF5BgAAAJKjZW5kAwIAJw+qdwFN"
)
"""FRAMES, as the first version wrote them."""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert write(path, A, iter(FRAMES)) == 3
    assert list(read(path, A)) == FRAMES
    assert write(path, A, []) == 0
    assert list(read(path, A)) == []


def test_archives_of_earlier_versions_are_read_and_written_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b64decode(EARLIER))
    assert list(read(path, A)) == FRAMES
    write(path, A, FRAMES)
    assert path.read_bytes() == b64decode(EARLIER)


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, A, FRAMES)
    whole = path.read_bytes()
    with pytest.raises(BadFrames, match="is the archive of"):
        list(read(path, B))
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadFrames):
            list(read(path, A))
    path.write_bytes(b"not an archive at all")
    with pytest.raises(BadFrames):
        list(read(path, A))


def test_the_first_rule_that_fits_decides() -> None:
    rules = (
        Rule(project="team-*", states=(ExperimentState.FAILED,), after_days=7, action="trash"),
        Rule(project="team-a", after_days=30),
    )
    failed, finished = ExperimentState.FAILED, ExperimentState.FINISHED
    assert action(rules, "team-a", failed, (), 8 * DAY_S) == "trash"
    assert action(rules, "team-a", failed, ("keep",), 80 * DAY_S) is None
    assert action(rules, "team-a", failed, (), 6 * DAY_S) is None
    assert action(rules, "team-a", finished, ("x",), 31 * DAY_S) == "archive"
    assert action(rules, "team-b", finished, (), 99 * DAY_S) is None
    assert soonest(rules) == 7 * DAY_S
    assert soonest(()) == float("inf")
