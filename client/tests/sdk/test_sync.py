"""`incl sync` of what a machine without a server wrote: all of it, once, whatever comes between."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from incl_cli.context import Context, save_context
from incl_cli.rundir import FOREIGN_S, UNSAID, RunDirectory, boot_id
from incl_cli.ship import sync
from incl_cli.ship_fake import Platform
from incl_shared.errors import ConflictError
from incl_shared.states import ExperimentState
from incl_shared.testing.wait import until

RANKS = """
import incl, sys
run = incl.init()
for i in range(500): incl.log({"x": i}, step=i)
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "my project"
    folder.mkdir()
    before = {name: os.environ.get(name) for name in ("INCL_CONTEXT_FILE", "INCL_HOME")}
    os.environ["INCL_CONTEXT_FILE"] = str(tmp_path / "context.json")
    os.environ["INCL_HOME"] = str(tmp_path / "home")
    save_context(Context(("nats://127.0.0.1:1",), None, "default", "ann"))
    yield folder
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def start(script: str, cwd: Path, **more: str) -> subprocess.Popen[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("INCL_", "RANK"))}
    environment = {**clean, "INCL_MODE": "offline", "INCL_QUIET": "1", **more}
    return subprocess.Popen([sys.executable, "-c", script], cwd=cwd, env=environment, stdin=subprocess.DEVNULL)


def only_run(cwd: Path) -> RunDirectory:
    (path,) = (cwd / ".incl" / "runs").glob("*")
    return RunDirectory.open(path)


def record(script: str, cwd: Path) -> RunDirectory:
    assert start(script, cwd).wait(60) == 0
    return only_run(cwd)


async def test_the_ranks_of_a_launch_are_one_run_with_every_point(here: Path) -> None:
    launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "one"}
    ranks = [start(RANKS, here, RANK=str(rank), LOCAL_RANK=str(rank), **launch) for rank in range(3)]
    assert [rank.wait(60) for rank in ranks] == [0, 0, 0]
    run = only_run(here)
    for spool in sorted(run.spool.glob("*.jsonl"))[:2]:
        with spool.open("ab") as file:
            file.write(b'{"k":"m","t":1.0,"s":')  # killed within its last line
    platform = Platform()
    await sync([here], begin=platform.begin)
    assert sorted(platform.values("x")) == sorted(float(i) for i in range(500) for _ in range(3))
    (ended,) = platform.ended
    assert sorted((writer.records, writer.dropped) for writer in ended.writers) == [(500, 0), (500, 1), (500, 1)]
    assert platform.gaps(run.id) == 0


async def test_a_hundred_thousand_records_cut_off_again_and_again(here: Path) -> None:
    run = record("import incl\nincl.init()\nfor i in range(100_000): incl.log({'x': i}, step=i)", here)
    platform = Platform()
    for cut in (1, 3, 5, 7):
        task = asyncio.create_task(sync([here], begin=platform.begin))
        while len(platform.batches) < cut and not task.done():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if cut == 5:
            shutil.rmtree(run.notes)  # what the shipper remembered is lost
    assert not run.shipped
    await sync([here], begin=platform.begin)
    assert sorted(platform.values("x")) == [float(i) for i in range(100_000)]
    assert platform.gaps(run.id) == 0
    assert run.shipped


async def test_two_at_once_do_not_meet(here: Path) -> None:
    run = record(RANKS, here)
    platform = Platform()
    said: list[str] = []
    await asyncio.gather(
        sync([here], begin=platform.begin, say=said.append), sync([here], begin=platform.begin, say=said.append)
    )
    assert len(platform.values("x")) == 500
    assert len(platform.ended) == 1
    assert sorted("ships it" in text for text in said) == [False, True] or "shipped already" in "".join(said)
    assert run.shipped


class Fading(Platform):
    """Goes away once it has a batch."""

    def take(self, run: str, payload: bytes) -> None:
        super().take(run, payload)
        self.down = self.down or len(self.batches) == 1


async def test_a_platform_that_goes_away_in_the_middle(here: Path) -> None:
    run = record("import incl\nincl.init()\nfor i in range(100_000): incl.log({'x': i}, step=i)", here)
    platform = Fading()
    task = asyncio.create_task(sync([here], begin=platform.begin))
    await until(lambda: platform.down)
    assert not task.done()
    assert 0 < len(platform.values("x")) < 100_000
    platform.down = False
    await asyncio.wait_for(task, 30)
    assert sorted(platform.values("x")) == [float(i) for i in range(100_000)]
    assert platform.gaps(run.id) == 0


READ_ONLY = """
import asyncio, json, sys
from pathlib import Path
from incl_cli.ship import sync
from incl_cli.ship_fake import Platform
platform = Platform()
asyncio.run(sync([Path(sys.argv[1])], begin=platform.begin, say=print))
print(json.dumps([len(platform.values("x")), len(platform.ended), len(platform.entries)]))
"""


def test_a_run_on_a_disk_that_cannot_be_written(here: Path) -> None:
    run = record(RANKS + "incl.log_text('note', 'hello')", here)
    command = [sys.executable, "-c", READ_ONLY, str(run.path)]
    if os.getuid() == 0:
        place = str(run.path)
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
            pytest.skip("root without mount namespaces can write everywhere")
        command = ["unshare", "-m", "sh", "-c", mount, place, *command]
    else:
        for folder in (run.path, run.spool):
            folder.chmod(0o555)
    try:
        for expected in ([500, 1, 1], [0, 0, 0]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout.splitlines()[-1]) == expected
    finally:
        for folder in (run.path, run.spool):
            folder.chmod(0o755)
    assert not (run.path / "ship").exists()


async def test_a_run_that_was_copied_from_another_machine(here: Path, tmp_path: Path) -> None:
    script = RANKS + "incl.checkpoint(b'weights', step=5, name='m.pt')\nincl.log_text('note', 'hello', step=7)"
    run = record(script, here)
    copied = tmp_path / "usb stick" / run.id
    shutil.copytree(run.path, copied)
    shutil.rmtree(run.path)
    spool = next((copied / "spool").glob("*.jsonl"))
    with spool.open("a") as file:
        leak = {"k": "f", "t": 1.0, "s": 1, "kind": "file", "key": "x", "file": "/files/../../x", "name": "x"}
        file.write(json.dumps(leak, separators=(",", ":")) + "\n")
    platform = Platform()
    await sync([copied], begin=platform.begin)
    files = platform.files()
    assert files[("checkpoint", "5/m.pt")] == b"weights"
    assert files[("media", "note/7/note.txt")] == b"hello"
    assert len(files) == 2


async def test_whose_process_it_was(here: Path) -> None:
    run = record(RANKS, here)
    (run.path / "end.json").unlink()
    mine: dict[str, Any] = {**run.meta, "pid": os.getpid(), "pid_started": None}
    assert RunDirectory(run.path, mine).alive()
    assert not RunDirectory(run.path, {**mine, "boot": "an earlier one"}).alive()
    assert RunDirectory(run.path, {**mine, "boot": boot_id()}).alive()
    elsewhere = RunDirectory(run.path, {**mine, "host": "another-machine", "pid": 1})
    assert elsewhere.alive()
    assert elsewhere.end() is None
    old = time.time() - FOREIGN_S - 60
    for spool in run.spool.glob("*.jsonl"):
        os.utime(spool, (old, old))
    elsewhere = RunDirectory(run.path, {**elsewhere.meta, "started": old})
    assert not elsewhere.alive()
    end = elsewhere.end()
    assert end is not None
    assert (end.state, end.message) == (ExperimentState.FAILED, UNSAID)
    with run.held(), pytest.raises(ConflictError), run.held():
        pass


def test_a_dead_process_that_nobody_waited_for_is_dead(here: Path) -> None:
    child = start("import incl, os\nincl.init()\nincl.log({'x': 1})\nos.kill(os.getpid(), 9)", here)
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not waited for: a zombie
        run = only_run(here)
        assert run.meta["pid"] == child.pid
        assert not run.alive()
        assert not run.writing()
    finally:
        child.wait(10)


def test_who_made_a_run_and_ended_it_is_not_waited_for(here: Path) -> None:
    child = start("import incl, time\nincl.init()\nincl.log({'x': 1})\nincl.finish()\ntime.sleep(60)", here)
    try:
        runs = here / ".incl" / "runs"
        deadline = time.monotonic() + 30
        while not list(runs.glob("*/end.json")) and time.monotonic() < deadline:
            os.sched_yield()
        run = only_run(here)
        assert run.alive()
        assert not run.writing()
        assert RunDirectory(run.path, {**run.meta, "pid": 1}).writing()
    finally:
        child.kill()
        child.wait(10)
