"""The shim alone: it must be right when everything around it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from pathlib import Path

from incl_agent.jobfiles import JobFiles
from incl_agent.process import Identity, ProcessHandle, boot_id, compile_shim, read_line, spawn_shim, stat_fields
from incl_agent.runtimes import Launch
from incl_shared.control import JobSpec, JobWanted, Wanted
from incl_shared.ids import new_id
from incl_shared.testing.wait import until


def launch(folder: Path, *argv: str, grace_s: float = 5.0) -> Launch:
    return Launch(argv, {"PATH": os.environ["PATH"]}, folder, grace_s, None)


async def wait_for(files: JobFiles) -> None:
    identity = files.shim()
    assert identity is not None
    handle = ProcessHandle.open(identity)
    if handle is not None:
        await asyncio.wait_for(handle.wait(), 10)
        handle.close()


async def test_of_many_shims_one_runs_the_job(tmp_path: Path) -> None:
    command = launch(tmp_path, "sh", "-c", "echo ran >> count; sleep 0.2")
    pipes = [spawn_shim(tmp_path, command) for _ in range(6)]
    words = await asyncio.gather(*(read_line(pipe) for _, pipe in pipes))
    assert sorted(words) == ["", "", "", "", "", "started"]
    await wait_for(JobFiles(tmp_path))
    for pid, _ in pipes:
        await until(lambda pid=pid: reaped(pid))
    assert (tmp_path / "count").read_text() == "ran\n"


async def test_a_barred_folder_runs_nothing(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    assert files.bar_shims()
    assert files.bar_shims()
    pid, pipe = spawn_shim(tmp_path, launch(tmp_path, "sh", "-c", "echo ran > count"))
    assert await read_line(pipe) == ""
    await until(lambda: reaped(pid))
    assert not (tmp_path / "count").exists()


async def test_a_folder_with_a_shim_cannot_be_barred(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    _, pipe = spawn_shim(tmp_path, launch(tmp_path, "sleep", "60"))
    assert await read_line(pipe) == "started"
    assert not files.bar_shims()
    identity = files.shim()
    assert identity is not None
    os.kill(identity.pid, signal.SIGTERM)
    await wait_for(files)
    found = JobFiles(tmp_path).exit()
    assert found is not None
    assert (found.signal, found.cause) == (15, "stop")


async def test_the_command_has_clean_signals_and_no_foreign_descriptors(tmp_path: Path) -> None:
    script = (
        "import os,signal;print(signal.getsignal(signal.SIGPIPE), sorted(os.listdir('/proc/self/fd'))[:4], "
        "signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getpgrp()==os.getpid())"
    )
    _, pipe = spawn_shim(tmp_path, launch(tmp_path, sys.executable, "-c", script))
    assert await read_line(pipe) == "started"
    await wait_for(JobFiles(tmp_path))
    said = (tmp_path / "stdout.log").read_text()
    # Python itself ignores SIGPIPE at its start; descriptor 3 is the listing's own.
    assert "['0', '1', '2', '3'] set() True" in said, (tmp_path / "stderr.log").read_text()


async def test_orphans_of_two_forks_are_ended(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        open('pid', 'w').write(str(os.getpid()))\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "while not os.path.exists('pid') or not open('pid').read(): time.sleep(0.01)\n"
    )
    _, pipe = spawn_shim(tmp_path, launch(tmp_path, sys.executable, "-c", script))
    await read_line(pipe)
    await wait_for(JobFiles(tmp_path))
    fields = stat_fields(int((tmp_path / "pid").read_text()))
    assert fields is None or fields[0] == b"Z"


async def test_it_starts_quickly(tmp_path: Path) -> None:
    compiled = compile_shim(tmp_path)
    times = []
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        began = time.perf_counter()
        _, pipe = spawn_shim(folder, launch(folder, "true"), compiled)
        assert await read_line(pipe) == "started"
        times.append(time.perf_counter() - began)
        await wait_for(JobFiles(folder))
    assert statistics.median(times) < 0.5


def test_an_identity_is_more_than_a_pid() -> None:
    fields = stat_fields(os.getpid())
    assert fields is not None
    start = int(fields[19])
    assert Identity(os.getpid(), start, boot_id()).alive()
    assert not Identity(os.getpid(), start + 1, boot_id()).alive()
    assert not Identity(os.getpid(), start, "another boot").alive()
    assert ProcessHandle.open(Identity(os.getpid(), start + 1, boot_id())) is None


def test_a_half_deleted_folder_is_no_job(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "job")
    wanted = JobWanted(
        experiment=new_id(), project="p", user="u", attempt=1, rank=0, wanted=Wanted.RUN,
        spec=JobSpec(name="n", command=("true",)),
    )  # fmt: skip
    files.create(wanted)
    assert files.load_wanted() == wanted
    (files.root / "job.json").write_text('{"cut')
    assert files.load_wanted() is None
    files.remove()
    assert not files.root.exists()


def reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
