"""Checkpoints, images, tables and texts: copies of their own in the spool, whole or not there at all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import incl
from incl import _media, _state
from incl._warn import forget


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "the spool"
    folder.mkdir()
    before = {name: os.environ.get(name) for name in ("INCL_SPOOL_DIR", "INCL_LATEST_CHECKPOINT")}
    os.environ["INCL_SPOOL_DIR"] = str(folder)
    _state.reset()
    forget()
    yield folder
    _state.reset()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def records(spool: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in spool.glob("*.jsonl") for line in file.read_text().splitlines()]


def test_a_checkpoint_is_a_copy_that_later_writes_do_not_touch(spool: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.pt"
    source.write_bytes(b"first")
    kept = incl.checkpoint(source, step=5, metrics={"acc": np.float32(0.5), "text": "no"})
    with source.open("r+b") as file:
        file.write(b"later")
    assert kept is not None
    assert kept.read_bytes() == b"first"
    (record,) = records(spool)
    assert record == {
        "k": "c", "t": record["t"], "s": 5, "path": "5/model.pt", "file": str(kept), "metrics": {"acc": 0.5}
    }  # fmt: skip
    assert kept.is_relative_to(spool)
    assert incl.latest_checkpoint() == kept


def test_a_checkpoint_has_the_values_logged_last(spool: Path) -> None:
    incl.checkpoint(b"x", step=1, name="a")
    incl.log({"loss": np.float32(0.5), "deep": {"acc": 1}})
    incl.checkpoint(b"x", step=2, name="a")
    for loss in (0.25, 0.125):
        incl.log({"loss": loss})
    incl.checkpoint(b"x", step=3, name="a")
    incl.checkpoint(b"x", step=4, name="a", metrics={})
    incl.checkpoint(b"x", step=5, name="a", metrics={"acc": 0.5})
    found = {record["s"]: record["metrics"] for record in records(spool) if record["k"] == "c"}
    assert found == {1: {}, 2: {"loss": 0.5, "deep/acc": 1}, 3: {"loss": 0.125}, 4: {}, 5: {"acc": 0.5}}


def test_directories_bytes_and_names(spool: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_bytes(b"1")
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(folder / "deep" / "a")
    kept = incl.checkpoint(str(folder) + "/", step=1)
    assert kept is not None
    assert sorted(path.relative_to(kept).as_posix() for path in kept.rglob("*")) == ["deep", "deep/a", "link"]
    assert not (kept / "link").is_symlink()
    second = incl.checkpoint(b"bytes", name="../../etc/passwd")
    assert second is not None
    assert second.read_bytes() == b"bytes"
    assert second.is_relative_to(spool)
    assert [record["path"] for record in records(spool)] == ["1/ckpt", "0/_.._etc_passwd"]


def test_a_file_given_away_is_moved(spool: Path, tmp_path: Path) -> None:
    source = tmp_path / "big.pt"
    source.write_bytes(b"x" * 1000)
    inode = source.stat().st_ino
    kept = incl.checkpoint(source, step=1, move=True)
    assert kept is not None
    assert kept.stat().st_ino == inode
    assert not source.exists()


def test_a_checkpoint_that_cannot_be_kept_is_a_warning(
    spool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert incl.checkpoint(tmp_path / "missing", step=1) is None
    assert incl.checkpoint(tmp_path / "missing", step=1, move=True) is None
    assert incl.checkpoint(object(), step=1) is None  # type: ignore[arg-type]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        assert incl.checkpoint(b"x" * 100_000, step=2) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert records(spool) == []
    assert list((spool / "files").iterdir()) == []
    assert "No such file" in capsys.readouterr().err
    assert incl.latest_checkpoint() is None


def test_the_latest_checkpoint_is_this_runs_else_the_platforms(spool: Path, tmp_path: Path) -> None:
    given = tmp_path / "old.pt"
    given.write_bytes(b"old")
    os.environ["INCL_LATEST_CHECKPOINT"] = str(given)
    assert incl.latest_checkpoint() == given
    first = incl.checkpoint(b"1", step=1)
    second = incl.checkpoint(b"2", step=2)
    assert incl.latest_checkpoint() == second != first
    assert second is not None
    second.unlink()
    assert incl.latest_checkpoint() == given
    (spool / "files" / "latest-checkpoint.json").write_text("{")
    assert incl.latest_checkpoint() == given
    given.unlink()
    assert incl.latest_checkpoint() is None


def pixels(png: bytes) -> tuple[int, int, int, list[bytes]]:
    """Width, height, colour type and rows of a PNG; every checksum is looked at."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + data) == struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0]
        chunks[kind] = data
        at += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert depth == 8
    raw = zlib.decompress(chunks[b"IDAT"])
    row = 1 + width * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    assert len(raw) == row * height
    rows: list[bytes] = []
    for line in (raw[i * row : (i + 1) * row] for i in range(height)):
        assert line[0] in (0, 2)
        above = rows[-1] if rows and line[0] == 2 else bytes(row - 1)
        rows.append(bytes((a + b) % 256 for a, b in zip(line[1:], above, strict=True)))
    return width, height, colour, rows


@pytest.mark.parametrize(
    ("image", "colour", "first_row"),
    [
        (np.array([[0, 128], [255, 7]], dtype=np.uint8), 0, b"\x00\x80"),
        (np.array([[0.0, 0.5], [1.0, math.nan]]), 0, b"\x00\x80"),
        (np.array([[False, True], [True, False]]), 0, b"\x00\xff"),
        (np.array([[-5, 300], [1, 2]]), 0, b"\x00\xff"),
        (np.zeros((2, 2, 3), dtype=np.uint8), 2, b"\x00" * 6),
        (np.zeros((2, 2, 4), dtype=np.float32), 6, b"\x00" * 8),
        (np.zeros((2, 2, 1), dtype=np.uint8), 0, b"\x00\x00"),
        (np.arange(12, dtype=np.uint8).reshape(3, 2, 2), 2, bytes([0, 4, 8, 1, 5, 9])),
        (np.array([[0.0, 128.4], [255.0, 300.0]]), 0, b"\x00\x80"),
        (np.array([[0, 0x80FF], [0xFFFF, 1]], dtype=np.uint16), 0, b"\x00\x80"),
        (np.array([[-np.inf, 1.9], [np.inf, 0]], dtype=np.float16), 0, b"\x00\xff"),
    ],
    ids=[
        "grey", "floats", "booleans", "clipped", "rgb", "rgba", "one channel", "channels first", "floats to 255",
        "sixteen bits", "infinities",
    ],
)  # fmt: skip
def test_arrays_become_png(image: Any, colour: int, first_row: bytes) -> None:
    data, ending = _media.image_file(image)
    width, height, kind, rows = pixels(data)
    assert (width, height, kind, ending) == (2, 2, colour, ".png")
    assert rows[0] == first_row


def test_the_pixels_are_the_same_after_all(tmp_path: Path) -> None:
    """As another reader reads them."""
    from PIL import Image

    for shape in ((40, 30, 3), (40, 30, 4), (40, 30), (1, 1), (3, 500, 1)):
        image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        data, _ = _media.image_file(image)
        read = np.asarray(Image.open(io.BytesIO(data)))
        assert (read == image.reshape(read.shape)).all()
    turned, _ = _media.image_file(Image.new("CMYK", (5, 4)))
    assert Image.open(io.BytesIO(turned)).mode == "RGB"


def test_a_batch_becomes_a_grid() -> None:
    batch = np.zeros((5, 1, 4, 6), dtype=np.float32)  # as a loader gives it: number x channels x height x width
    batch[0, 0, 0, 0], batch[4, 0, 3, 5] = 1.0, 0.5
    for given in (Tensor(batch), batch.transpose(0, 2, 3, 1)):
        data, _ = _media.image_file(given)
        width, height, colour, rows = pixels(data)
        assert (width, height, colour) == (3 * 6 + 2 * 2, 2 * 4 + 2, 0)
        assert rows[0][0] == 255
        assert rows[6 + 3][8 + 5] == 128
        assert sum(map(sum, rows)) == 255 + 128


def test_tensors_have_their_channels_first() -> None:
    """Also where the width could be taken for them."""
    tensor = np.zeros((3, 10, 4), dtype=np.uint8)
    assert pixels(_media.image_file(Tensor(tensor))[0])[:3] == (4, 10, 2)
    assert pixels(_media.image_file(tensor)[0])[:3] == (10, 3, 6)


@pytest.mark.torch
def test_real_tensors() -> None:
    torch = pytest.importorskip("torch")
    image = torch.linspace(0, 1, 3 * 8 * 8, dtype=torch.bfloat16, requires_grad=True).reshape(3, 8, 8)
    assert pixels(_media.image_file(image)[0])[:3] == (8, 8, 2)


def test_lists_of_images_are_kept_one_by_one(
    spool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [np.full((2, 2), value, dtype=np.uint8) for value in range(11)]
    incl.log_image("val/x", [*images, b"no image at all"], caption=["first", None, "third"])
    incl.log_image("val/x", images[0], step=5, caption="one")
    found = records(spool)
    assert [r["name"] for r in found[:11]] == [f"val_x-{n:02d}.png" for n in range(11)]
    assert [r["s"] for r in found] == [0] * 11 + [5]
    assert [r.get("caption") for r in found[:4]] == ["first", None, "third", None]
    assert (found[11]["name"], found[11]["caption"]) == ("val_x.png", "one")
    assert "dropped" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "3")
    incl.log_image("val/x", images[:2], step=5)
    incl.log_table("t", {"a": [1]}, step=5, caption="of process 3")
    assert [r["name"] for r in records(spool)[12:]] == ["val_x-0.p3.png", "val_x-1.p3.png", "t.p3.csv"]


class Figure:
    """As matplotlib's."""

    def savefig(self, stream: Any, format: str) -> None:
        stream.write(b"\x89PNG\r\n\x1a\nfigure")


class Picture:
    """As PIL's."""

    def convert(self, mode: str) -> Picture:
        return self

    def save(self, stream: Any, format: str, compress_level: int) -> None:
        stream.write(b"\x89PNG\r\n\x1a\npicture")


class Tensor:
    """As torch's on another device."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.ndim, self.shape, self.dtype = array.ndim, array.shape, array.dtype

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> Any:
        return self.array


def test_images_of_every_kind(spool: Path, tmp_path: Path) -> None:
    file = tmp_path / "photo.JPG"
    file.write_bytes(b"\xff\xd8\xff-jpeg")
    incl.log_image("a/b", file, step=3)
    incl.log_image("bytes", b"\xff\xd8\xff-jpeg")
    incl.log_image("figure", Figure())
    incl.log_image("picture", Picture())
    incl.log_image("tensor", Tensor(np.zeros((3, 4, 5), dtype=np.float32)))
    found = records(spool)
    assert [(record["kind"], record["key"], record["name"], record["s"]) for record in found] == [
        ("image", "a/b", "a_b.jpg", 3),
        ("image", "bytes", "bytes.jpg", 0),
        ("image", "figure", "figure.png", 1),
        ("image", "picture", "picture.png", 2),
        ("image", "tensor", "tensor.png", 3),
    ]
    assert all(Path(record["file"]).is_file() for record in found)


def test_what_is_no_image_is_a_warning(spool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (b"text", np.zeros(3), np.zeros((2, 2, 7)), np.zeros((0, 3)), None, 5, tmp_path / "missing.png"):
        incl.log_image("key", wrong)
    assert records(spool) == []
    assert capsys.readouterr().err.count("\n") == 2


class Axes:
    """As matplotlib's."""

    figure = Figure()


class Arrow:
    """As pyarrow's tables."""

    def to_pydict(self) -> dict[str, list[int]]:
        return {"a": [1, 2]}


class Named(NamedTuple):
    x: int
    y: float


def test_axes_and_other_tables(spool: Path) -> None:
    assert _media.image_file(Axes()) == (b"\x89PNG\r\n\x1a\nfigure", ".png")
    incl.log_table("arrow", Arrow(), step=1)
    incl.log_table("named", [Named(1, 0.5)], step=1)
    incl.log_table("array", np.arange(4).reshape(2, 2), columns=["a", "b"], step=1)
    texts = [Path(r["file"]).read_text() for r in records(spool)]
    assert texts == ["a\n1\n2\n", "x,y\n1,0.5\n", "a,b\n0,1\n2,3\n"]


class Frame:
    """As pandas'."""

    def to_csv(self, index: bool) -> str:
        return "a,b\n1,2\n"


def test_tables_of_every_kind(spool: Path) -> None:
    incl.log_table("rows", [[1, 'with "quotes", and comma'], [None, math.nan]], columns=["n", "text"], step=1)
    incl.log_table("dicts", [{"a": 1}, {"b": np.float64(2.5)}], step=1)
    incl.log_table("lists", {"a": [1, 2, 3], "b": ["x"]}, step=1)
    incl.log_table("frame", Frame(), step=1)
    incl.log_table("iterator", iter([(1, 2)]), columns=["a", "b"], step=1)
    read = {r["key"]: list(csv.reader(io.StringIO(Path(r["file"]).read_text()))) for r in records(spool)}
    assert read == {
        "rows": [["n", "text"], ["1", 'with "quotes", and comma'], ["", "nan"]],
        "dicts": [["a", "b"], ["1", ""], ["", "2.5"]],
        "lists": [["a", "b"], ["1", "x"], ["2", ""], ["3", ""]],
        "frame": [["a", "b"], ["1", "2"]],
        "iterator": [["a", "b"], ["1", "2"]],
    }


def test_what_is_no_table_is_a_warning(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (None, 5, [[1, 2]], {"a": 1}):
        incl.log_table("key", wrong)
    assert records(spool) == []
    assert capsys.readouterr().err.count("\n") == 1


def test_texts(spool: Path) -> None:
    incl.log_text("übung/1", "Grüße \ud800", step=2)
    incl.log_text("..", 5)  # type: ignore[arg-type]
    first, second = records(spool)
    assert Path(first["file"]).read_text(encoding="utf-8") == "Grüße ?"
    assert (first["kind"], first["key"], first["name"]) == ("text", "übung/1", "übung_1.txt")
    assert (second["name"], Path(second["file"]).read_text()) == ("file.txt", "5")


def test_a_model_is_a_copy_with_what_is_said_of_it(spool: Path, tmp_path: Path) -> None:
    source = tmp_path / "best.pt"
    source.write_bytes(b"first")
    assert incl.register_model("chest-xray", source, note="n", tags=["a", "b,c", "a"], metadata={"dice": np.float32(1)})
    source.write_bytes(b"later")
    (record,) = records(spool)
    kept = Path(record.pop("file"))
    assert (kept.name, kept.read_bytes(), kept.is_relative_to(spool)) == ("best.pt", b"first", True)
    del record["t"]
    assert record == {"k": "v", "model": "chest-xray", "note": "n", "tags": ["a", "b c"], "metadata": {"dice": 1.0}}
    folder = tmp_path / "export"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "w").write_bytes(b"w")
    assert incl.register_model("chest-xray", folder, tags="one", move=True)
    assert not folder.exists()
    moved = records(spool)[1]
    assert (Path(moved["file"], "deep", "w").read_bytes(), moved["tags"]) == (b"w", ["one"])


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a:1", "a@b", "-a", "x" * 64, None, 3])
def test_what_no_model_is_called(name: Any, spool: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m").write_bytes(b"m")
    assert not incl.register_model(name, tmp_path / "m")
    assert "cannot be a model" in capfd.readouterr().err
    assert records(spool) == []


def test_what_cannot_be_said_of_a_model_is_told_and_left_out(
    spool: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m").write_bytes(b"m")
    assert incl.register_model(
        "m", tmp_path / "m", note="x" * 20_001, metadata={f"a{n}": "y" * 100 for n in range(900)}
    )
    assert incl.register_model("m", tmp_path / "m", metadata=[1])  # type: ignore[arg-type]
    said = capfd.readouterr().err
    assert "is cut after 20000" in said
    assert "larger than 65536 bytes" in said
    first, second = records(spool)
    assert (len(first["note"]), first["metadata"], second["metadata"]) == (20_000, {}, {})
    assert not incl.register_model("m", tmp_path / "gone")
    assert "is not registered" in capfd.readouterr().err


def test_loading_asks_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what the command line says; here there is no platform."""
    monkeypatch.setenv("INCL_CONTEXT_FILE", str(tmp_path / "none.json"))
    with pytest.raises(incl.ModelError, match="no platform is known here"):
        incl.load_model("chest-xray@production")
    with pytest.raises(incl.ModelError, match="names no model"):
        incl.load_model("a b")
    with pytest.raises(incl.ModelError, match="names no model"):
        incl.load_model("--help")
