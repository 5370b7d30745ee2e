"""Images and tables of a script: stored with thumbnails, listed by key and step, fetched; live and from outside."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from incl_local.testing import Home, wait

SCRIPT = """
import incl
from incl._media import png
incl.init()
for step in range(3):
    incl.log({"loss": 1 / (step + 1)}, step=step)
    incl.log_image("val/samples", [png(600, 400, 1, bytes([n * 60]) * 240000) for n in range(2)], step=step,
                   caption=["a cat", "a dog"])
incl.log_table("scores", [{"word": "cat", "n": n} for n in range(40)], step=2)
incl.log_text("note", "hello", step=2)
"""


def looked_at(home: Home, project: Path, name: str) -> None:
    """What `incl media` says and fetches of the script's run."""

    def keys() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(home.incl("media", name, "--json", cwd=project).out)
        return found if sum(int(str(one["count"])) for one in found) == 8 else []

    listed = wait(keys, 30, "all media are listed")
    assert [(one["key"], one["type"], one["count"], one["last_step"]) for one in listed] == [
        ("note", "text", 1, 2), ("scores", "table", 1, 2), ("val/samples", "image", 6, 2),
    ]  # fmt: skip
    last = json.loads(home.incl("media", name, "--key", "val/samples", "--step", "last", "--json", cwd=project).out)
    assert [(one["path"], one["medium"]["caption"]) for one in last] == [
        ("val/samples/2/val_samples-0.png", "a cat"), ("val/samples/2/val_samples-1.png", "a dog"),
    ]  # fmt: skip
    assert (last[0]["medium"]["thumbnail"]["width"], last[0]["medium"]["thumbnail"]["height"]) == (600, 400)
    saved = home.incl("media", name, "--key", "val/samples", "--step", "1", "--save", "whole", cwd=project)
    assert saved.code == 0, saved.err
    with Image.open(project / "whole" / "val" / "samples" / "1" / "val_samples-1.png") as image:
        assert (image.size, image.getpixel((5, 5))) == ((600, 400), 60)
    small = home.incl("media", name, "--type", "table", "--thumbnails", "--save", "small", cwd=project)
    assert small.code == 0, small.err
    (file,) = (project / "small").rglob("*.json")
    assert json.loads(file.read_bytes())["rows"] == 40
    shown = home.incl("media", name, "--key", "scores", "--show", cwd=project)
    assert "word" in shown.out


def test_media_of_an_experiment(home: Home, project: Path) -> None:
    (project / "train.py").write_text(SCRIPT)
    ran = home.incl("run", "--name", "pictures", "--", "python", "train.py", cwd=project)
    assert ran.code == 0, ran.err
    looked_at(home, project, "@last")
