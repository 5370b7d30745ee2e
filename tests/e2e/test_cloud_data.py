"""Data of snapshots on `incl up --cloud fake`: a disk made once, mounted at its place, shared, and gone when unused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from incl_local.aftermath import assert_right
from incl_local.layout import Layout
from incl_local.testing import CloudSwitches, Home, wait

from .conftest import end_all, left_of

READ = """
import json, os, pathlib
print("read", pathlib.Path("/data/scan.txt").read_text(), flush=True)
below = pathlib.Path(os.environ["INCL_DATA_DIR"], "chest-ct-v3", "scan.txt")
print("below", below.read_text(), json.loads(os.environ["INCL_DATA_PATHS"])["chest-ct-v3"], flush=True)
try:
    pathlib.Path("/data/new").touch()
except OSError as error:
    print("write:", error.strerror, flush=True)
"""
STAY = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("read", pathlib.Path("/data/scan.txt").read_text(), flush=True)
if os.environ["INCL_ATTEMPT"] == "1":
    time.sleep(300)
"""
DATA = ("--data", "snapshot=chest-ct-v3,mount=/data")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A platform with a fake cloud whose unused disks go soon; at the end nothing is left of either."""
    place = Home(tmp_path_factory.mktemp("scans"))
    place.environment |= {"INCL_PROVISIONER_CLOUD__DATA_IDLE_S": "20", "INCL_PROVISIONER_CLOUD__DRAIN_S": "15"}
    started = place.incl("up", "--detach", "--cloud", "fake", timeout=90)
    assert started.code == 0, started.err
    try:
        yield place
        end_all(place)
        assert_right(Layout(place.data))
        wait(CloudSwitches(place).empty, 90, "an empty cloud")
    finally:
        stopped = place.incl("down", timeout=60)
        assert stopped.code == 0, stopped.err
    assert left_of(place.data) == []


@pytest.fixture
def cloud(site: Home, tmp_path: Path) -> Iterator[CloudSwitches]:
    """Its switches, with a snapshot; skipped where VMs share this machine's files."""
    switches = CloudSwitches(site)
    if switches.form != "namespaces":
        pytest.skip("process groups mount nothing at /data")
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "scan.txt").write_text("voxels")
    switches.turn("snapshot", name="chest-ct-v3", size_gb=40, folder=str(scans))
    yield switches
    switches.turn("clear")
    wait(switches.empty, 90, "nothing is left of this test")
    assert [path.name for path in scans.iterdir()] == ["scan.txt"], "nobody wrote to the snapshot"


def data_disks(cloud: CloudSwitches) -> list[Any]:
    return [each for each in cloud.state()["disks"] if each["name"].startswith("incl-data-")]


def inserts(cloud: CloudSwitches) -> int:
    return int(cloud.state()["calls"].get("disks.insert", 0))


def test_two_nodes_read_a_snapshot_and_the_next_experiment_shares_its_disk(
    site: Home, cloud: CloudSwitches, project: Path
) -> None:
    (project / "read.py").write_text(READ)
    before = inserts(cloud)
    words = ("--instance", "e2-standard-2", "--nodes", "2", *DATA, "--", "python", "read.py")
    done = site.incl("run", *words, cwd=project, timeout=150)
    assert done.code == 0, done.err
    assert "preparing data in" in done.err
    out = site.incl("logs", "@last").out
    assert (out.count("read voxels"), out.count("below voxels /data")) == (2, 2)
    assert out.count("write: Read-only file system") == 2
    (disk,) = data_disks(cloud)
    assert (disk["kind"], disk["labels"]["incl-snapshot"]) == ("pd-balanced", "chest-ct-v3")
    view = site.show()
    stage = next(each for each in view["stages"] if each["name"] == "data")
    assert stage["end"] >= stage["start"]
    assert "mounted in" in stage["note"]
    again = site.incl("run", "--instance", "e2-standard-2", *DATA, "--", "python", "read.py", cwd=project, timeout=150)
    assert again.code == 0, again.err
    assert inserts(cloud) == before + 1, "the second experiment shares the disk of the first"


def test_a_preempted_attempt_in_another_zone_makes_another_disk(
    site: Home, cloud: CloudSwitches, project: Path
) -> None:
    (project / "stay.py").write_text(STAY)
    identifier = site.submit("--instance", "n2-standard-4", "--spot", *DATA, "--", "python", "stay.py", cwd=project)
    wait(lambda: "read voxels" in site.incl("logs", identifier).out, 120, "it reads")
    (disk,) = data_disks(cloud)
    cloud.turn("stockout", zone=disk["zone"])
    cloud.turn("preempt", zone=disk["zone"], name=f"incl-{identifier}-a1-n0")
    done = site.until(identifier, ["finished", "failed"], 150)
    assert done["row"]["state"] == "finished", done["message"]
    assert [attempt["reason"] for attempt in done["attempts"]] == ["preempted", "completed"]
    zones = [gang["zone"] for gang in json.loads(site.incl("machines", identifier, "--json").out)["gangs"]]
    assert len(set(zones)) == 2
    assert site.incl("logs", identifier).out.count("read voxels") == 2


def test_what_cannot_be_had_is_told(site: Home, cloud: CloudSwitches, project: Path) -> None:
    (project / "read.py").write_text(READ)
    none = ("--data", "snapshot=chest-ct-v4,mount=/data")
    failed = site.incl("run", "--instance", "e2-standard-2", *none, "--", "python", "read.py", cwd=project, timeout=90)
    assert failed.code == 3, failed.err
    assert "there is no snapshot 'chest-ct-v4'" in failed.err
    local = site.incl("run", *DATA, "--", "python", "read.py", cwd=project)
    assert local.code != 0
    assert "the snapshot 'chest-ct-v3' is mounted on machines of a cloud only" in local.err
    cloud.turn("quota", metric="HDB_TOTAL_GB", limit=0, region="*")
    waits = site.submit("--instance", "c3-standard-4", *DATA, "--", "python", "read.py", cwd=project)
    wait(lambda: "quota HDB_TOTAL_GB is 0" in site.show(waits)["row"]["waiting"], 60, "it is told")
    assert site.incl("stop", waits, "--wait").code == 0
    export = ("--data", "nfs=127.0.0.1:/none,mount=/scans")
    refused = site.incl("run", "--instance", "e2-standard-2", *export, "--", "true", cwd=project, timeout=120)
    assert refused.code == 3
    assert "the nfs 127.0.0.1:/none cannot be mounted" in refused.err
    assert "(data)" in refused.err or site.show()["row"]["reason"] in ("data", "infra")
