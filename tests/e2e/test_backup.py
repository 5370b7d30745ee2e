"""Backup of a platform at work, and restore: on the same machine and on another; everything is as it was."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from incl_local.aftermath import assert_right
from incl_local.layout import Layout
from incl_local.testing import Home, wait

LONG = """
import os, time, incl
step = 0
while not os.path.exists(os.environ["GO"]):
    incl.log({"loss": 1.0 / (step + 1)}, step=step)
    print("line", step, flush=True)
    time.sleep(0.01)
    step += 1
"""
QUICK = """
import os, incl
for step in range(50):
    incl.log({"loss": 1.0 / (step + 1)}, step=step)
    print("line", step)
incl.log_text("note", "hello")
with open(os.path.join(os.environ["INCL_OUTPUT_DIR"], "out.bin"), "wb") as file:
    file.write(bytes(range(256)) * 40)
"""


def ended(home: Home, experiment: str) -> Any:
    home.until(experiment, ["finished", "failed", "stopped"])
    return wait(lambda: (v := home.show(experiment)) and v["settled"] and v, 30, "settled")


def answers(home: Home, experiment: str) -> Any:
    """All that is said of an ended experiment."""
    out = home.folder / "fetched"
    shutil.rmtree(out, ignore_errors=True)
    fetched = home.incl("download", experiment, "--output", str(out))
    return {
        "show": home.show(experiment),
        "logs": home.incl("logs", experiment, "--json").out,
        "metrics": home.incl("metrics", experiment, "loss", "--json").out,
        "files": sorted((str(p.relative_to(out)), p.read_bytes()) for p in out.rglob("*") if p.is_file()),
        "fetched": fetched.code,
    }


def settled(home: Home, experiment: str) -> bool:
    with contextlib.closing(sqlite3.connect(home.data / "db" / "tracker.db")) as database:
        left = "SELECT count(*) FROM attempts WHERE experiment = ? AND NOT settled"
        return bool(database.execute(left, [experiment]).fetchone()[0] == 0)


def servers(home: Home) -> list[psutil.Process]:
    """The nats-servers that run on this platform's store."""
    config = str(home.data / "nats" / "nats-server.conf")
    return [each for each in psutil.process_iter(["cmdline"]) if config in (each.info["cmdline"] or [])]


def up(home: Home) -> None:
    started = home.incl("up", "--detach", timeout=90)
    assert started.code == 0, started.err


def backup(home: Home, *words: str) -> Any:
    done = home.incl("admin", "backup", *words, "--json", timeout=90)
    assert done.code == 0, done.err
    return done.json


def restored(home: Home, *words: str) -> Any:
    done = home.incl("admin", "restore", *words, "--json", timeout=90)
    assert done.code == 0, done.err
    return done.json


@pytest.mark.timeout(300)
def test_a_restored_platform_is_as_it_was(fresh: Home, project: Path, tmp_path: Path) -> None:
    up(fresh)
    place = fresh.folder / "backups"
    go = fresh.folder / "go"
    (project / "quick.py").write_text(QUICK)
    (project / "long.py").write_text(LONG)
    done = fresh.submit("--", "python", "quick.py", cwd=project)
    before = ended(fresh, done) and answers(fresh, done)
    token = fresh.incl("token", "create", "--json").json
    secret = fresh.incl("secret", "set", "KEY", "--value", "hidden")
    running = fresh.submit("--env", f"GO={go}", "--", "python", "long.py", cwd=project)
    wait(lambda: fresh.show(running)["points"] > 50, 40, "it logs")
    made = backup(fresh, str(place))
    assert made["running"]
    assert made["held_s"] < 2
    assert not made["missing"]
    kept = fresh.show(running)["points"]
    later = fresh.submit("--", "python", "quick.py", cwd=project)
    ended(fresh, later)
    assert fresh.incl("admin", "restore", str(place)).code == 5, "it runs"
    assert fresh.incl("down").code == 0

    # the same machine: the job still runs under its shim, and goes on
    said = restored(fresh, str(place))
    assert Path(said["aside"]).is_dir()
    up(fresh)
    assert answers(fresh, done) == before
    assert fresh.incl("show", later).code == 4, "it came after the backup"
    assert [row["id"] for row in fresh.incl("token", "ls", "--json").json] == [token["id"]]
    if secret.code == 0:
        assert "KEY" in fresh.incl("secret", "ls").out
    wait(lambda: fresh.show(running)["points"] > kept + 20, 60, "it goes on to log")
    go.touch()
    view = ended(fresh, running)
    lines = [line for line in fresh.incl("logs", running).out.splitlines() if "line " in line]
    assert sorted(int(line.rsplit(" ", 1)[1]) for line in lines) == list(range(len(lines)))
    assert (view["row"]["state"], view["gaps"], view["points"]) == ("finished", 0, len(lines))
    ended(fresh, fresh.submit("--", "python", "quick.py", cwd=project))
    shutil.rmtree(said["aside"])  # as an operator does who is content
    assert_right(Layout(fresh.data))
    assert fresh.incl("down").code == 0

    # another machine: what ran is lost, and ends as its policy says
    other = Home(tmp_path / "another home")
    other.environment["INCL_TRACKER_SETTLE_AFTER_S"] = "5"
    try:
        restored(other, str(place))
        rebuilt = other.incl("admin", "rebuild", "tracker", "--json", timeout=90).json
        assert (rebuilt["changed"], rebuilt["made"], rebuilt["kept"]) == ([], [], {})
        assert rebuilt["same"] == 2
        up(other)
        assert answers(other, done) == before
        attempts = ended(other, running)["attempts"]
        assert [attempt["reason"] for attempt in attempts] == ["lost", "completed"]
        ended(other, other.submit("--", "python", "quick.py", cwd=project))
        wait(lambda: settled(other, running), 30, "the lost attempt is given up")
        assert_right(Layout(other.data))
    finally:
        other.incl("down", timeout=60)


def test_a_backup_that_is_killed_leaves_the_platform_and_the_others_as_they_were(fresh: Home) -> None:
    up(fresh)
    place = fresh.folder / "backups"
    first = backup(fresh, str(place))
    child = fresh.start("admin", "backup", str(place))
    wait(lambda: list(place.glob(".incomplete-*")) or child.poll() is not None, 30, "it began")
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=20)
    assert fresh.incl("status").code == 0
    second = backup(fresh, str(place), "--no-secrets", "--no-artifacts")
    assert not list(place.glob(".incomplete-*"))
    names = {path.name for path in Path(second["backup"]).iterdir()}
    assert not names & {"keys", "blobs.txt"}
    assert fresh.incl("down").code == 0
    stopped = backup(fresh, str(fresh.folder / "one.tar"))
    assert not stopped["running"]
    assert fresh.incl("admin", "backup", "--verify", first["backup"]).code == 0
    restored(fresh, first["backup"])
    assert restored(fresh, str(fresh.folder / "one.tar"))["created"] == stopped["created"]
    up(fresh)
    assert json.loads(fresh.incl("status", "--json").out)["problem"] in (None, "")


def test_a_rebuild_that_is_killed_leaves_the_tracker_as_it_was(fresh: Home, project: Path) -> None:
    up(fresh)
    (project / "quick.py").write_text(QUICK)
    done = fresh.submit("--", "python", "quick.py", cwd=project)
    before = ended(fresh, done) and answers(fresh, done)
    assert fresh.incl("down").code == 0
    for moment in range(1, 6):
        child = fresh.start("admin", "rebuild", "tracker")
        try:
            child.wait(0.5 * moment)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.communicate(timeout=20)
        wait(lambda: not servers(fresh), 5, "the bus that it had started ends with it")
    rebuilt = fresh.incl("admin", "rebuild", "tracker", "--json", timeout=90)
    assert rebuilt.code == 0, rebuilt.err
    assert (rebuilt.json["changed"], rebuilt.json["made"], rebuilt.json["kept"]) == ([], [], {})
    up(fresh)
    assert answers(fresh, done) == before
    assert_right(Layout(fresh.data))
