"""`incl up --cloud fake`: the whole way of an experiment on machines that are made for it, and nothing left of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from incl_local.aftermath import assert_right
from incl_local.layout import Layout
from incl_local.testing import CloudSwitches, Home, wait

from .conftest import end_all, left_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MACHINE = "n2-standard-4"
SLACK_S = 5.0
"""Of a machine that has other things to do: starting a command takes a while."""
NOTE = """
import os, pathlib, incl
incl.log({"rank": float(os.environ["INCL_NODE_RANK"])}, step=1)
print("ran on", os.environ["INCL_NODE_IPS"], flush=True)
pathlib.Path(os.environ["INCL_OUTPUT_DIR"], "note.txt").write_text("kept")
"""
PATIENT = """
import os, pathlib, signal, sys, time, incl
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
latest = os.environ.get("INCL_LATEST_CHECKPOINT")
if latest:
    print("resumed from", pathlib.Path(latest).read_text(), flush=True)
    sys.exit(0)
path = pathlib.Path("step-7.txt"); path.write_text("step 7")
incl.checkpoint(path, step=7)
print("waiting", flush=True)
time.sleep(300)
"""
REDUCE = """
command: [sh, -c, 'test "$INCL_ATTEMPT" = 1 && export STEPS=1000000000; exec python train.py']
env: {STEPS: "3000"}
nodes: 4
instance: e2-standard-2
spot: true
resources: {cpu: 0.5}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A platform with a fake cloud; at the end the cloud is empty, and so is the machine once the platform is down."""
    place = Home(tmp_path_factory.mktemp("cloudy"))
    place.environment |= {
        "INCL_PROVISIONER_CLOUD__BOOT_S": "40",
        "INCL_PROVISIONER_CLOUD__DRAIN_S": "15",
        "INCL_TRACKER_SETTLE_AFTER_S": "20",
    }
    started = place.incl("up", "--detach", "--cloud", "fake", timeout=90)
    assert started.code == 0, started.err
    try:
        yield place
        cloud = CloudSwitches(place)
        cloud.turn("clear")
        end_all(place)
        assert_right(Layout(place.data))
        wait(cloud.empty, 60, "an empty cloud")
    finally:
        stopped = place.incl("down", timeout=60)
        assert stopped.code == 0, stopped.err
    assert not (place.data / "cloud").exists()
    assert not (place.data / "cloud.json").exists()
    assert left_of(place.data) == []


@pytest.fixture
def cloud(site: Home) -> Iterator[CloudSwitches]:
    """Its switches; afterwards all is well again."""
    switches = CloudSwitches(site)
    yield switches
    switches = CloudSwitches(site)
    switches.turn("clear")
    wait(switches.empty, 60, "nothing is left of this test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a script that notes where it ran."""
    (tmp_path / "train.py").write_text(NOTE)
    return tmp_path


def machines(site: Home, ref: str = "@last") -> Any:
    """What `incl machines` says of an experiment."""
    listed = site.incl("machines", ref, "--json")
    assert listed.code == 0, listed.err
    return listed.json["gangs"]


def settled(site: Home, ref: str) -> None:
    """What a lost machine did not send is waited for, and then known to be lost."""
    wait(lambda: all(attempt["settled"] for attempt in site.show(ref)["attempts"]), 90, "both attempts are settled")


def test_it_runs_on_a_machine_that_is_deleted_at_the_end(
    site: Home, cloud: CloudSwitches, folder: Path, tmp_path: Path
) -> None:
    done = site.incl("run", "--instance", MACHINE, "--", "python", "train.py", cwd=folder)
    assert done.code == 0, done.err
    assert "creating n2-standard-4 in" in done.err
    view = site.show()
    assert (view["row"]["state"], view["gaps"], view["settled"]) == ("finished", 0, True)
    (place,) = view["attempts"][0]["placements"]
    assert place["node"] == f"incl-{view['row']['id']}-a1-n0"
    kept = site.incl("download", "@last", "-o", str(tmp_path / "kept"))
    assert kept.code == 0, kept.err
    assert [p.read_text() for p in (tmp_path / "kept").rglob("note.txt")] == ["kept"]
    assert f"ran on {place['address']}" in site.incl("logs", "@last").out
    wait(cloud.empty, 60, "the machine is deleted")
    gang = wait(lambda: (g := machines(site)[0]) and g["deleted"] and g, 20, "the provider said so")
    assert (gang["machine"], gang["phase"], gang["spot"]) == (MACHINE, "gone", False)
    stage = next(s for s in view["stages"] if s["name"] == "machine")
    assert stage["end"] > stage["start"]
    assert MACHINE in stage["note"]
    assert gang["zone"] in stage["note"]
    nodes = [node["node"] for node in site.incl("status", "--json").json["cluster"]["nodes"]]
    assert nodes == ["local"]


def test_a_local_run_goes_on_as_before(site: Home, cloud: CloudSwitches, folder: Path) -> None:
    done = site.incl("run", "--", "python", "train.py", cwd=folder)
    assert done.code == 0, done.err
    assert site.show()["attempts"][0]["placements"][0]["node"] == "local"
    assert cloud.empty()


@pytest.mark.timeout(500)
def test_four_machines_reduce_through_a_preemption(site: Home, cloud: CloudSwitches, tmp_path: Path) -> None:
    """The first attempt would train for ever, the second is short: how fast this machine is does not matter."""
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(EXAMPLES / "allreduce" / "train.py", project)
    (project / "exp.yaml").write_text(REDUCE)
    identifier = site.submit("exp.yaml", cwd=project)
    site.until(identifier, ["running"], 120)
    wait(lambda: site.show(identifier)["points"], 60, "they train")
    zone = machines(site, identifier)[0]["zone"]
    made = cloud.ids()
    cloud.turn("preempt", zone=zone, name=f"incl-{identifier}-a1-n2")
    wait(lambda: len(site.show(identifier)["attempts"]) == 2, 120, "the next attempt begins")
    now = cloud.ids()
    done = site.until(identifier, ["finished", "failed"], 240)
    assert done["row"]["state"] == "finished", done["message"]
    assert [attempt["reason"] for attempt in done["attempts"]] == ["preempted", "completed"]
    assert "takes this machine back" in done["attempts"][0]["message"]
    before, after = ({one["node"]: one["address"] for one in each["placements"]} for each in done["attempts"])
    kept = {f"incl-{identifier}-a1-n{rank}" for rank in (0, 1, 3)}
    if machines(site, identifier)[0]["tries"] == 1:
        assert after.keys() == kept | {f"incl-{identifier}-a2-n2"}, "only the one that was taken is made anew"
        assert {name: now[name] for name in kept} == {name: made[name] for name in kept}, "the very same machines"
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert after[f"incl-{identifier}-a2-n2"] not in before.values(), "a new machine, a new address"
    else:  # on a busy machine it may not boot in the 40 s that are set here: then all are made anew, never some
        assert after.keys() == {f"incl-{identifier}-a2-n{rank}" for rank in range(4)}
    fetched = site.incl("download", identifier, "-o", str(tmp_path / "kept"))
    assert fetched.code == 0, fetched.err
    sums = {p.read_text() for p in tmp_path.rglob("checksum-*.txt")}
    assert len(sums) == 1
    wait(cloud.empty, 90, "all are deleted")
    assert machines(site, identifier)[-1]["preempted"] is not None


def test_a_preempted_job_leaves_a_checkpoint_and_goes_on_from_it(
    site: Home, cloud: CloudSwitches, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(PATIENT)
    identifier = site.submit("--instance", MACHINE, "--spot", "--", "python", "train.py", cwd=tmp_path)
    wait(lambda: "waiting" in site.incl("logs", identifier).out, 90, "it waits")
    cloud.turn("preempt", zone=machines(site, identifier)[0]["zone"], name=f"incl-{identifier}-a1-n0")
    done = site.until(identifier, ["finished", "failed"], 120)
    assert done["row"]["state"] == "finished", done["message"]
    assert "resumed from step 7" in site.incl("logs", identifier).out


def test_a_machine_that_breaks_is_lost_and_another_one_goes_on(
    site: Home, cloud: CloudSwitches, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(PATIENT)
    identifier = site.submit("--instance", MACHINE, "--", "python", "train.py", cwd=tmp_path)
    wait(lambda: "waiting" in site.incl("logs", identifier).out, 90, "it waits")
    cloud.turn("host-error", zone=machines(site, identifier)[0]["zone"], name=f"incl-{identifier}-a1-n0")
    done = site.until(identifier, ["finished", "failed"], 120)
    assert [attempt["reason"] for attempt in done["attempts"]] == ["lost", "completed"]
    settled(site, identifier)


def test_what_nobody_has_is_refused_with_what_was_meant(site: Home, cloud: CloudSwitches, folder: Path) -> None:
    for words, says in (
        (("--instance", "n2-standard-5"), "there is no instance 'n2-standard-5'"),
        (("--instance", "auto", "--cpu", "4000"), "no machine has 4000 cores"),
        (("--spot",), "no instance"),
    ):
        refused = site.incl("run", *words, "--", "python", "train.py", cwd=folder)
        assert refused.code != 0
        assert says in refused.err, refused.err
        assert "hint:" in refused.err
    (folder / "far.yaml").write_text(f"command: python train.py\ninstance: {MACHINE}\nzones: [us-central1-q]\n")
    refused = site.incl("run", "far.yaml", cwd=folder)
    assert "there is no zone 'us-central1-q'" in refused.err
    assert cloud.empty()


def test_a_stockout_everywhere_is_told_and_a_stop_leaves_nothing(
    site: Home, cloud: CloudSwitches, folder: Path
) -> None:
    cloud.turn("stockout", zone="*")  # of a machine of its own: the zones rest for five minutes after it
    identifier = site.submit("--instance", "n2-standard-16", "--", "python", "train.py", cwd=folder)
    view = wait(lambda: (v := site.show(identifier)) and "zones wait" in v["row"]["waiting"] and v, 60, "it is told")
    assert "no such machine free now" in view["row"]["waiting"]
    assert site.incl("stop", identifier, "--wait").code == 0
    wait(cloud.empty, 30, "nothing is left")
    cloud.turn("clear")


def test_a_quota_of_zero_is_told(site: Home, cloud: CloudSwitches, folder: Path) -> None:
    cloud.turn("quota", metric="C3_CPUS", limit=0, region="*")
    (folder / "near.yaml").write_text("command: python train.py\ninstance: c3-standard-4\nregions: [us-central1]\n")
    identifier = site.submit("near.yaml", cwd=folder)
    wait(lambda: "quota C3_CPUS is 0" in site.show(identifier)["row"]["waiting"], 60, "it is told")
    assert site.incl("stop", identifier, "--wait").code == 0


def test_an_api_that_hangs_is_told_within_fifteen_seconds(site: Home, cloud: CloudSwitches, folder: Path) -> None:
    """Its calls last longer than that before they are given up."""
    cloud.turn("fault", kind="hang", method="*", times=None)
    began = time.monotonic()
    identifier = site.submit("--instance", MACHINE, "--", "python", "train.py", cwd=folder)
    says = "Compute Engine has not answered for"
    wait(lambda: says in site.show(identifier)["row"]["waiting"], 20, "it is told")
    assert time.monotonic() - began < 15.0 + SLACK_S
    assert says in site.incl("show", identifier).out
    listed = site.incl("machines")
    assert says in listed.err
    assert "hint:" in listed.err
    cloud.turn("clear")
    assert site.incl("stop", identifier, "--wait").code == 0
    wait(lambda: says not in site.incl("machines").err, 60, "it answers")


def test_a_machine_that_never_dials_in_fails_it_with_its_last_words(
    site: Home, cloud: CloudSwitches, folder: Path
) -> None:
    cloud.turn("guest", name="*", network=False)
    identifier = site.submit("--instance", MACHINE, "--", "python", "train.py", cwd=folder)
    done = site.until(identifier, ["failed", "finished"], 180)
    assert done["row"]["state"] == "failed"
    assert f"machine incl-{identifier}-a1-n0 said nothing for 40 s" in done["message"]
    wait(cloud.empty, 60, "nothing is left")


def test_no_permission_fails_it_with_the_next_step(site: Home, cloud: CloudSwitches, folder: Path) -> None:
    cloud.turn("deny", permission="compute.instances.create")
    failed = site.incl("run", "--instance", MACHINE, "--", "python", "train.py", cwd=folder)
    assert failed.code == 3, failed.err
    assert "the platform's account may not do this" in failed.err
    assert "hint:" in failed.err
    wait(cloud.empty, 30, "nothing is left")


def test_a_platform_that_was_down_goes_on_with_new_machines(site: Home, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PATIENT)
    identifier = site.submit("--instance", MACHINE, "--", "python", "train.py", cwd=tmp_path)
    wait(lambda: "waiting" in site.incl("logs", identifier).out, 90, "it waits")
    assert site.incl("down", timeout=60).code == 0
    assert left_of(site.data) == []
    assert site.incl("up", "--detach", "--cloud", "fake", timeout=90).code == 0
    done = site.until(identifier, ["finished", "failed"], 120)
    assert [attempt["reason"] for attempt in done["attempts"]] == ["lost", "completed"]
    settled(site, identifier)
