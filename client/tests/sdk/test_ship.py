"""Runs made outside the platform reach it whole: while they go on, at their end, later, and in two halves."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from incl_cli.context import Context, save_context
from incl_cli.rundir import UNSAID, RunDirectory, run_paths
from incl_cli.ship import follow, main, sync
from incl_cli.ship_fake import Platform
from incl_shared.errors import ConflictError, DeniedError, InvalidInput, NotFoundError, UnavailableError
from incl_shared.states import ExperimentState
from incl_shared.testing.wait import until


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "my project"
    folder.mkdir()
    before = os.environ.get("INCL_CONTEXT_FILE")
    os.environ["INCL_CONTEXT_FILE"] = str(tmp_path / "context.json")
    save_context(Context(("nats://127.0.0.1:1",), None, "default", "ann"))
    yield folder
    if before is None:
        del os.environ["INCL_CONTEXT_FILE"]
    else:
        os.environ["INCL_CONTEXT_FILE"] = before


def start(script: str, cwd: Path) -> subprocess.Popen[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("INCL_", "RANK"))}
    environment = {**clean, "INCL_MODE": "offline", "INCL_QUIET": "1"}
    return subprocess.Popen([sys.executable, "-c", script], cwd=cwd, env=environment, stdin=subprocess.PIPE)


def record(script: str, cwd: Path) -> RunDirectory:
    before = set((cwd / ".incl" / "runs").glob("*"))
    process = start(script, cwd)
    process.communicate(timeout=60)
    (path,) = set((cwd / ".incl" / "runs").glob("*")) - before
    return RunDirectory.open(path)


WHOLE = """
import incl, pathlib
incl.init(project="vision", name="first", config={"lr": 0.1, "name": "x"}, tags=["a"])
for i in range(100): incl.log({"x": i}, step=i)
incl.checkpoint(b"weights", step=5, name="m.pt")
pathlib.Path("ckpt").mkdir(); pathlib.Path("ckpt/a").write_text("1")
incl.checkpoint("ckpt", step=6)
incl.log_text("note", "hello", step=7)
(incl.output_dir / "deep").mkdir()
(incl.output_dir / "deep" / "out.txt").write_text("output")
"""


async def test_a_run_recorded_without_a_platform_is_synced_whole_and_once(here: Path) -> None:
    run = record(WHOLE, here)
    (run.path / "outputs" / "leak").symlink_to("/etc/hostname")
    platform = Platform()
    said: list[str] = []
    shipped = await sync([here], begin=platform.begin, say=said.append)
    assert [one.id for one in shipped] == [run.id]
    (begun,) = platform.begun
    assert (begun.experiment, begun.name, begun.tags) == (run.id, "first", ("a",))
    assert begun.config == {"lr": "0.1", "name": "x"}
    assert begun.provenance.command_line
    assert platform.subjects == {f"incl.metrics.vision.{run.id}.1.0"}
    assert platform.values("x") == [float(i) for i in range(100)]
    files = platform.files()
    assert files.pop(("checkpoint", "6/ckpt.incl-dir.tar.zst"))
    assert files == {
        ("checkpoint", "5/m.pt"): b"weights",
        ("media", "note/7/note.txt"): b"hello",
        ("output", "deep/out.txt"): b"output",
    }
    (ended,) = platform.ended
    assert (ended.state, ended.message) == (ExperimentState.FINISHED, "")
    assert [(writer.records, writer.dropped) for writer in ended.writers] == [(104, 0)]
    assert await sync([run.path], begin=platform.begin, say=said.append) == []
    assert said == [f"{run.id}: finished", f"{run.id}: shipped already"]


async def test_media_are_shipped_with_thumbnails(here: Path) -> None:
    script = (
        "import incl\n"
        "from incl._media import png\n"
        "incl.init(project='vision')\n"
        "incl.log_image('val/x', png(600, 400, 3, bytes(720000)), step=7, caption='black')\n"
    )
    record(script, here)
    platform = Platform()
    await sync([here], begin=platform.begin)
    (entry,) = [entry for entry in platform.entries if entry.kind == "media"]
    assert entry.medium is not None
    assert (entry.medium.type, entry.medium.key, entry.medium.caption) == ("image", "val/x", "black")
    small = entry.medium.thumbnail
    assert small is not None
    assert (small.format, small.width, small.height) == ("webp", 600, 400)
    assert len(platform.blobs[small.sha256]) == small.size


@pytest.mark.parametrize("where", ["begin", "watermarks", "upload", "commit", "end"])
async def test_what_breaks_off_is_gone_on_with(here: Path, where: str) -> None:
    run = record(WHOLE, here)
    platform = Platform()
    platform.breaks_at = where
    with pytest.raises(UnavailableError):
        await sync([here / ".incl"], begin=platform.begin)
    assert not run.shipped
    platform.breaks_at = None
    await sync([here / ".incl" / "runs"], begin=platform.begin)
    assert platform.values("x") == [float(i) for i in range(100)]
    assert len({(entry.kind, entry.path) for entry in platform.entries}) == 4
    assert len(platform.ended) == 1
    assert run.shipped


async def test_a_run_is_followed_while_it_goes_on_and_through_an_outage(here: Path) -> None:
    script = """
import incl, sys
incl.init()
for line in sys.stdin: incl.log({"x": int(line)})
"""
    process = start(script, here)
    assert process.stdin is not None
    runs = here / ".incl" / "runs"
    await until(lambda: list(runs.glob("*/meta.json")))
    run = RunDirectory.open(next(iter(runs.iterdir())))
    platform = Platform()
    platform.down = True
    following = asyncio.create_task(follow(run, begin=platform.begin))
    process.stdin.write(b"1\n")
    process.stdin.flush()
    await until(lambda: (run.notes / "lock").exists())
    with pytest.raises(ConflictError), run.held():
        pass
    platform.down = False
    await until(lambda: platform.values("x") == [1.0])
    assert platform.ended == []
    process.stdin.write(b"2\n")
    process.stdin.close()
    assert process.wait(30) == 0
    await asyncio.wait_for(following, 20)
    assert platform.values("x") == [1.0, 2.0]
    assert platform.ended[0].state == ExperimentState.FINISHED
    assert run.shipped
    await follow(run, begin=platform.begin)
    assert len(platform.ended) == 1


async def test_a_killed_run_is_seen_to_have_failed(here: Path) -> None:
    run = record("import incl, os\nincl.init()\nincl.log({'x': 1})\nos.kill(os.getpid(), 9)", here)
    with next(run.spool.glob("*.jsonl")).open("ab") as file:
        file.write(b'{"k":"m","t"')
    platform = Platform()
    await follow(run, begin=platform.begin)
    (ended,) = platform.ended
    assert (ended.state, ended.message) == (ExperimentState.FAILED, UNSAID)
    assert run.meta["started"] <= ended.ended <= time.time()
    assert [(writer.records, writer.dropped) for writer in ended.writers] == [(1, 1)]


async def test_a_run_that_goes_on_is_synced_so_far(here: Path) -> None:
    process = start("import incl, sys\nincl.init()\nincl.log({'x': 1})\nsys.stdin.read()", here)
    runs = here / ".incl" / "runs"
    await until(lambda: list(runs.glob("*/spool/*.jsonl")))
    platform = Platform()
    said: list[str] = []
    await sync([here], begin=platform.begin, say=said.append)
    assert "runs still" in said[0]
    assert platform.values("x") == [1.0]
    assert platform.ended == []
    process.communicate(timeout=30)
    await sync([here], begin=platform.begin)
    assert platform.values("x") == [1.0]
    assert len(platform.ended) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project", "no/project"),
        ("started", "yesterday"),
        ("started", float("inf")),
        ("started", float("nan")),
        ("name", ["x"]),
        ("tags", 7),
        ("config", {"a": {"b": {}}, "x" * 10_000: "y"}),
        ("id", "../x"),
        (None, b"{"),
        (None, b"[" * 100_000),
        (None, b"\xff"),
    ],
)
async def test_one_damaged_run_does_not_hold_up_the_others(here: Path, field: str | None, value: object) -> None:
    script = "import incl\nincl.init()\nincl.log({'x': 1})"
    first, second = record(script, here), record(script, here)
    changed = value if isinstance(value, bytes) else json.dumps({**first.meta, str(field): value}).encode()
    (first.path / "meta.json").write_bytes(changed)
    platform, said = Platform(), list[str]()
    if field != "config":
        with pytest.raises(InvalidInput) as caught:
            await sync([here], begin=platform.begin, say=said.append)
        assert caught.value.hint
        assert any(line.startswith(first.path.name) for line in said)
        assert not first.shipped
    else:
        await sync([here], begin=platform.begin)
    assert second.shipped


async def test_a_damaged_end_ends_the_run_all_the_same(here: Path) -> None:
    run = record("import incl\nincl.init()\nincl.log({'x': 1})", here)
    for text in (
        '{"state": "finished", "message": [1], "ended": "now"}',
        '{"state": "finished", "message": "", "ended": 1e999}',
    ):
        (run.path / "end.json").write_text(text)
        end = run.end()
        assert end is not None
        assert end.state == "finished"
        assert end.ended < 1e10
    (run.path / "end.json").write_text("[" * 100_000)
    end = run.end()
    assert end is not None
    assert end.state == "failed"


async def test_refusals_and_missing_runs_are_errors(here: Path) -> None:
    record("import incl\nincl.init()", here)
    platform = Platform()
    platform.refuses = True
    with pytest.raises(DeniedError):
        await sync([here], begin=platform.begin)
    for place in (here / "nothing", here / ".incl" / "runs" / "x"):
        with pytest.raises(NotFoundError) as caught:
            run_paths([place])
        assert caught.value.hint
    with pytest.raises(NotFoundError):
        RunDirectory.open(here)


def test_the_shipper_says_what_is_wrong(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Path.cwd()
    try:
        assert main([]) == 2
        assert main([str(here / "missing")]) == 4
    finally:
        os.chdir(place)
    assert "usage" in capsys.readouterr().err


def test_another_process_with_the_same_number_is_not_the_run(here: Path) -> None:
    run = record("import incl\nincl.init()", here)
    meta: dict[str, Any] = {**run.meta, "pid": os.getpid()}
    assert not RunDirectory(run.path, meta).alive()
    assert RunDirectory(run.path, {**meta, "pid_started": None}).alive()
    assert not RunDirectory(run.path, {**meta, "pid": "x"}).alive()


MODELS = """
import incl, pathlib
incl.init()
incl.log({"x": 1})
pathlib.Path("best.pt").write_text("weights")
pathlib.Path("export/deep").mkdir(parents=True); pathlib.Path("export/deep/a").write_text("1")
pathlib.Path("export/b").write_text("2"); pathlib.Path("export/leak").symlink_to("/etc/hostname")
incl.register_model("net", "best.pt", note="n")
incl.register_model("net", "export", metadata={"x": 1})
"""


@pytest.mark.parametrize("breaks", [None, "upload", "commit", "register", "end"])
async def test_models_of_a_run_are_registered_once(here: Path, breaks: str | None) -> None:
    """Also when it breaks off in between and goes on."""
    run = record(MODELS, here)
    platform = Platform()
    if breaks is not None:
        platform.breaks_at = breaks
        with pytest.raises(UnavailableError):
            await sync([here], begin=platform.begin)
        platform.breaks_at = None
    await sync([here], begin=platform.begin)
    first, second = platform.models.values()
    assert (first.model, first.note, second.metadata, first.kind) == ("net", "n", {"x": 1}, "model")
    assert first.experiment == run.id
    listed = {path: content for (kind, path), content in platform.files().items() if kind == "model"}
    assert {path.partition("/")[2].partition("/")[2]: content for path, content in listed.items()} == {
        "best.pt": b"weights", "export/deep/a": b"1", "export/b": b"2",
        "export/leak": Path("/etc/hostname").read_bytes(),
    }  # fmt: skip
    assert all(path == first.path or path.startswith(f"{second.path}/") for path in listed)
