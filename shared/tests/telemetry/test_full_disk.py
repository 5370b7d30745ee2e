"""A full disk on the node, a real one: training goes on, what is lost is counted, and there is an end to it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from incl_shared.telemetry import OUT, LogSource, LogTailer, MetricSource, Shipper
from incl_shared.telemetry.batcher import decode_logs, decode_metrics
from incl_shared.testing.telemetry import points_of

SCRIPT = """
import incl, sys
for i in range(4000): incl.log({"a": float(i), "b": 2.0}, step=i)
print("full", flush=True)
sys.stdin.readline()
import time
time.sleep(1.1)
for i in range(4000, 4010): incl.log({"a": float(i), "b": 2.0}, step=i)
incl.finish()
print("trained on")
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Bus:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.sent.append(payload)


class Clock:
    def now(self) -> float:
        return time.time()


async def test_a_full_spool_drops_and_counts_and_recovers(small_disk: Path) -> None:
    spool, ballast = small_disk / "spool", small_disk / "ballast"
    spool.mkdir()
    ballast.write_bytes(b"x" * 100_000)
    environment = {**os.environ, "INCL_SPOOL_DIR": str(spool), "INCL_EXPERIMENT_ID": "x"}
    bus = Bus()
    source = MetricSource(spool, small_disk / "metrics.json")
    shipper = Shipper(source, bus.publish, subject="s", job="j")
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "full\n"
        assert await shipper.step()
        assert source.journal.failing, "it cannot be written, and that stops nothing"
        ballast.unlink()
        out, _ = await asyncio.to_thread(process.communicate, "go\n")
        assert (process.returncode, out) == (0, "trained on\n")
    assert await shipper.flush(10.0)
    assert not source.journal.failing
    found = [point for payload in bus.sent for point in points_of(decode_metrics(payload)).get("a", [])]
    steps = [step for _, step, _, _ in found]
    assert steps == sorted(set(steps)) and steps[-10:] == list(range(4000, 4010))
    assert [value for _, _, _, value in found] == [float(step) for step in steps]
    dropped = sum(count.dropped for count in source.counts())
    assert len(steps) + dropped == 4010 and dropped > 0


@pytest.mark.parametrize("end", ["incl.finish()", "os.kill(os.getpid(), 9)"])
@pytest.mark.parametrize("width", range(0, 60, 7))
def test_what_a_process_dropped_is_counted_though_there_is_never_room(small_disk: Path, end: str, width: int) -> None:
    spool = small_disk / "spool"
    spool.mkdir()
    logged = f"for i in range(9000): incl.log({{'a{'b' * width}': float(i)}}, step=i)"
    environment = {**os.environ, "INCL_SPOOL_DIR": str(spool), "INCL_EXPERIMENT_ID": "x"}
    command = [sys.executable, "-c", f"import incl, os\n{logged}\n{end}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -9) and "dropped" in done.stderr
    source = MetricSource(spool, small_disk / "metrics.json")
    source.seal()
    (count,) = source.counts()
    source.close()
    assert count.dropped > 1 and count.records + count.dropped == 9000


async def test_a_full_disk_holds_the_log_back_and_loses_no_line(small_disk: Path, tmp_path: Path) -> None:
    output, bus = tmp_path / "stdout.log", Bus()
    tailer = LogTailer({OUT: output}, small_disk / "log.index")
    shipper = Shipper(LogSource(tailer, small_disk / "logs.json", Clock()), bus.publish, subject="s", job="j")
    output.write_text("one\n")
    assert await shipper.step() == 1
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    shown = 0
    while shipper.shipped.failures == 0 and shown < 2000:
        with output.open("a") as file:
            file.write(f"{shown}\n")
        shown += 1
        await shipper.step()
    assert "index of the log cannot be written" in shipper.shipped.last_error
    ballast.unlink()
    assert await shipper.flush(10.0)
    lines = [line.text for payload in bus.sent for line in decode_logs(payload).lines]
    assert lines == ["one", *map(str, range(shown))]
    tailer.close()
