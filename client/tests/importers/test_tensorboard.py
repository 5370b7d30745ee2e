"""TensorBoard's event files, written by tensorboard and tensorboardX, become runs with every point, once."""

from __future__ import annotations

import json
import math
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary import Writer
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto
from tensorboardX import SummaryWriter

from incl._media import png
from incl_cli.context import Context
from incl_cli.importers import framing, tensorboard
from incl_cli.importers.bring import Brought, Wish, bring, discover, look, stages
from incl_cli.ship_fake import Platform
from incl_shared.errors import InvalidInput, NotFoundError, UnavailableError
from incl_shared.states import ExperimentState

Value = summary_pb2.Summary.Value


async def imported(
    platform: Platform, context: Context, *paths: Path, name: str | None = None, tags: tuple[str, ...] = ()
) -> list[Brought]:
    said: list[str] = []
    runs = discover(tensorboard, paths)
    return await bring("tensorboard", runs, context, Wish(name, tags), say=said.append, begin=platform.begin)


def torch_style(folder: Path, count: int = 30) -> None:
    """As torch.utils.tensorboard writes: simple values, image summaries, text tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = SummaryWriter(str(folder))
        for step in range(count):
            writer.add_scalar("train/loss", 1 / (step + 1), step, walltime=1_600_000_000.25 + step)
        writer.add_scalar("odd", float("nan"), 1, walltime=1_600_000_001.0)
        writer.add_scalar("odd", float("-inf"), -5, walltime=1_600_000_001.0)
        writer.add_image("sample", np.zeros((3, 8, 8), dtype=np.float32), 5, walltime=1_600_000_005.0)
        writer.add_text("note", "hello", 7, walltime=1_600_000_007.0)
        writer.add_histogram("weights", np.arange(100), 1, walltime=1_600_000_001.0)
        writer.close()


class Events:
    """Events one by one, through the real writer."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self._writer = EventFileWriter(str(folder), filename_suffix=suffix)

    def add(self, value: Any, step: int, time: float = 1.6e9) -> None:
        summary = summary_pb2.Summary(value=[value])
        self._writer.add_event(event_pb2.Event(wall_time=time, step=step, summary=summary))

    def close(self) -> None:
        self._writer.close()


def metadata(plugin: str, content: bytes = b"") -> Any:
    data = summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return summary_pb2.SummaryMetadata(plugin_data=data)


async def test_a_run_of_torch_style_is_brought_over_whole_and_once(
    platform: Platform, context: Context, tmp_path: Path
) -> None:
    torch_style(tmp_path / "runs" / "first")
    (one,) = await imported(platform, context, tmp_path / "runs", tags=("old",))
    assert (one.status, one.name, one.error) == ("imported", "first", None)
    assert (one.counts.points, one.counts.media, dict(one.counts.left_out)) == (32, 2, {"histograms": 1})
    points = platform.points[one.id]
    expected = [(step, 1_600_000_000.25 + step, float(np.float32(1 / (step + 1)))) for step in range(30)]
    assert points["train/loss"] == expected
    (odd, low) = points["odd"]
    assert odd[:2] == (1, 1_600_000_001.0)
    assert math.isnan(odd[2])
    assert low == (-5, 1_600_000_001.0, -math.inf)
    files = platform.files()
    assert files[("media", "sample/5/sample.png")].startswith(b"\x89PNG")
    assert files[("media", "note/7/note.txt")] == b"hello"
    (begun,) = platform.begun
    assert (begun.name, begun.tags, begun.started) == ("first", ("old",), pytest.approx(begun.started))
    assert begun.config["imported.tool"] == "tensorboard"
    assert begun.provenance.git_commit is None
    (ended,) = platform.ended
    assert (ended.state, ended.message) == (ExperimentState.FINISHED, tensorboard.UNSAID)
    assert platform.gaps(one.id) == 0
    assert not list(stages().glob("*"))
    batches = dict(platform.batches)
    (again,) = await imported(platform, context, tmp_path / "runs")
    assert (again.id, again.status, again.new) == (one.id, "known", 0)
    assert platform.batches == batches
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "runs" / "first", moved)
    (same,) = await imported(platform, context, moved)
    assert (same.id, same.status) == (one.id, "known")


async def test_tensor_summaries_of_every_type(platform: Platform, context: Context, tmp_path: Path) -> None:
    events = Events(tmp_path / "tf2")
    kinds = (np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64)
    for kind in kinds:
        value = np.array(-3 if np.issubdtype(kind, np.signedinteger) else 3, dtype=kind)
        described = scalar_metadata.create_summary_metadata("", "")
        events.add(Value(tag=f"s/{kind.__name__}", tensor=make_tensor_proto(value), metadata=described), 1)
        raw = tensor_pb2.TensorProto(dtype=make_tensor_proto(value).dtype, tensor_content=value.tobytes())
        events.add(Value(tag=f"raw/{kind.__name__}", tensor=raw, metadata=described), 1)
    events.add(Value(tag="flag", tensor=make_tensor_proto(np.array(True)), metadata=metadata("scalars")), 1)
    events.add(Value(tag="again", tensor=make_tensor_proto(1.5), metadata=metadata("scalars")), 1)
    events.add(Value(tag="again", tensor=make_tensor_proto(2.5)), 2)  # a tag says its plugin once
    picture = png(2, 2, 3, bytes(12))
    strings = make_tensor_proto([b"2", b"2", picture, picture])
    events.add(Value(tag="pictures", tensor=strings, metadata=image_metadata.create_summary_metadata("", "")), 3)
    words = make_tensor_proto([b"one", b"two"])
    events.add(Value(tag="words", tensor=words, metadata=text_metadata.create_summary_metadata("", "")), 4)
    events.add(Value(tag="curve", tensor=make_tensor_proto([1.0, 2.0]), metadata=metadata("pr_curves")), 4)
    for value in hparams_pb({"lr": 0.5, "opt": "adam", "amp": True}).value:
        events.add(value, 0)
    end = plugin_data_pb2.HParamsPluginData(session_end_info=plugin_data_pb2.SessionEndInfo(status=2))
    events.add(Value(tag="_hparams_/session_end_info", metadata=metadata("hparams", end.SerializeToString())), 0)
    events.close()
    (one,) = await imported(platform, context, tmp_path / "tf2", name="renamed")
    points = platform.points[one.id]
    for kind in kinds:
        expected = -3.0 if np.issubdtype(kind, np.signedinteger) else 3.0
        assert points[f"s/{kind.__name__}"] == points[f"raw/{kind.__name__}"] == [(1, 1.6e9, expected)], kind
    assert points["flag"] == [(1, 1.6e9, 1.0)]
    assert points["again"] == [(1, 1.6e9, 1.5), (2, 1.6e9, 2.5)]
    files = platform.files()
    assert files[("media", "pictures/3/pictures-0.png")] == files[("media", "pictures/3/pictures-1.png")] == picture
    assert files[("media", "words/4/words.txt")] == b"one\ntwo"
    assert dict(one.counts.left_out) == {"pr_curves": 1}
    (config,) = [json.loads(line) for line in platform.extras[one.id] if b'"k":"p"' in line]
    assert config["v"] == {"lr": 0.5, "opt": "adam", "amp": True}
    assert platform.begun[0].name == "renamed"
    assert platform.ended[0].state == ExperimentState.FAILED


async def test_every_directory_is_a_run_and_its_files_are_in_order_of_time(
    platform: Platform, context: Context, tmp_path: Path
) -> None:
    for folder in ("a", "a/eval", "b"):
        writer = Writer(str(tmp_path / "logs" / folder))
        for step in range(3):
            writer.add_scalar("x", float(step), step, wall_time=1.6e9 + step)
        writer.close()
    Events(tmp_path / "logs" / "a", suffix=".later").close()
    (tmp_path / "logs" / "a" / "notes.txt").write_text("no events")
    found = await imported(platform, context, tmp_path / "logs", tmp_path / "logs" / "a", name="all")
    assert [one.name for one in found] == ["all/a", "all/a/eval", "all/b"]
    assert len({one.id for one in found}) == 3
    assert [one.counts.points for one in found] == [3, 3, 3]
    assert [len(platform.points[one.id]["x"]) for one in found] == [3, 3, 3]
    (single,) = await imported(platform, context, next((tmp_path / "logs" / "b").iterdir()))
    assert (single.id, single.status) == (found[2].id, "known")


async def test_a_run_that_grew_brings_only_what_is_new(platform: Platform, context: Context, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    torch_style(folder)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    (first,) = await imported(platform, context, folder)
    assert first.status == "imported"
    assert any("ends within a record" in problem for problem in first.counts.problems)
    file.write_bytes(whole)
    later = Events(folder)
    later.add(Value(tag="train/loss", simple_value=7.0), 99, 2e9)
    later.close()
    (second,) = await imported(platform, context, folder)
    assert second.id == first.id
    assert (second.status, second.new) == ("grown", second.counts.records - first.counts.records)
    assert len(platform.points[first.id]["train/loss"]) == 31
    assert len(platform.ended) == 2
    assert platform.ended[-1].ended == 2e9
    assert platform.gaps(first.id) == 0


@pytest.mark.parametrize("where", ["begin", "watermarks", "upload", "commit", "end"])
async def test_an_import_that_breaks_off_is_gone_on_with(
    platform: Platform, context: Context, tmp_path: Path, where: str
) -> None:
    torch_style(tmp_path / "run")
    platform.breaks_at = where
    (broken,) = await imported(platform, context, tmp_path / "run")
    assert isinstance(broken.error, UnavailableError)
    assert "incl sync" in broken.error.hint
    assert (stages() / broken.id / "meta.json").exists()
    platform.breaks_at = None
    (one,) = await imported(platform, context, tmp_path / "run")
    assert one.error is None
    assert len(platform.values("train/loss")) == 30
    assert platform.gaps(one.id) == 0
    assert not (stages() / one.id).exists()


def spoil(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("change", "word", "least"),
    [
        (lambda data: spoil(data, len(data) // 2), "damaged", 5),
        (lambda data: data[:-3], "ends within a record", 30),
        (lambda data: data + b"\xff\xff", "ends within a record", 32),
        (lambda data: data + claim(1 << 60), "claims", 32),
        (lambda data: data + claim(200 << 20), "ends within a record", 32),
    ],
)
async def test_damage_costs_what_follows_it_and_is_said(
    tmp_path: Path, change: Callable[[bytes], bytes], word: str, least: int
) -> None:
    torch_style(tmp_path / "run")
    (file,) = (tmp_path / "run").iterdir()
    file.write_bytes(change(file.read_bytes()))
    (one,) = await look(discover(tensorboard, [tmp_path / "run"]), Wish(), say=[].append)
    assert one.error is None
    (problem,) = one.counts.problems
    assert word in problem
    assert least <= one.counts.points <= 32


def claim(length: int) -> bytes:
    head = struct.pack("<Q", length)
    return head + struct.pack("<I", framing.masked_crc32c(head)) + b"x" * 10


async def test_what_is_no_event_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    torch_style(tmp_path / "logs" / "good")
    (tmp_path / "logs" / "bad").mkdir()
    (tmp_path / "logs" / "bad" / "events.out.tfevents.1").write_bytes(b"#!/bin/sh\necho this is no event file\n")
    (tmp_path / "logs" / "empty").mkdir()
    (tmp_path / "logs" / "empty" / "events.out.tfevents.1").touch()
    found = {
        one.path.name: one for one in await look(discover(tensorboard, [tmp_path / "logs"]), Wish(), say=[].append)
    }
    assert found["good"].error is None
    for name, word in (("bad", "not an event file"), ("empty", "no readable event file")):
        error = found[name].error
        assert isinstance(error, InvalidInput)
        assert word in error.message
        assert error.hint
    for path in (tmp_path / "nothing", tmp_path / "logs" / "none"):
        with pytest.raises(NotFoundError):
            discover(tensorboard, [path])


def test_checksums_are_castagnolis() -> None:
    assert framing.crc32c(b"123456789") == 0xE3069283
    assert framing.crc32c(b"") == 0
    for size in range(9):
        assert framing.crc32c(bytes(range(size))) == _bitwise(bytes(range(size)))


def _bitwise(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
