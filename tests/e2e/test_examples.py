"""Every example runs as its file says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from incl_local.testing import Home

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COVERED_ELSEWHERE = {"digits", "allreduce"}


def test_hello(home: Home) -> None:
    done = home.incl("run", str(EXAMPLES / "hello" / "train.yaml"))
    assert done.code == 0, done.err
    view = home.show()
    assert (view["points"], view["gaps"]) == (100, 0)


@pytest.mark.torch
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_bare_torchrun_spans_two_nodes(home: Home, tmp_path: Path) -> None:
    done = home.incl("run", str(EXAMPLES / "torch_ddp" / "train.yaml"), "--cpu", "0.5", timeout=180)
    assert done.code == 0, done.err + done.out
    assert home.incl("download", "@last", "-o", str(tmp_path)).code == 0
    sums = {p.name: p.read_text() for p in tmp_path.rglob("checksum-*.txt")}
    assert sorted(sums) == ["checksum-0.txt", "checksum-1.txt"]
    assert len(set(sums.values())) == 1


def test_every_example_has_a_test_and_is_short() -> None:
    names = {p.name for p in EXAMPLES.iterdir() if p.is_dir()}
    assert names == COVERED_ELSEWHERE | {"hello", "torch_ddp"}
    for script in EXAMPLES.glob("*/*.py"):
        assert script.read_text().count("\n") <= 110, script
