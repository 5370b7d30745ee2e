"""Runs outside the platform on a real one: a notebook goes live, a killed script fails, old runs are brought over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from tensorboardX import SummaryWriter

from incl_local.testing import Home, wait

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*")


class Notebook:
    """A Jupyter kernel in which cells are run."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3", connection_file=str(folder / "kernel.json"))
        self.manager.kernel_spec.argv[0] = sys.executable
        hidden = ("INCL_", "RANK")
        env = {name: value for name, value in home.environment.items() if not name.startswith(hidden)}
        self.manager.start_kernel(cwd=str(folder), env={**env, "PYTHONWARNINGS": "ignore"})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def begin(self, code: str) -> str:
        """Begin a cell."""
        return str(self.client.execute(code))

    def end(self, cell: str, timeout: float = 60) -> tuple[str, str]:
        """(what it printed, the name of its error) once a cell has ended."""
        printed, error = "", ""
        deadline = time.monotonic() + timeout
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed += content["text"]
            elif message["msg_type"] == "error":
                error = content["ename"]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return printed, error

    def run(self, code: str) -> tuple[str, str]:
        """A cell, to its end."""
        return self.end(self.begin(code))

    @property
    def pid(self) -> int:
        """The kernel's process."""
        return int(self.manager.provisioner.pid)

    def close(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def notebook(home: Home, project: Path) -> Iterator[Notebook]:
    opened = Notebook(home, project)
    yield opened
    opened.close()


def run_of(printed: str) -> str:
    """The end of the id that init() tells."""
    (line,) = [line for line in printed.splitlines() if line.startswith("incl: ")]
    found = re.match(r"incl: run (\w{8}) ", line)
    assert found is not None, printed
    return found[1]


def until(home: Home, run: str, state: str) -> Any:
    """What is shown of a run once it is in a state; the platform may hear of it a moment later than we."""

    def look() -> Any:
        shown = home.incl("show", run, "--json")
        return shown.code == 0 and shown.json["row"]["state"] == state and shown.json

    return wait(look, 60, f"{run} is {state}")


def settled(home: Home, run: str, state: str) -> Any:
    """The same, once every record is accounted for."""
    return wait(lambda: (view := until(home, run, state))["settled"] and view, 60, f"{run} is settled")


def points(home: Home, run: str) -> int:
    result = home.incl("show", run, "--json")
    return int(result.json["points"]) if result.code == 0 else 0


def test_a_notebook_goes_live_and_its_runs_end_rightly(home: Home, notebook: Notebook) -> None:
    printed, error = notebook.run(
        "import incl\nrun = incl.init(name='first', config={'lr': 0.1})\nincl.log({'x': 0.0})"
    )
    assert error == ""
    assert printed.count("\n") == 1
    first = run_of(printed)
    cell = notebook.begin(
        "import time, pathlib\n"
        "for i in range(1, 3000):\n"
        "    incl.log({'x': float(i)}, step=i)\n"
        "    if pathlib.Path('enough').exists(): break\n"
        "    time.sleep(0.02)\n"
        "last = i"
    )
    wait(lambda: points(home, first) >= 20, 40, "points while the cell runs")
    assert home.show(first)["row"]["state"] == "running"
    notebook.manager.interrupt_kernel()
    assert notebook.end(cell)[1] == "KeyboardInterrupt"
    assert notebook.run("raise ValueError('a mistake')")[1] == "ValueError"
    printed, _ = notebook.run("incl.log({'y': 1.0}, step=1)\nprint(i)")
    count = int(printed.split()[-1]) + 2
    printed, _ = notebook.run("other = incl.init(name='second')\nincl.log({'z': 1.0})")
    second = run_of(printed)
    view = settled(home, first, "finished")
    assert (view["points"], view["gaps"], view["message"]) == (count, 0, "")
    assert (view["row"]["name"], view["config"]["lr"]) == ("first", "0.1")
    assert until(home, second, "running")["row"]["name"] == "second"
    assert notebook.run("incl.finish()")[1] == ""
    assert until(home, second, "finished")["points"] == 1
    printed, _ = notebook.run("incl.init(name='third')\nincl.log({'z': 1.0})")
    third = run_of(printed)
    notebook.client.stop_channels()
    notebook.manager.restart_kernel()
    assert until(home, third, "finished")["points"] == 1
    notebook.client = notebook.manager.blocking_client()
    notebook.client.start_channels()
    notebook.client.wait_for_ready(timeout=60)


def test_a_killed_kernel_is_a_failed_run(home: Home, notebook: Notebook) -> None:
    printed, _ = notebook.run("import incl\nincl.init()\nfor i in range(100): incl.log({'x': i}, step=i)")
    run = run_of(printed)
    os.kill(notebook.pid, signal.SIGKILL)
    view = settled(home, run, "failed")
    assert "without a word" in view["message"]
    assert (view["points"], view["gaps"]) == (100, 0)


SCRIPT = """
import incl, os, sys
run = incl.init(mode=sys.argv[1])
for i in range(1000): incl.log({"x": i}, step=i)
print(run.id, flush=True)
sys.stdin.read()
"""


def script(home: Home, folder: Path, mode: str) -> tuple[subprocess.Popen[str], str]:
    environment = {**home.environment, "INCL_QUIET": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, mode], cwd=folder, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


def shipper_of(run: str) -> int | None:
    """The pid of the shipper beside a run of this test."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"incl_cli.ship" in words and any(word.endswith(run.encode()) for word in words):
                return int(entry.name)
    return None


def test_when_the_shipper_dies_with_the_script_sync_ends_the_run(home: Home, project: Path) -> None:
    child, run = script(home, project, "auto")
    wait(lambda: points(home, run) > 0, 30, "the first points")
    shipper = wait(lambda: shipper_of(run), 10, "the shipper")
    os.kill(shipper, signal.SIGKILL)
    child.kill()
    child.communicate()
    assert home.show(run)["row"]["state"] == "running"
    done = home.incl("sync", cwd=project)
    assert done.code == 0, done.err
    assert "failed" in done.err
    view = settled(home, run, "failed")
    assert "without a word" in view["message"]
    assert (view["points"], view["gaps"]) == (1000, 0)


def _cut(home: Home, project: Path, run: str) -> None:
    """A sync that is killed once some of what it sends has come."""
    known, syncing = points(home, run), home.start("sync", cwd=project)
    wait(lambda: points(home, run) > known or syncing.poll() is not None, 30, "some more points")
    syncing.kill()
    syncing.communicate()


def test_sync_while_it_goes_on_cut_off_and_again(home: Home, project: Path) -> None:
    child, run = script(home, project, "offline")
    done = home.incl("sync", cwd=project)
    assert "runs still" in done.err
    wait(lambda: points(home, run) == 1000, 30, "the points so far")
    assert home.show(run)["row"]["state"] == "running"
    child.communicate("", timeout=30)
    spool = next((project / ".incl" / "runs" / run / "spool").glob("*.jsonl"))
    line = spool.read_text().splitlines()[-1]
    with spool.open("a") as file:
        file.writelines(re.sub(r'"s":\d+', f'"s":{step}', line) + "\n" for step in range(1000, 60_000))
    for _ in range(3):
        _cut(home, project, run)
    done = home.incl("sync", cwd=project)
    assert done.code == 0, done.err
    view = settled(home, run, "finished")
    assert (view["row"]["state"], view["points"], view["gaps"]) == ("finished", 60_000, 0)
    assert "shipped already" in home.incl("sync", cwd=project).err


def test_an_interrupted_sync_says_how_to_go_on(home: Home, project: Path) -> None:
    child, run = script(home, project, "offline")
    spool = next((project / ".incl" / "runs" / run / "spool").glob("*.jsonl"))
    line = spool.read_text().splitlines()[-1]
    with spool.open("a") as file:
        file.writelines(line + "\n" for _ in range(200_000))
    syncing = home.start("sync", ".incl", cwd=project)
    lock = project / ".incl" / "runs" / run / "ship" / "lock"
    wait(lambda: lock.exists() or syncing.poll() is not None, 30, "the sync has begun")
    syncing.send_signal(signal.SIGINT)
    _, err = syncing.communicate(timeout=30)
    assert syncing.returncode == 130
    assert "go on with: incl sync .incl" in err
    child.communicate("", timeout=30)


def test_old_runs_are_brought_over_once(home: Home, project: Path) -> None:
    writer = SummaryWriter(str(project / "runs" / "old"))
    for step in range(500):
        writer.add_scalar("loss", 1 / (step + 1), step)
    writer.add_text("note", "hello", 3)
    writer.close()
    done = home.incl("import", "tensorboard", "runs", "--tag", "archive", "--json", cwd=project)
    assert done.code == 0, done.err
    (one,) = done.json
    assert (one["status"], one["points"], one["media"]) == ("imported", 500, 1)
    view = settled(home, one["id"], "finished")
    assert (view["row"]["state"], view["points"], view["gaps"]) == ("finished", 500, 0)
    assert view["row"]["tags"] == ["archive"]
    assert [found["path"] for found in view["artifacts"]] == ["note/3/note.txt"]
    writer = SummaryWriter(str(project / "runs" / "old"))
    writer.add_scalar("loss", 0.0, 500)
    writer.close()
    again = home.incl("import", "tensorboard", "runs", "--json", cwd=project).json
    assert [(found["id"], found["status"], found["new_records"]) for found in again] == [(one["id"], "grown", 1)]
    wait(lambda: points(home, one["id"]) == 501, 30, "the new point")
    view = settled(home, one["id"], "finished")
    assert (view["points"], view["gaps"]) == (501, 0)
    last = home.incl("import", "tensorboard", "runs", "--json", cwd=project)
    assert last.json[0]["status"] == "known"
    assert "nothing is new" in last.err
    wrong = home.incl("import", "tensorboard", "nowhere", cwd=project)
    assert wrong.code == 4
    assert "hint:" in wrong.err
