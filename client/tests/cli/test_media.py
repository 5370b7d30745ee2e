"""incl media."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from incl_cli.inline_images import iterm, kitty
from incl_cli.testing import FakePlatform, Run
from incl_shared.events import Medium, Thumbnail
from incl_shared.queries.tracker import ArtifactView


def picture(size: tuple[int, int], kind: str = "WEBP") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (9, 8, 7)).save(stream, kind)
    return stream.getvalue()


def thumbnail(fake: FakePlatform, data: bytes, **facts: Any) -> Thumbnail:
    fake.blobs[hashlib.sha256(data).hexdigest()] = data
    return Thumbnail(sha256=hashlib.sha256(data).hexdigest(), size=len(data), **facts)


@pytest.fixture
def media(fake: FakePlatform) -> FakePlatform:
    """Images at steps 0, 10 and 20 of ranks 0 and 1, a table and a text."""
    view = fake.add(name="pictures")
    files: list[ArtifactView] = []
    small = thumbnail(fake, picture((64, 48)), format="webp", width=640, height=480)
    document = {"columns": ["word", "n"], "cells": [["cat\x1b[31m", "3"], ["dog", "4"]], "rows": 2, "total_columns": 2}
    rows = thumbnail(fake, json.dumps(document).encode(), format="json", rows=2, columns=2)

    def add(key: str, step: int, content: bytes, ending: str, medium: Medium, rank: int = 0) -> None:
        fake.blobs[hashlib.sha256(content).hexdigest()] = content
        files.append(
            ArtifactView(
                path=f"{key}/{step}/{key}.{ending}", kind="media", sha256=hashlib.sha256(content).hexdigest(),
                size=len(content), attempt=1, rank=rank, step=step, medium=medium,
            )
        )  # fmt: skip

    for step in (0, 10, 20):
        for rank in (0, 1):
            said = Medium(type="image", key="val", caption="a cat\x1b[2J", thumbnail=small)
            add("val", step, f"image {step} {rank}".encode(), "png", said, rank)
    add("scores", 5, b"word,n\ncat,3\n", "csv", Medium(type="table", key="scores", thumbnail=rows))
    add("note", 7, b"hello", "txt", Medium(type="text", key="note"))
    fake.media[view.row.id] = files
    fake.page = 3
    return fake


def test_media_lists_keys(media: FakePlatform, cli: Run) -> None:
    result = cli("media", "@last")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split() == ["key", "type", "count", "steps", "size"]
    assert lines[3].split() == ["val", "image", "6", "0", "–", "20", "58", "B"]
    assert [key["key"] for key in cli("media", "@last", "--json").json] == ["note", "scores", "val"]


def test_media_lists_files(media: FakePlatform, cli: Run) -> None:
    result = cli("media", "@last", "--key", "val", "--step", "10:")
    assert result.code == 0
    assert [line.split()[:2] for line in result.out.splitlines()[1:]] == [
        ["10", "val/10/val.png"], ["10", "val/10/val.png"], ["20", "val/20/val.png"], ["20", "val/20/val.png"],
    ]  # fmt: skip
    assert "640 x 480" in result.out
    assert "\x1b" not in result.out
    last = cli("media", "@last", "--step", "last", "--rank", "0", "--json").json
    assert {(one["path"], one["step"]) for one in last} == {
        ("val/20/val.png", 20), ("scores/5/scores.csv", 5), ("note/7/note.txt", 7),
    }  # fmt: skip
    some = cli("media", "@last", "--key", "val", "--limit", "2")
    assert len(some.out.splitlines()) == 3
    assert "--limit 0" in some.err
    assert len(cli("media", "@last", "--type", "image", "--limit", "0", "--json").json) == 6


def test_media_are_saved(media: FakePlatform, cli: Run, tmp_path: Path) -> None:
    result = cli("media", "@last", "--key", "val", "--step", "0:10", "--save", str(tmp_path / "out"))
    assert result.code == 0
    assert (tmp_path / "out" / "rank1" / "val" / "10" / "val.png").read_bytes() == b"image 10 1"
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4
    small = cli("media", "@last", "--type", "image", "--rank", "0", "--thumbnails", "--save", str(tmp_path / "small"))
    assert small.code == 0
    with Image.open(tmp_path / "small" / "val" / "0" / "val.png.thumbnail.webp") as image:
        assert image.size == (64, 48)
    none = cli("media", "@last", "--key", "note", "--thumbnails", "--save", str(tmp_path / "none"))
    assert (none.code, "no thumbnail" in none.err) == (0, True)


def test_media_are_shown(media: FakePlatform, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    table = cli("media", "@last", "--key", "scores", "--show")
    assert table.code == 0
    assert [line.split() for line in table.out.splitlines()[1:]] == [["word", "n"], ["cat", "3"], ["dog", "4"]]
    refused = cli("media", "@last", "--key", "val", "--show", terminal=True)
    assert refused.code == 2
    assert "--save" in refused.err
    monkeypatch.setenv("KITTY_WINDOW_ID", "1")
    drawn = cli("media", "@last", "--key", "val", "--step", "last", "--show", terminal=True)
    assert drawn.code == 0
    assert drawn.out.count("\x1b_Ga=T,f=100,") == 2
    assert "\x1b[2J" not in drawn.out


def test_images_in_terminals() -> None:
    big = picture((256, 256), "PNG")
    assert kitty(big).startswith("\x1b_Ga=T,f=100,m=0;iVBOR")
    assert iterm(big).startswith("\x1b]1337;File=inline=1;size=")
    noise = io.BytesIO()
    Image.effect_noise((256, 256), 90).convert("RGB").save(noise, "PNG")
    assert kitty(noise.getvalue()).count("\x1b_G") > 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--key", "vall"], "did you mean 'val'"),
        (["--step", "x"], "--step 5:10"),
        (["--thumbnails"], "--save"),
        (["--limit", "-1"], "negative"),
        (["--type", "video"], "choose from"),
    ],
)
def test_what_cannot_be(media: FakePlatform, cli: Run, words: list[str], said: str) -> None:
    result = cli("media", "@last", *words)
    assert result.code != 0
    assert said in result.err


def test_an_experiment_without_media(fake: FakePlatform, cli: Run) -> None:
    fake.add()
    assert "no images" in cli("media", "@last").err
    assert cli("media", "@last", "--json").json == []
    assert cli("media", "@last", "--type", "image", "--json").json == []
