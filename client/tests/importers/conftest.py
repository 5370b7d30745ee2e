"""A user with a platform in memory, and files that the real libraries wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_cli.context import Context
from incl_cli.ship_fake import Platform

CONTEXT = Context(("nats://127.0.0.1:1",), None, "vision", "ann")

WANDB = """
import os, time, wandb
from PIL import Image
picture = Image.new("RGB", (8, 8))
run = wandb.init(project="old", name="first run", config={"lr": 0.1, "model": {"depth": 3}}, tags=["a", "b"],
                 notes="some notes", group="g", job_type="train")
for i in range(20):
    wandb.log({"loss": 1 / (i + 1), "val": {"acc": i / 20}, "word": "hi", "flag": True})
wandb.log({"odd": float("nan"), "huge": float("inf"), "big": 2**60})
wandb.log({"late": 1.5, "image": wandb.Image(picture), "several": [wandb.Image(picture)] * 2,
           "table": wandb.Table(columns=["n", "t"], data=[[1, "x"], [2, None]]),
           "page": wandb.Html("<b>x</b>"), "spread": wandb.Histogram([1, 2, 3])}, step=100)
run.summary["best"] = 0.99
run.summary["verdict"] = "good"
wandb.config.update({"seed": 5})
run.alert("Careful", "it is slow", level="WARN")
print("hello from the run")
run.finish(exit_code=int(os.environ["CODE"]))
"""


@pytest.fixture
def platform() -> Platform:
    """A platform that stores every record once."""
    return Platform()


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of the command line for this test alone."""
    before = os.environ.get("INCL_HOME")
    os.environ["INCL_HOME"] = str(tmp_path / "a home")
    yield tmp_path / "a home"
    if before is None:
        del os.environ["INCL_HOME"]
    else:
        os.environ["INCL_HOME"] = before


@pytest.fixture
def context() -> Context:
    """The project vision, as ann."""
    return CONTEXT


def record_wandb(folder: Path, code: int) -> Path:
    """Let the real wandb record a run offline; its directory."""
    folder.mkdir(parents=True)
    settings = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    places = {"WANDB_DIR": str(folder), "HOME": str(folder), "WANDB_DATA_DIR": str(folder / "data")}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("INCL_", "WANDB_"))}
    environment = {**clean, **settings, **places, "CODE": str(code)}
    subprocess.run([sys.executable, "-c", WANDB], cwd=folder, env=environment, check=True, timeout=100)
    (found,) = (folder / "wandb").glob("offline-run-*")
    return found


@pytest.fixture(scope="session")
def wandb_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the real wandb recorded offline."""
    return record_wandb(tmp_path_factory.mktemp("w and b") / "work", 0)
