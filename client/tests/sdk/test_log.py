"""incl.log: what goes in comes out, whatever it is, from wherever it is called, and it never raises."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import incl
from incl import _state
from incl._warn import forget
from incl_shared.telemetry.records import Scalars, scalars
from incl_shared.testing.telemetry import record_of


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Path]:
    """A spool as the platform gives it, in a path with a space."""
    folder = tmp_path / "the spool"
    folder.mkdir()
    previous = os.environ.get("INCL_SPOOL_DIR")
    os.environ["INCL_SPOOL_DIR"] = str(folder)
    _state.reset()
    forget()
    yield folder
    _state.reset()
    if previous is None:
        del os.environ["INCL_SPOOL_DIR"]
    else:
        os.environ["INCL_SPOOL_DIR"] = previous


def records(spool: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted(spool.glob("*.jsonl")):
        data = file.read_bytes()
        assert data == b"" or data.endswith(b"\n")
        found += [record_of(line) for line in data.splitlines()]
    return found


def values(spool: Path) -> list[dict[str, Any]]:
    return [record["v"] for record in records(spool) if record["k"] == "m"]


class Tensor:
    """As torch's: item() and __float__ for one element, an error for more."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers
        self.shape = (len(numbers),)

    def item(self) -> float:
        if len(self.numbers) != 1:
            raise RuntimeError("a Tensor with several elements cannot be converted to Scalar")
        return self.numbers[0]

    def __float__(self) -> float:
        return float(self.item())


def test_numbers_of_every_kind_are_kept(spool: Path) -> None:
    logged = {
        "float": 0.25,
        "int": 3,
        "bool": True,
        "numpy": np.float32(0.5),
        "numpy int": np.int64(-7),
        "numpy bool": np.bool_(False),
        "zero-d": np.array(1.5),
        "one": np.array([[2.5]]),
        "tensor": Tensor(3.5),
        "decimal": Decimal("4.5"),
        "fraction": Fraction(1, 4),
        "big": 2**60,
        "huge": 10**400,
    }
    incl.log(logged, step=7)
    (record,) = records(spool)
    assert record["s"] == 7
    assert record["v"] == {
        "float": 0.25,
        "int": 3,
        "bool": 1,
        "numpy": 0.5,
        "numpy int": -7,
        "numpy bool": 0,
        "zero-d": 1.5,
        "one": 2.5,
        "tensor": 3.5,
        "decimal": 4.5,
        "fraction": 0.25,
        "big": float(2**60),
        "huge": math.inf,
    }


def test_not_a_number_and_infinities_stay(spool: Path) -> None:
    for _ in range(2):
        incl.log({"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float64("nan"), "e": 1.0}, step=0)
        incl.log({"a": math.nan, "b": -math.inf}, step=1)
    text = next(spool.glob("*.jsonl")).read_text()
    assert '"b":Infinity,"c":-Infinity,"d":NaN' in text
    found = values(spool)
    assert [list(record) for record in found] == [["a", "b", "c", "d", "e"], ["a", "b"]] * 2
    assert all(math.isnan(record["a"]) for record in found)
    assert [record["b"] for record in found] == [math.inf, -math.inf] * 2


def test_what_is_no_number_is_dropped_with_one_warning(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __float__(self) -> float:
            raise ZeroDivisionError

    for step in range(3):
        incl.log(
            {
                "text": "high",
                "none": None,
                "many": Tensor(1, 2),
                "array": np.zeros(3),
                "complex": 1j,
                "broken": Broken(),
            },
            step=step,
        )
        incl.log({"text": "high", "ok": 1}, step=step)
    assert values(spool) == [{"ok": 1}] * 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "wrong", [None, 3, "text", [("a", 1)], {1, 2}, object()], ids=lambda wrong: type(wrong).__name__
)
def test_anything_but_a_dict_is_dropped(spool: Path, wrong: Any, capsys: pytest.CaptureFixture[str]) -> None:
    incl.log(wrong)
    incl.log({})
    assert not list(spool.iterdir())
    assert "dict" in capsys.readouterr().err


def test_nested_names_odd_names_and_long_names(spool: Path) -> None:
    incl.log({"val": {"acc": {"top1": 0.5}, 5: 1}, ("a", 1): 2, "new\nline": 3, "": 4, "x" * 400: 5, "ä\ud800": 6})
    (record,) = values(spool)
    assert record["val/acc/top1"] == 0.5
    assert record["val/5"] == 1
    assert record["('a', 1)"] == 2
    assert record["new_line"] == 3
    assert record["_"] == 4
    assert record["x" * 250] == 5
    assert record["ä_"] == 6


def test_a_dict_that_holds_itself_ends(spool: Path) -> None:
    endless: dict[str, Any] = {"a": 1}
    endless["self"] = endless
    incl.log(endless)
    assert values(spool)[0]["a"] == 1


def test_steps(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (None, None, 5, np.int64(6), 7.0, Tensor(8), True, None, "abc", math.nan, 2**70, 10**400, -3):
        incl.log({"a": 1.0}, step=step)  # type: ignore[arg-type]
    assert [record["s"] for record in records(spool)] == [0, 1, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, -3]
    assert "is no step" in capsys.readouterr().err


def test_great_steps_are_exact(spool: Path) -> None:
    steps = (-(2**63), 2**63 - 1, np.int64(2**62 + 1), np.uint64(2**53 + 1), np.int64(-(2**63)))
    for step in steps:
        incl.log({"a": 1.0}, step=step)  # type: ignore[arg-type]
    assert [record["s"] for record in records(spool)] == [int(step) for step in steps]


def test_thousands_of_values_become_records_of_a_size_that_can_travel(spool: Path) -> None:
    incl.log({f"layer{i}": float(i) for i in range(2500)}, step=1)
    incl.log({f"layer{i}": float(i) for i in range(2500)}, step=1)
    found = values(spool)
    assert [len(record) for record in found] == [1000, 1000, 500] * 2
    assert {name for record in found for name in record} == {f"layer{i}" for i in range(2500)}


def test_the_quick_way_and_the_careful_way_write_the_same(spool: Path) -> None:
    sample = {"a/b": 0.1, "n": 3, "ä": 1e300, "big": 2**53}
    for _ in range(3):
        incl.log(sample, step=1)
    incl.log({**sample, "n": 2**53 + 2}, step=1)
    incl.log({**sample, "n": 10**400}, step=1)
    incl.log({**sample, "n": True}, step=1)
    lines = next(spool.glob("*.jsonl")).read_text().splitlines()
    assert ['"v":' in line for line in lines] == [True, False, False, False, True, True]
    found = records(spool)
    assert found[0]["v"] == found[1]["v"] == found[2]["v"] == sample
    assert [list(record["v"]) for record in found] == [list(sample)] * 6
    assert [record["v"]["n"] for record in found[3:]] == [float(2**53 + 2), math.inf, 1]
    assert all(scalars(line.encode()) == record_scalars(record) for line, record in zip(lines, found, strict=True))


def record_scalars(record: dict[str, Any]) -> Scalars:
    return Scalars(record["t"], record["s"], {name: float(value) for name, value in record["v"].items()})


def test_nothing_is_recorded_without_a_run_and_that_is_said_once(tmp_path: Path) -> None:
    script = "import incl\nfor _ in range(3): incl.log({'a': 1})\nincl.alert('x')\nincl.checkpoint(b'1', 1)"
    done = run_python(script, tmp_path, {})
    assert done.stderr.count("\n") == 1
    assert "incl.init()" in done.stderr
    assert list(tmp_path.iterdir()) == []


def run_python(script: str, cwd: Path, environment: dict[str, str], python: str = sys.executable) -> Any:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INCL_")}
    clean["HOME"] = clean["INCL_HOME"] = str(cwd)
    return subprocess.run(
        [python, "-c", script],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_threads_lose_nothing_and_tear_nothing(spool: Path) -> None:
    def work(number: int) -> None:
        for step in range(500):
            incl.log({"thread": number, "x": step}, step=step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(spool.glob("*.jsonl"))) == 1
    seen = {(record["thread"], record["x"]) for record in values(spool)}
    assert seen == {(number, step) for number in range(8) for step in range(500)}


WORKERS = """
import incl, multiprocessing, sys
def child(number):
    for step in range(50): incl.log({"child": number, "x": step})
if __name__ == "__main__":
    incl.log({"child": -1, "x": 0})
    context = multiprocessing.get_context(sys.argv[1])
    workers = [context.Process(target=child, args=(number,)) for number in range(3)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    incl.log({"child": -1, "x": 1})
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_processes_have_a_spool_each(tmp_path: Path, spool: Path, method: str) -> None:
    program = tmp_path / "workers.py"
    program.write_text(WORKERS)
    environment = {**os.environ, "INCL_SPOOL_DIR": str(spool)}
    subprocess.run([sys.executable, str(program), method], env=environment, timeout=60, check=True)
    assert len(list(spool.glob("*.jsonl"))) == 4
    found = values(spool)
    assert len(found) == 152
    assert {(v["child"], v["x"]) for v in found} == {(-1, 0), (-1, 1)} | {(c, x) for c in range(3) for x in range(50)}
    assert {record["s"] for record in records(spool) if record["v"]["child"] == 0} == set(range(50))


def test_fork_while_other_threads_log(tmp_path: Path, spool: Path) -> None:
    script = """
import incl, os, threading
stop = threading.Event()
def work():
    while not stop.is_set(): incl.log({"parent": 1.0})
threads = [threading.Thread(target=work) for _ in range(3)]
for t in threads: t.start()
for number in range(20):
    pid = os.fork()
    if pid == 0:
        incl.log({"child": number}); os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for t in threads: t.join()
"""
    run_python(script, tmp_path, {"INCL_SPOOL_DIR": str(spool), "PYTHONWARNINGS": "ignore"})
    assert sorted(record["child"] for record in values(spool) if "child" in record) == list(range(20))
    assert len(list(spool.glob("*.jsonl"))) == 21


def test_ranks_show_in_the_name_of_their_writer(tmp_path: Path, spool: Path) -> None:
    for rank in ("3", "not a number"):
        run_python("import incl; incl.log({'a': 1})", tmp_path, {"INCL_SPOOL_DIR": str(spool), "RANK": rank})
    names = sorted(file.name for file in spool.glob("*.jsonl"))
    assert [name[0] for name in names] == ["p", "r"]
    assert names[1].startswith("r3-")


def test_a_killed_process_keeps_all_that_it_logged(tmp_path: Path, spool: Path) -> None:
    script = """
import incl, os, signal
for step in range(1000):
    incl.log({"x": step}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "INCL_SPOOL_DIR": str(spool)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [v["x"] for v in values(spool)] == list(range(1000))


def test_a_signal_handler_may_log_while_its_thread_logs(tmp_path: Path, spool: Path) -> None:
    script = """
import incl, signal
hits = [0]
def handler(number, frame):
    hits[0] += 1
    incl.log({"handler": hits[0]})
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
for step in range(20000):
    incl.log({"x": step})
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(hits[0])
"""
    done = run_python(script, tmp_path, {"INCL_SPOOL_DIR": str(spool)})
    found = values(spool)
    assert [v["x"] for v in found if "x" in v] == list(range(20000))
    assert sum("handler" in v for v in found) == int(done.stdout) > 0


def test_an_interrupt_leaves_whole_lines(tmp_path: Path, spool: Path) -> None:
    script = """
import incl, signal, itertools
def handler(number, frame): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
for _ in range(200):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0007)
        for step in itertools.count(): incl.log({"x": step, "text": "no"})
    except KeyboardInterrupt:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
incl.log({"end": 1})
"""
    run_python(script, tmp_path, {"INCL_SPOOL_DIR": str(spool)})
    found = values(spool)
    assert found[-1] == {"end": 1}
    assert sum(v.get("x") == 0 for v in found) <= 200


def limited(script: str, spool: Path, limit: int, tmp_path: Path) -> Any:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    environment = {**os.environ, "INCL_SPOOL_DIR": str(spool), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        preexec_fn=lower,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_a_file_that_takes_no_more_is_followed_by_another(tmp_path: Path, spool: Path) -> None:
    done = limited("import incl\nfor x in range(200): incl.log({'x': x}, step=x)", spool, 2000, tmp_path)
    files = list(spool.glob("*.jsonl"))
    assert len(files) > 3
    complete, torn, told = [], 0, 0
    for file in files:
        *lines, rest = file.read_bytes().split(b"\n")
        torn += bool(rest)
        complete += [record_of(line) for line in lines]
        told += sum(record["n"] for record in map(json.loads, lines) if record["k"] == "d")
    kept = {record["v"]["x"] for record in complete if record["k"] == "m"}
    assert len(kept) + torn + told == 200
    assert done.stderr.count("\n") <= 2


def test_a_full_disk_drops_counts_and_goes_on(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root for a tiny file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        script = f"""
import incl, os
ballast = {str(disk / "ballast")!r}
open(ballast, "wb").write(b"x" * 4096)
for x in range(400): incl.log({{"x": x}}, step=x)
os.unlink(ballast)
for x in range(400, 410): incl.log({{"x": x}}, step=x)
"""
        done = run_python(script, tmp_path, {"INCL_SPOOL_DIR": str(disk)})
        lines = next(disk.glob("*.jsonl")).read_bytes().split(b"\n")
        assert lines[-1] == b""
        good, bad = [], 0
        for line in lines[:-1]:
            try:
                good.append(record_of(line))
            except ValueError:
                bad += 1
        dropped = sum(record["n"] for record in good if record["k"] == "d")
        kept = [record["v"]["x"] for record in good if record["k"] == "m"]
        assert kept[-10:] == list(range(400, 410))
        assert len(kept) + dropped == 410
        assert dropped > 0
        assert bad <= 1
        assert done.stderr.count("No space left") == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_closed_descriptors_are_noticed_and_foreign_files_stay_clean(tmp_path: Path, spool: Path) -> None:
    script = """
import incl, os, time
incl.log({"x": 0})
os.closerange(3, 256)
incl.log({"x": 1})
os.closerange(3, 256)
mine = open("mine", "wb")
time.sleep(1.1)
incl.log({"x": 2})
mine.write(b"clean"); mine.close()
"""
    run_python(script, tmp_path, {"INCL_SPOOL_DIR": str(spool)})
    assert sorted(v["x"] for v in values(spool)) == [0, 1, 2]
    assert (tmp_path / "mine").read_bytes() == b"clean"


def test_a_spool_that_the_script_deleted_is_made_again(tmp_path: Path, spool: Path) -> None:
    script = """
import incl, shutil, os, time
incl.log({"x": 0})
shutil.rmtree(os.environ["INCL_SPOOL_DIR"])
time.sleep(1.1)
incl.log({"x": 1})
incl.log({"x": 2})
"""
    done = run_python(script, tmp_path, {"INCL_SPOOL_DIR": str(spool)})
    assert sorted(v["x"] for v in values(spool)) == [1, 2]
    assert "dropped" not in done.stderr


def test_a_spool_that_cannot_be_written_warns_once(tmp_path: Path) -> None:
    script = "import incl\nfor x in range(100): incl.log({'x': x})\nincl.checkpoint(b'x', 1)\nincl.log_text('a', 'b')"
    (tmp_path / "file").write_text("")
    done = run_python(script, tmp_path, {"INCL_SPOOL_DIR": str(tmp_path / "file" / "spool")})
    assert done.stderr.count("cannot write in") == 1
    assert done.stderr.count("\n") == 3


def test_a_missing_stderr_is_no_reason_to_fail(tmp_path: Path) -> None:
    run_python(
        "import sys, incl\nsys.stderr = None\nincl.log('wrong')\nincl.log({'a': 'b'})",
        tmp_path,
        {"INCL_SPOOL_DIR": "/nowhere"},
    )


def test_an_alert(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    incl.alert("Loss is NaN", "at step 5", level="error")
    incl.alert("t" * 9999, "x" * 99_999, level="loud")
    first, second = records(spool)
    assert (first["k"], first["title"], first["text"], first["level"]) == ("a", "Loss is NaN", "at step 5", "error")
    assert (len(second["title"]), len(second["text"]), second["level"]) == (500, 32_768, "info")
    assert "loud" in capsys.readouterr().err
    incl.alert("as logging says it", level="warning")
    incl.alert("no text at all", level=["warn"])  # type: ignore[arg-type]
    assert [record["level"] for record in records(spool)[2:]] == ["warn", "info"]
