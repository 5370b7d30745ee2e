"""A fake cloud whose VMs are process groups, as on a machine without root: the same way, and nothing is left."""

from __future__ import annotations

from pathlib import Path

from incl_local.testing import CloudSwitches, Home, wait

from .conftest import left_of

SCRIPT = """
import os, socket, time, incl
rank, addresses = int(os.environ["INCL_NODE_RANK"]), os.environ["INCL_NODE_IPS"].split(",")
incl.log({"rank": rank}, step=1)
print("at", addresses[rank], flush=True)
while os.environ.get("STAY"):
    time.sleep(0.05)
"""


def guests(home: Home) -> list[str]:
    """Processes of VMs: what is left but for the cloud itself."""
    return [each for each in left_of(home.data) if "incl_provisioner.fakes.gce" not in each]


def test_a_gang_runs_and_a_down_in_the_middle_leaves_no_process(fresh: Home, project: Path) -> None:
    fresh.environment["INCL_FAKE_VMS"] = "groups"
    started = fresh.incl("up", "--detach", "--cloud", "fake", timeout=90)
    assert started.code == 0, started.err
    cloud = CloudSwitches(fresh)
    assert cloud.form == "groups"
    (project / "train.py").write_text(SCRIPT)
    done = fresh.incl("run", "--instance", "e2-standard-2", "--nodes", "2", "--", "python", "train.py", cwd=project)
    assert done.code == 0, done.err
    places = fresh.show()["attempts"][0]["placements"]
    out = fresh.incl("logs", "@last").out
    assert len({place["address"] for place in places}) == 2
    assert all(f"at {place['address']}" in out for place in places)
    wait(cloud.empty, 60, "both are deleted")
    assert guests(fresh) == []
    words = ("--instance", "e2-standard-2", "--env", "STAY=1", "--", "python", "train.py")
    stays = fresh.submit(*words, cwd=project)
    wait(lambda: "at 127.10." in fresh.incl("logs", stays).out, 60, "it runs")
    pids = guests(fresh)
    assert pids, "its processes are seen"
    assert fresh.incl("down", timeout=60).code == 0
    assert left_of(fresh.data) == []
    assert not (fresh.data / "cloud").exists()
    assert not any(Path("/proc", each.split()[0]).exists() for each in pids)
