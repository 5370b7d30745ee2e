"""Runs that the real wandb recorded offline become runs of INCL, whole, once, and however they ended."""

from __future__ import annotations

import json
import math
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from incl_cli.context import Context
from incl_cli.importers import wandb
from incl_cli.importers.bring import Brought, Wish, bring, discover, look
from incl_cli.ship_fake import Platform
from incl_shared.errors import InvalidInput
from incl_shared.states import ExperimentState


async def imported(platform: Platform, context: Context, *paths: Path) -> list[Brought]:
    said: list[str] = []
    return await bring("wandb", discover(wandb, paths), context, Wish(), say=said.append, begin=platform.begin)


def configured(platform: Platform, run: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for line in platform.extras[run]:
        record = json.loads(line)
        if record["k"] == "p":
            found.update(record["v"])
    return found


async def test_an_offline_run_is_brought_over_whole_and_once(
    platform: Platform, context: Context, wandb_run: Path
) -> None:
    (one,) = await imported(platform, context, wandb_run.parent)
    assert (one.status, one.name, one.error) == ("imported", "first run", None)
    points = platform.points[one.id]
    assert [point[0] for point in points["loss"]] == list(range(20))
    assert [point[2] for point in points["loss"]] == [1 / (step + 1) for step in range(20)]
    assert [point[2] for point in points["val/acc"]] == [step / 20 for step in range(20)]
    assert [point[2] for point in points["flag"]] == [1.0] * 20
    times = [point[1] for point in points["loss"]]
    assert times == sorted(times)
    assert platform.begun[0].started <= times[0]
    assert times[-1] <= platform.ended[0].ended
    assert math.isnan(points["odd"][0][2])
    assert points["huge"][0][2] == math.inf
    assert points["big"][0][::2] == (20, 2.0**60)
    assert points["late"][0][::2] == (100, 1.5)
    assert points["best"][0][2] == 0.99
    own = {name for name in points if not name.startswith("system/")}
    assert own == {"loss", "val/acc", "flag", "odd", "huge", "big", "late", "best"}
    assert one.counts.points == sum(len(points[name]) for name in own)
    assert one.counts.system == sum(len(found) for name, found in points.items() if name not in own)
    assert one.counts.left_out["texts in the history"] == 20
    assert one.counts.left_out["histogram"] == 1
    assert platform.gaps(one.id) == 0
    (again,) = await imported(platform, context, wandb_run)
    assert (again.id, again.status) == (one.id, "known")
    assert len(points["loss"]) == 20


async def test_what_is_no_number_is_kept_too(platform: Platform, context: Context, wandb_run: Path) -> None:
    (one,) = await imported(platform, context, wandb_run)
    (begun,) = platform.begun
    assert begun.tags == ("a", "b")
    assert (begun.config["lr"], begun.config["model.depth"]) == ("0.1", "3")
    about = {name: begun.config[f"wandb.{name}"] for name in ("project", "group", "job_type", "notes")}
    assert about == {"project": "old", "group": "g", "job_type": "train", "notes": "some notes"}
    assert begun.provenance.python.startswith("3.")
    said = configured(platform, one.id)
    assert (said["seed"], said["summary"]) == (5, {"verdict": "good"})
    (alert,) = [json.loads(line) for line in platform.extras[one.id] if b'"k":"a"' in line]
    assert (alert["title"], alert["text"], alert["level"]) == ("Careful", "it is slow", "warn")
    files = platform.files()
    assert files[("media", "image/100/image.png")].startswith(b"\x89PNG")
    assert ("media", "several/100/several-0.png") in files
    assert ("media", "several/100/several-1.png") in files
    assert files[("media", "table/100/table.csv")] == b"n,t\n1,x\n2,\n"
    assert b"hello from the run" in files[("output", "output.log")]
    assert ("output", "requirements.txt") in files
    assert any(path.endswith(".html") for kind, path in files if kind == "output")
    assert not any(path.endswith(".png") for kind, path in files if kind == "output")


def frame(record: bytes, kind: int = 1) -> bytes:
    return struct.pack("<IHB", zlib.crc32(record, zlib.crc32(bytes([kind]))), len(record), kind) + record


def changed(run: Path, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a run whose record file is changed."""
    shutil.copytree(run, folder)
    (file,) = folder.glob("run-*.wandb")
    file.write_bytes(change(file.read_bytes()))
    return folder


async def test_how_a_run_ended(platform: Platform, context: Context, wandb_run: Path, tmp_path: Path) -> None:
    await imported(platform, context, wandb_run)
    assert platform.ended[-1].state == ExperimentState.FINISHED
    run = changed(wandb_run, tmp_path / "killed", lambda data: data[:-4])
    other = Platform()
    (one,) = await imported(other, context, run)
    assert (other.ended[0].state, other.ended[0].message) == (ExperimentState.FAILED, wandb.NO_EXIT)
    assert any("ends within a record" in problem for problem in one.counts.problems)
    for code, state in ((3, ExperimentState.FAILED), (255, ExperimentState.STOPPED)):
        number = bytes([code]) if code < 128 else bytes([code & 127 | 128, code >> 7])
        body = b"\x08" + number
        exit_record = frame(b"\x92\x01" + bytes([len(body)]) + body)
        ended = changed(wandb_run, tmp_path / f"code {code}", lambda data, more=exit_record: data + more)
        third = Platform()
        await imported(third, context, ended)
        assert third.ended[0].state == state, code


async def test_a_run_that_grew_brings_only_what_is_new(
    platform: Platform, context: Context, wandb_run: Path, tmp_path: Path
) -> None:
    run = changed(wandb_run, tmp_path / "growing", lambda data: data[: len(data) // 2])
    (first,) = await imported(platform, context, run)
    assert 0 < len(platform.points[first.id]["loss"]) < 20
    (file,) = run.glob("run-*.wandb")
    file.write_bytes((wandb_run / file.name).read_bytes())
    (second,) = await imported(platform, context, run)
    assert (second.id, second.status) == (first.id, "grown")
    assert second.new == second.counts.records - first.counts.records
    assert [point[0] for point in platform.points[first.id]["loss"]] == list(range(20))
    assert [end.state for end in platform.ended] == [ExperimentState.FAILED, ExperimentState.FINISHED]
    assert platform.gaps(first.id) == 0


def test_long_records_cross_blocks(tmp_path: Path) -> None:
    records = [bytes([number]) * size for number, size in enumerate((10, 70_000, 32_750, 5, 40_000))]
    data = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        at, begun = 0, False
        while at < len(record) or not begun:
            room = 32_768 - len(data) % 32_768
            if room < 7:
                data += bytes(room)
                continue
            piece = record[at : at + room - 7]
            at += len(piece)
            kind = (1 if at == len(record) else 2) if not begun else 4 if at == len(record) else 3
            data += frame(piece, kind)
            begun = True
    (tmp_path / "run-x.wandb").write_bytes(data)
    reading = wandb.Reading()
    with (tmp_path / "run-x.wandb").open("rb") as file:
        assert list(wandb.wandb_records(file, reading)) == records
    assert (reading.records, reading.torn, reading.damaged) == (5, False, [])
    spoiled = bytes(data[:50_000]) + b"\x00\x01" + bytes(data[50_002:])
    (tmp_path / "run-x.wandb").write_bytes(spoiled)
    reading = wandb.Reading()
    with (tmp_path / "run-x.wandb").open("rb") as file:
        kept = list(wandb.wandb_records(file, reading))
    assert kept[0] == records[0]
    assert kept[-1] == records[-1]
    assert records[1] not in kept
    assert reading.damaged
    reading = wandb.Reading()
    with (tmp_path / "run-x.wandb").open("rb") as file:
        list(wandb.wandb_records(file, reading, limit=20_000))
    assert any("more than" in problem for problem in reading.damaged)


async def test_files_that_lead_out_are_not_read(
    platform: Platform, context: Context, wandb_run: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"a secret")
    (name,) = (path.name for path in (wandb_run / "files" / "media" / "images").glob("image_*.png"))
    run = changed(wandb_run, tmp_path / "linked", lambda data: data)
    (run / "files" / "media" / "images" / name).unlink()
    (run / "files" / "media" / "images" / name).symlink_to(secret)
    (run / "files" / "leak").symlink_to(secret)
    (one,) = await imported(platform, context, run)
    assert b"a secret" not in platform.blobs.values()
    assert one.counts.left_out["image whose file is missing"] == 1
    assert one.error is None


async def test_values_without_end_are_no_fault_of_ours(platform: Platform, context: Context, tmp_path: Path) -> None:
    def part(number: int, content: bytes) -> bytes:
        size, head = len(content), b""
        while size > 127:
            size, head = size >> 7, head + bytes([size & 127 | 128])
        key = number << 3 | 2
        return (bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])) + head + bytes([size]) + content

    said = {"_step": b"9" * 3000, "_timestamp": b"9" * 400, "loss": b"1e999", "deep": b"[" * 5000, "long": b"9" * 5000}
    history = b"".join(part(1, part(1, name.encode()) + part(16, text)) for name, text in said.items())
    folder = tmp_path / "offline-run-20240101_000000-x"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "wandb-metadata.json").write_bytes(b"[" * 100_000)
    run = part(17, part(1, b"x") + part(3, b"project"))
    nested = part(1, part(1, b"n") + part(16, b'{"a":' * 950 + b"1" + b"}" * 950))
    records = [frame(run, 1), frame(part(2, history), 1), frame(part(2, nested), 1)]
    (folder / "run-x.wandb").write_bytes(b":W&B\xe1\xbe\x00" + b"".join(records))
    (one,) = await imported(platform, context, folder)
    assert (one.status, one.error) == ("imported", None)
    assert [point[2] for point in platform.points[one.id]["loss"]] == [math.inf]


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"not a run of anybody", "not a W&B run"), (b"", "does not say which run"), (b":W&B", "does not say which run")],
)
async def test_what_is_no_run_is_an_error_that_names_it(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "run-x.wandb").write_bytes(content)
    (one,) = await look(discover(wandb, [tmp_path]), Wish(), say=[].append)
    assert isinstance(one.error, InvalidInput)
    assert word in one.error.message
    assert one.error.hint
