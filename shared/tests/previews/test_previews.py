"""Thumbnails: of every format and mode, of tables, and of what is meant to do harm."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from incl_shared.events import Thumbnail
from incl_shared.previews.maker import Preview, PreviewMaker
from incl_shared.previews.media import Described, describe
from incl_shared.testing.wait import until, until_sync


@pytest.fixture(scope="module")
def one_maker() -> Iterator[PreviewMaker]:
    made = PreviewMaker(timeout_s=20.0)
    yield made
    made.close()


@pytest.fixture
def maker(one_maker: PreviewMaker) -> PreviewMaker:
    """The same worker for all, counting from zero for each: what one test gives it must not spoil the next."""
    one_maker.made = one_maker.failed = 0
    return one_maker


def of(maker: PreviewMaker, path: Path, kind: Any = "image") -> Preview | None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return maker.make(kind, descriptor)
    finally:
        os.close(descriptor)


def shown(preview: Preview | None) -> Image.Image:
    assert preview is not None
    assert preview.data is not None
    assert len(preview.data) <= 16_000
    image = Image.open(io.BytesIO(preview.data))
    image.load()
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few KB that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(3_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("ending", ["png", "jpeg", "gif", "webp", "bmp"])
def test_an_image_becomes_a_small_one(maker: PreviewMaker, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"noise.{ending}"
    Image.effect_noise((1200, 700), 80).convert("RGB").save(file)
    preview = of(maker, file)
    image = shown(preview)
    assert image.size == (256, 149)
    assert preview is not None
    assert (preview.format, preview.width, preview.height) == ("webp", 1200, 700)
    assert (maker.made, maker.failed) == (1, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode(maker: PreviewMaker, tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image = Image.new("RGB", (600, 300), (200, 100, 50)).convert("L" if mode == "I;16" else mode).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(100)
    image.save(file)
    small = shown(of(maker, file))
    assert small.size == (256, 128)
    assert small.mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")


def test_sixteen_bits_are_scaled_and_orientation_is_heeded(maker: PreviewMaker, tmp_path: Path) -> None:
    deep = Image.new("I;16", (400, 400), 32_768)
    deep.save(tmp_path / "deep.png")
    pixel = shown(of(maker, tmp_path / "deep.png")).convert("L").getpixel((10, 10))
    assert isinstance(pixel, int)
    assert abs(pixel - 128) < 6
    turned = Image.new("RGB", (800, 400))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    preview = of(maker, tmp_path / "turned.jpg")
    assert preview is not None
    assert (preview.width, preview.height) == (400, 800)
    assert shown(preview).size == (128, 256)


def test_a_small_file_is_its_own_thumbnail(maker: PreviewMaker, tmp_path: Path) -> None:
    Image.new("RGB", (28, 28)).save(tmp_path / "digit.png")
    assert of(maker, tmp_path / "digit.png") == Preview(format="png", data=None, width=28, height=28)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
        bomb(60_000, 60_000),
        bomb(2**31 - 1, 2**31 - 1),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        b"II*\x00" + bytes(200),
        b"GIF89a\xff\xff\xff\xff" + bytes(20),
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(50),
    ],
    ids=["empty", "text", "torn png", "bomb", "huge bomb", "postscript", "tiff", "torn gif", "torn webp"],
)
def test_what_is_no_image_has_no_thumbnail(maker: PreviewMaker, tmp_path: Path, data: bytes) -> None:
    """And the next one has."""
    (tmp_path / "bad.png").write_bytes(data)
    assert of(maker, tmp_path / "bad.png") is None
    assert maker.failed == 1
    Image.new("RGB", (500, 500)).save(tmp_path / "good.png")
    assert shown(of(maker, tmp_path / "good.png")).size == (256, 256)


def test_a_torn_image_has_no_thumbnail(maker: PreviewMaker, tmp_path: Path) -> None:
    Image.effect_noise((500, 500), 80).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(data[: len(data) // 2])
    assert of(maker, tmp_path / "torn.png") is None


def stopped(maker: PreviewMaker, good: Path) -> None:
    """Its worker stands still, as one that is caught in an endless loop."""
    Image.new("RGB", (500, 500)).save(good)
    shown(of(maker, good))
    assert maker._worker is not None
    os.kill(maker._worker.process.pid, signal.SIGSTOP)


def test_a_worker_that_hangs_or_dies_is_replaced(tmp_path: Path) -> None:
    maker, good = PreviewMaker(timeout_s=20.0), tmp_path / "good.png"
    try:
        stopped(maker, good)
        maker._timeout = 0.3
        assert of(maker, good) is None
        assert maker.failed == 1
        maker._timeout = 20.0
        shown(of(maker, good))
        assert maker._worker is not None
        maker._worker.process.kill()
        maker._worker.process.wait()
        shown(of(maker, good))
        assert maker.failed == 1
    finally:
        maker.close()


def test_an_idle_worker_ends(tmp_path: Path) -> None:
    maker = PreviewMaker(timeout_s=20.0, idle_s=0.05)
    Image.new("RGB", (500, 500)).save(tmp_path / "good.png")
    shown(of(maker, tmp_path / "good.png"))
    until_sync(lambda: maker._worker is None)
    shown(of(maker, tmp_path / "good.png"))
    maker.close()


def rows(path: Path, names: list[str], content: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(content)
    return path


def test_the_first_rows_of_a_table(maker: PreviewMaker, tmp_path: Path) -> None:
    table = rows(tmp_path / "t.csv", ["word", "n"], [[f'ä {n}, "q"\nsecond line', n] for n in range(5000)])
    preview = of(maker, table, "table")
    assert preview is not None
    assert preview.data is not None
    assert (preview.format, preview.rows, preview.columns) == ("json", 5000, 2)
    document = json.loads(preview.data)
    assert document["columns"] == ["word", "n"]
    assert document["cells"][1] == ['ä 1, "q"\nsecond line', "1"]
    assert (document["rows"], document["total_columns"], len(document["cells"])) == (5000, 2, 12)


@pytest.mark.parametrize("shape", [(3, 2000), (2000, 3), (0, 0), (1, 1)])
def test_thumbnails_of_tables_stay_small(maker: PreviewMaker, tmp_path: Path, shape: tuple[int, int]) -> None:
    height, width = shape
    table = rows(tmp_path / "t.csv", ["ü" * 500] * width, [["\x01" * 5000] * width] * height)
    preview = of(maker, table, "table")
    assert preview is not None
    assert preview.data is not None
    assert len(preview.data) <= 4096
    assert (preview.rows, preview.columns) == (height, width)
    json.loads(preview.data)


def test_a_cell_without_end_is_no_table(maker: PreviewMaker, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'"' + b"x" * (3 << 20))
    assert of(maker, tmp_path / "t.csv", "table") is None


async def test_what_is_listed_of_a_medium(maker: PreviewMaker, tmp_path: Path) -> None:
    stored: list[bytes] = []

    async def put(path: Path) -> tuple[str, int]:
        stored.append(path.read_bytes())
        return "b" * 64, len(stored[-1])

    file = tmp_path / "x.png"
    Image.effect_noise((900, 300), 80).save(file)
    blob = Described("a" * 64, file.stat().st_size)
    record = {"k": "f", "kind": "image", "key": "val/x", "caption": "a \ud800cat", "file": str(file)}
    medium = await describe(maker, record, file, blob, put, tmp_path)
    assert medium is not None
    assert (medium.type, medium.key, medium.caption) == ("image", "val/x", "a ?cat")
    assert medium.thumbnail == Thumbnail(sha256="b" * 64, size=len(stored[0]), format="webp", width=900, height=300)
    assert list(tmp_path.iterdir()) == [file]
    Image.new("L", (9, 9)).save(file)
    tiny = await describe(maker, record, file, Described("a" * 64, 70), put, tmp_path)
    assert tiny is not None
    assert tiny.thumbnail == Thumbnail(sha256="a" * 64, size=70, format="png", width=9, height=9)
    file.write_text("broken")
    broken = await describe(maker, record, file, blob, put, tmp_path)
    assert broken is not None
    assert broken.thumbnail is None
    text = await describe(maker, {"k": "f", "kind": "text", "key": 5}, file, blob, put, tmp_path)
    assert text is not None
    assert (text.type, text.key, text.thumbnail) == ("text", "text", None)
    assert await describe(maker, {"k": "c"}, file, blob, put, tmp_path) is None
    assert (maker.made, maker.failed) == (2, 1)


async def test_closing_does_not_wait_for_a_stuck_worker(tmp_path: Path) -> None:
    maker, good = PreviewMaker(timeout_s=60.0), tmp_path / "good.png"
    await asyncio.to_thread(stopped, maker, good)
    file = os.open(good, os.O_RDONLY)
    stuck = asyncio.create_task(maker.of("image", file))
    await until(lambda: maker._worker is not None and maker._worker.uses == 2, timeout=10)
    await asyncio.wait_for(asyncio.to_thread(maker.close), 10)
    assert await asyncio.wait_for(stuck, 10) is None
    os.close(file)
