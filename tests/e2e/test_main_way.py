"""The whole way of one experiment: submit, run, watch, keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.ipc
import pytest

from incl_local.testing import Home, interrupt, wait

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PATIENT = "import time\nprint('started', flush=True)\ntime.sleep(120)\n"


def test_the_digits_are_learned_and_kept(home: Home, tmp_path: Path) -> None:
    done = home.incl("run", str(EXAMPLES / "digits" / "train.yaml"), "--env", "EPOCHS=12")
    assert done.code == 0, done.err
    view = home.show()
    assert view["row"]["state"] == "finished"
    assert view["row"]["metrics"]["val_acc"] > 0.9
    assert (view["gaps"], view["settled"]) == (0, True)
    assert view["points"] == sum(m["points"] for m in view["metrics"] if not m["name"].startswith("system/")) > 12
    assert {stage["name"] for stage in view["stages"]} >= {"packing", "queued", "unpacking", "running", "uploading"}
    kept = home.incl("download", "@last", "-o", str(tmp_path / "kept"))
    assert kept.code == 0, kept.err
    assert [p.name for p in (tmp_path / "kept").rglob("best.npz")] == ["best.npz"]
    check_points(home, view, tmp_path / "points.arrow")


def check_points(home: Home, view: dict[str, Any], target: Path) -> None:
    """Chart, list and raw points of the metric that the script declares."""
    metric = next(m for m in view["metrics"] if m["name"] == "val_acc")
    (curve,) = home.incl("metrics", "@last", "val_acc", "--json").json
    assert (curve["points"], curve["steps"][-1]) == (metric["points"], metric["last_step"])
    assert curve["values"][-1] == pytest.approx(metric["last"], rel=1e-6)
    listed = home.incl("metrics", "@last", "--list", "--json").json
    assert {m["name"] for m in listed} == {m["name"] for m in view["metrics"]}
    written = home.incl("metrics", "@last", "val_acc", "-o", str(target))
    assert written.code == 0, written.err
    with arrow.memory_map(str(target)) as source:
        table = arrow.ipc.open_file(source).read_all()
    assert table.num_rows == metric["points"]
    assert table["value"].to_pylist()[-1] == metric["last"]
    rows = home.incl("metrics", "@last", "val_acc", "--points").out.splitlines()
    assert [float(row.split(",")[-1]) for row in rows[1:]] == table["value"].to_pylist()


def test_a_failure_is_exit_code_three_with_the_traceback_in_the_log(home: Home, project: Path) -> None:
    (project / "train.py").write_text("print('before')\nraise ValueError('no data')\n")
    failed = home.incl("run", "--", "python", "train.py", cwd=project)
    assert failed.code == 3
    logs = home.incl("logs", "@last")
    assert "before" in logs.out
    assert "ValueError: no data" in logs.out
    view = home.show()
    assert (view["row"]["state"], view["row"]["reason"]) == ("failed", "error")


@pytest.mark.parametrize("nodes", [2, 4])
def test_an_all_reduce_over_several_nodes(home: Home, nodes: int, tmp_path: Path) -> None:
    run = home.incl("run", str(EXAMPLES / "allreduce" / "train.yaml"), "--nodes", str(nodes), "--cpu", "0.4")
    assert run.code == 0, run.err + run.out
    kept = home.incl("download", "@last", "-o", str(tmp_path))
    assert kept.code == 0, kept.err
    sums = {p.name: p.read_text() for p in tmp_path.rglob("checksum-*.txt")}
    assert sorted(sums) == [f"checksum-{rank}.txt" for rank in range(nodes)]
    assert len(set(sums.values())) == 1


def test_ctrl_c_detaches_and_the_run_goes_on(home: Home, project: Path) -> None:
    go = home.folder / "go on"
    (project / "train.py").write_text(
        "import os, time\nfor i in range(30):\n    print('line', i, flush=True)\n"
        "    while i == 5 and not os.path.exists(os.environ['GO']):\n        time.sleep(0.05)\n"
    )
    child = home.start("run", "--name", "patient", "--env", f"GO={go}", "--", "python", "train.py", cwd=project)
    wait(lambda: "line 3" in home.incl("logs", "patient").out, 30, "some lines")
    interrupt(child)
    out, err = child.communicate(timeout=20)
    assert "incl logs -f" in err + out
    go.touch()
    followed = home.incl("logs", "-f", "patient")
    assert followed.code == 0
    assert [line.split()[-1] for line in followed.out.splitlines() if "line" in line] == [str(i) for i in range(30)]
    assert home.show("patient")["row"]["state"] == "finished"


def test_a_stop_ends_a_run_and_a_second_one_says_that_it_is_over(home: Home, project: Path) -> None:
    (project / "train.py").write_text(PATIENT)
    identifier = home.submit("--", "python", "train.py", cwd=project)
    home.until(identifier, ["running"])
    assert home.incl("stop", identifier).code == 0
    assert home.until(identifier, ["stopped", "failed"])["row"]["state"] == "stopped"
    again = home.incl("stop", identifier)
    assert again.code == 5
    assert "hint:" in again.err


def test_jobs_queue_instead_of_overloading(home: Home, project: Path) -> None:
    (project / "train.py").write_text(PATIENT)
    cluster = home.incl("queue", "--json").json
    cores = cluster["nodes"][0]["cpu"]
    first = home.submit("--cpu", str(cores), "--", "python", "train.py", cwd=project)
    second = home.submit("--cpu", str(cores), "--", "python", "train.py", cwd=project)
    home.until(first, ["running"])
    waiting = wait(lambda: (v := home.show(second))["row"]["waiting"] and v, 20, "a reason for waiting")
    assert waiting["row"]["state"] == "queued"
    assert "core" in waiting["row"]["waiting"]
    assert home.incl("stop", first).code == 0
    home.until(second, ["running"])
    assert home.incl("stop", second, "--wait").code == 0


def test_rerun_uses_the_same_code_with_another_environment(home: Home, project: Path) -> None:
    (project / "train.py").write_text("import incl, os\nincl.log({'x': float(os.environ.get('X', 1))})\n")
    assert home.incl("run", "--name", "origin", "--env", "X=1", "--", "python", "train.py", cwd=project).code == 0
    first = home.show()
    (project / "train.py").write_text("raise SystemExit('changed since')\n")
    again = home.incl("rerun", "origin", "--env", "X=7", cwd=project)
    assert again.code == 0, again.err
    second = home.show()
    assert second["code"] == first["code"]
    assert [m["last"] for m in second["metrics"] if m["name"] == "x"] == [7.0]
    table = home.incl("compare", first["row"]["id"], second["row"]["id"])
    assert table.code == 0
    assert "X" in table.out


def test_a_list_is_filtered_and_sorted(home: Home, project: Path) -> None:
    (project / "train.py").write_text("import incl, os\nincl.log({'val_acc': float(os.environ['ACC'])})\n")
    for accuracy in ("0.5", "0.92", "0.97"):
        run = home.incl("run", "--tag", "listed", "--env", f"ACC={accuracy}", "--", "python", "train.py", cwd=project)
        assert run.code == 0, run.err
    listed = home.incl("ls", "val_acc > 0.9 and status = finished and tag = listed", "--sort", "-val_acc", "--json")
    assert listed.code == 0, listed.err
    rows = listed.json["rows"] if isinstance(listed.json, dict) else listed.json
    best = [home.show(row["id"])["config"].get("ACC") or home.show(row["id"])["spec"]["env"]["ACC"] for row in rows]
    assert best == ["0.97", "0.92"]


def test_a_run_outside_the_platform_goes_live(home: Home, project: Path) -> None:
    import subprocess
    import sys

    (project / "note.py").write_text(
        "import incl\nincl.init(name='laptop', config={'lr': 0.1})\n"
        "for i in range(50):\n    incl.log({'loss': 1 / (i + 1)}, step=i)\nincl.finish()\n"
    )
    done = subprocess.run(
        [sys.executable, "note.py"], cwd=project, env=home.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    view = wait(
        lambda: (r := home.incl("show", "laptop", "--json")).code == 0 and r.json["settled"] and r.json,
        40,
        "the run to be settled",
    )
    assert view["outside"]
    assert view["row"]["state"] == "finished"
    assert (view["points"], view["gaps"]) == (50, 0)
