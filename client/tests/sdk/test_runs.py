"""init() and finish(): on the platform, outside it, twice, in children, and however the process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from incl_shared.ids import is_id
from incl_shared.testing.telemetry import record_of


def start(script: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    program = cwd / "script.py"
    program.write_text(script)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("INCL_", "RANK"))}
    clean["INCL_HOME"] = str(cwd / "no platform")
    return subprocess.Popen(
        [sys.executable, str(program)],
        cwd=cwd,
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, cwd: Path, code: int = 0, **environment: str) -> tuple[str, str]:
    process = start(script, cwd, **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out, err


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def records(run_directory: Path) -> list[dict[str, Any]]:
    files = sorted((run_directory / "spool").glob("*.jsonl"))
    return [record_of(line) for file in files for line in file.read_text().splitlines()]


def only_run(cwd: Path) -> Path:
    (found,) = (cwd / ".incl" / "runs").iterdir()
    return found


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "my project"
    folder.mkdir()
    return folder


def test_a_run_outside_the_platform(here: Path) -> None:
    script = """
import incl
run = incl.init(project="vision", name="first", config={"lr": 0.1, "layers": [1, 2]}, tags=["a", "b"])
assert incl.experiment_id == run.id and str(run.directory).endswith(run.id)
incl.log({"loss": 0.5}, step=1)
(incl.output_dir / "model.txt").write_text("weights")
incl.config.update(seed=3)
print(run.id)
"""
    out, err = run(script, here)
    folder = only_run(here)
    identifier = out.strip()
    assert is_id(identifier)
    assert folder.name == identifier
    assert f"incl sync .incl/runs/{identifier}" in err
    assert err.count("\n") == 1
    meta = read(folder / "meta.json")
    assert (meta["id"], meta["project"], meta["name"], meta["tags"]) == (identifier, "vision", "first", ["a", "b"])
    assert meta["config"] == {"lr": 0.1, "layers": [1, 2]}
    assert meta["directory"] == str(here)
    end = read(folder / "end.json")
    assert (end["state"], end["message"]) == ("finished", "")
    assert meta["started"] <= end["ended"] <= time.time()
    assert (folder / "outputs" / "model.txt").read_text() == "weights"
    kinds = [(record["k"], record["v"]) for record in records(folder)]
    assert kinds == [("p", {"lr": 0.1, "layers": [1, 2]}), ("m", {"loss": 0.5}), ("p", {"seed": 3})]


@pytest.mark.parametrize(
    ("ending", "code", "state", "message"),
    [
        ("pass", 0, "finished", ""),
        ("incl.finish()", 0, "finished", ""),
        ("incl.finish('failed')", 0, "failed", ""),
        ("incl.finish('odd')", 0, "failed", ""),
        ("raise ValueError('no data')", 1, "failed", "ValueError: no data"),
        ("import sys; sys.exit(3)", 3, "failed", "sys.exit(3)"),
        ("import sys; sys.exit('bad')", 1, "failed", "sys.exit('bad')"),
        ("import sys; sys.exit(0)", 0, "finished", ""),
        ("import sys; sys.exit()", 0, "finished", ""),
        ("raise KeyboardInterrupt", -signal.SIGINT, "stopped", "KeyboardInterrupt: "),
        ("run.__exit__(ValueError, ValueError('x'), None)", 0, "failed", "ValueError: x"),
        ("run.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)", 0, "stopped", ""),
        ("run.__exit__(SystemExit, SystemExit(0), None)", 0, "finished", ""),
        ("run.__exit__(SystemExit, SystemExit(2), None)", 0, "failed", "SystemExit: 2"),
    ],
)
def test_how_a_run_ends(here: Path, ending: str, code: int, state: str, message: str) -> None:
    run(f"import incl\nrun = incl.init(mode='offline')\nincl.log({{'a': 1}})\n{ending}\n", here, code)
    end = read(only_run(here) / "end.json")
    assert (end["state"], end["message"]) == (state, message)


def test_a_killed_run_has_no_end(here: Path) -> None:
    run("import incl, os\nincl.init()\nincl.log({'a': 1})\nos.kill(os.getpid(), 9)", here, -signal.SIGKILL)
    assert not (only_run(here) / "end.json").exists()
    assert len(records(only_run(here))) == 1


def test_two_runs_in_one_process_and_as_a_context_manager(here: Path) -> None:
    script = """
import incl
with incl.init(name="one", config={"lr": 1}) as one:
    incl.log({"x": 1})
two = incl.init(name="two", config={"lr": 2})
incl.log({"x": 2})
assert incl.config == {"lr": 2}, incl.config
three = incl.init(name="three")
incl.log({"x": 3})
incl.finish()
one.finish(); two.finish("failed")
incl.log({"x": 4})
assert (incl.experiment_id, incl.sweep, incl.trial) == (None, None, None)
"""
    _, err = run(script, here)
    folders = sorted((here / ".incl" / "runs").iterdir(), key=lambda folder: read(folder / "meta.json")["started"])
    assert [read(folder / "meta.json")["name"] for folder in folders] == ["one", "two", "three"]
    assert [read(folder / "end.json")["state"] for folder in folders] == ["finished"] * 3
    logged = [[record["v"]["x"] for record in records(folder) if record["k"] == "m"] for folder in folders]
    assert logged == [[1], [2], [3]]
    assert "call incl.init() first" in err


def test_on_the_platform_init_only_attaches(here: Path) -> None:
    spool = here / "spool"
    spool.mkdir()
    script = """
import incl
with incl.init(project="p", name="n", config={"lr": 0.5, "batch": 8, "name": "x"}) as run:
    assert run.id == "e1" and run.directory is None
    assert incl.config == {"lr": 0.25, "batch": 16, "name": "7", "other": 1.5}, incl.config
    assert (incl.rank, incl.node_rank, incl.num_nodes, incl.attempt) == (5, 2, 4, 3)
    assert (incl.sweep, incl.trial) == ("s1", 0)
    incl.log({"x": 1})
incl.log({"x": 2})
assert str(incl.output_dir).endswith("out put") and incl.output_dir.is_dir()
"""
    environment = {
        "INCL_SPOOL_DIR": str(spool),
        "INCL_EXPERIMENT_ID": "e1",
        "INCL_HPARAMS": '{"LR": "0.25", "batch": "16", "name": "7", "other": "1.5"}',
        "INCL_OUTPUT_DIR": str(here / "out put"),
        "INCL_NODE_RANK": "2",
        "INCL_NUM_NODES": "4",
        "INCL_ATTEMPT": "3",
        "INCL_SWEEP": "s1",
        "INCL_TRIAL": "0",
        "RANK": "5",
    }
    _, err = run(script, here, **environment)
    assert err == ""
    assert not (here / ".incl").exists()
    assert [record["v"].get("x") for record in records(here) if record["k"] == "m"] == [1, 2]
    assert [record["v"]["lr"] for record in records(here) if record["k"] == "p"] == [0.25]


def test_children_of_a_run_write_to_it_and_do_not_end_it(here: Path) -> None:
    script = """
import incl, multiprocessing, os, subprocess, sys
def work(n):
    incl.init()
    incl.log({"child": n})
if __name__ == "__main__":
    incl.init(name="parent")
    for method in ("fork", "spawn"):
        p = multiprocessing.get_context(method).Process(target=work, args=(method == "fork",)); p.start(); p.join()
        assert p.exitcode == 0
    pid = os.fork()
    if pid == 0:
        incl.log({"child": 2}); sys.exit(0)
    os.waitpid(pid, 0)
    subprocess.run([sys.executable, "-c", "import incl; incl.log({'child': 3})"], check=True)
    subprocess.run([sys.executable, "-c", "import incl; incl.init(name='own'); incl.log({'own': 1})"], check=True)
    incl.log({"parent": 1})
"""
    run(script, here)
    folders = {read(folder / "meta.json")["name"]: folder for folder in (here / ".incl" / "runs").iterdir()}
    assert set(folders) == {"parent", "own"}
    seen = sorted(json.dumps(record["v"]) for record in records(folders["parent"]) if record["k"] == "m")
    assert seen == ['{"child": 0}', '{"child": 1}', '{"child": 2}', '{"child": 3}', '{"parent": 1}']
    assert [record["v"] for record in records(folders["own"])] == [{"own": 1}]
    assert read(folders["parent"] / "end.json")["state"] == "finished"


def test_the_ranks_of_a_launch_share_a_run(here: Path) -> None:
    script = """
import incl, os, subprocess, sys
if "LOCAL_RANK" not in os.environ:
    for port in ("1", "2"):
        ranks = [
            subprocess.Popen([sys.executable, __file__], env=dict(os.environ, LOCAL_RANK=r, RANK=r, MASTER_PORT=port))
            for r in ("0", "1", "2")
        ]
        assert [rank.wait() for rank in ranks] == [0, 0, 0]
else:
    with incl.init(name=os.environ["MASTER_PORT"]):
        incl.log({"rank": incl.rank})
    incl.init(name="again " + os.environ["MASTER_PORT"])
    incl.log({"rank": incl.rank})
"""
    _, err = run(script, here)
    folders = sorted((here / ".incl" / "runs").iterdir(), key=lambda folder: read(folder / "meta.json")["name"])
    assert [read(folder / "meta.json")["name"] for folder in folders] == ["1", "2", "again 1", "again 2"]
    for folder in folders:
        assert is_id(folder.name)
        assert sorted(record["v"]["rank"] for record in records(folder)) == [0, 1, 2]
        assert read(folder / "end.json")["state"] == "finished"
    assert err.count("incl sync") == 4


def test_odd_arguments_cost_a_warning(here: Path) -> None:
    _, err = run("import incl\nincl.init(config=5, tags='solo', mode='loud')\nincl.log({'a': 1})", here)
    assert read(only_run(here) / "meta.json")["tags"] == ["solo"]
    assert "config takes a dict" in err
    assert "'loud'" in err


def test_online_without_a_platform_is_recorded_with_a_warning(here: Path) -> None:
    _, err = run("import incl\nprint(incl.init(mode='online'))\nincl.log({'a': 1})", here)
    assert "mode=online, but no platform" in err
    assert "incl sync" in err
    assert [record["v"] for record in records(only_run(here)) if record["k"] == "m"] == [{"a": 1}]


def test_disabled_records_nothing(here: Path) -> None:
    for environment in ({}, {"INCL_MODE": "disabled"}):
        mode = "" if environment else "mode='disabled'"
        run(f"import incl\nincl.init({mode})\nincl.log({{'a': 1}})\nincl.checkpoint(b'x', 1)", here, **environment)
    assert [path.name for path in here.iterdir()] == ["script.py"]


def test_a_place_that_cannot_be_written_costs_a_warning(here: Path) -> None:
    (here / "file").write_text("")
    _, err = run(
        "import incl\nincl.init(dir='file')\nincl.log({'a': 1})\nincl.checkpoint(b'x', 1)\nprint(incl.output_dir)", here
    )
    assert "cannot record in" in err


def test_a_damaged_configuration_of_the_platform_is_ignored(here: Path) -> None:
    for damage in ("{", "[1]", "7"):
        _, err = run("import incl\nassert incl.config == {}", here, INCL_HPARAMS=damage)
        assert "INCL_HPARAMS" in err


def test_the_configuration_is_a_dict_with_attributes(here: Path) -> None:
    script = """
import incl
incl.init(config={"lr": 0.1, "deep": {"a": (1, 2)}, "odd": object})
c = incl.config
c.lr = 0.2; c["new"] = "x"; c.update({"LR": 0.3}, more=None)
assert dict(c) == {"lr": 0.3, "deep": {"a": (1, 2)}, "odd": object, "new": "x", "more": None}, c
assert c.get("nothing", 5) == 5 and "lr" in c and len(c) == 5 and c.new == "x"
try: c.nothing
except AttributeError as error: print(error)
del c["new"]
"""
    out, _ = run(script, here)
    assert "no 'nothing' (it has deep, lr, more, new, odd)" in out
    configured = [record["v"] for record in records(only_run(here)) if record["k"] == "p"]
    assert configured[0]["deep"] == {"a": [1, 2]}
    assert configured[1:] == [{"lr": 0.2}, {"new": "x"}, {"LR": 0.3, "more": None}]


def test_the_exit_waits_for_nothing(here: Path) -> None:
    script = """
import incl, atexit, time
t = []
atexit.register(lambda: print(time.perf_counter() - t[0]))
incl.init()
for i in range(1000): incl.log({"a": i})
atexit.register(lambda: t.append(time.perf_counter()))
"""
    out, _ = run(script, here)
    assert float(out) < 0.1


SHIPPER = """
import json, os, pathlib, sys
seen = [sys.argv, os.getsid(0) == os.getpid(), "INCL_RUN_DIR" in os.environ]
target = pathlib.Path(sys.argv[1], "shipper.json")
target.with_suffix(".part").write_text(json.dumps(seen))
target.with_suffix(".part").rename(target)
"""


def test_a_shipper_is_started_where_a_platform_is_known(here: Path) -> None:
    package = here / "lib" / "incl_cli"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "ship.py").write_text(SHIPPER)
    (here / "context.json").write_text("{}")
    script = """
import sys, time, pathlib
sys.path.insert(0, "lib")
import incl
run = incl.init()
end = time.time() + 20
while not (run.directory / "shipper.json").exists() and time.time() < end: time.sleep(0.01)
"""
    places = [str(here / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"INCL_CONTEXT_FILE": str(here / "context.json"), "PYTHONPATH": os.pathsep.join(places)}
    _, err = run(script, here, **environment)
    folder = only_run(here)
    arguments, own_session, leaked = read(folder / "shipper.json")
    assert arguments[1] == str(folder)
    assert own_session
    assert not leaked
    assert "shipped" in err
    _, err = run("import incl\nincl.init(mode='offline')", here, **environment)
    assert "incl sync" in err
