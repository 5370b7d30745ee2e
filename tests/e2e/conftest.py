"""One platform for all end-to-end tests of a worker (files stay whole: --dist loadfile)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_local.aftermath import assert_right
from incl_local.layout import Layout
from incl_local.testing import Home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A running platform, in a path with a space."""
    place = Home(tmp_path_factory.mktemp("a home"))
    started = place.incl("up", "--detach", timeout=90)
    assert started.code == 0, started.err
    try:
        yield place
        end_all(place)
        assert_right(Layout(place.data))
    finally:
        stopped = place.incl("down", timeout=60)
        assert stopped.code == 0, stopped.err


def end_all(place: Home) -> None:
    """Stop what tests left running: they looked at it long enough."""
    listed = place.incl("ls", "status in (queued, starting, running, stopping)", "-n", "200", "--json")
    assert listed.code == 0, listed.err
    rows = listed.json["rows"] if isinstance(listed.json, dict) else listed.json
    for row in rows:
        place.incl("stop", row["id"], "--wait")


def left_of(data: Path) -> list[str]:
    """Processes of this machine whose command line or working directory lies in a platform's folder."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            place = str((process / "cwd").readlink())
        except OSError:
            continue
        if str(data / "cloud") in words or place.startswith(str(data / "cloud")):
            found.append(f"{process.name} {words[:120]}")
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Home]:
    """A home with no platform in it yet; whatever the test starts is stopped."""
    place = Home(tmp_path / "fresh home")
    yield place
    place.incl("down", timeout=60)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty working directory."""
    folder = tmp_path / "a project"
    folder.mkdir()
    return folder
