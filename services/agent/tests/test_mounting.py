"""Data on a machine: what is run, what it means when that fails, and real mounts where this machine allows them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from incl_agent.mounting import Mounter, failure, places
from incl_agent.runtimes.base import Plan, Prepared, RuntimeFailure
from incl_agent.runtimes.bubblewrap import BubblewrapRuntime
from incl_agent.runtimes.containers import ContainerRuntime
from incl_shared.mounts import device_name
from incl_shared.spec import DataMount
from incl_shared.states import EndReason

RECORD = """#!/bin/sh
for word; do printf '%s\\n' "$word"; done > "$RECORDS/$(basename "$0").$$"
[ -z "$SAYS" ] || { echo "$SAYS"; exit 32; }
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH in which every tool notes how it was called; SAYS makes them fail with these words."""
    folder, records = tmp_path / "tools", tmp_path / "records"
    folder.mkdir()
    records.mkdir()
    for name in ("mount", "mount.nfs", "gcsfuse", "mdadm", "mkfs.ext4", "blkid"):
        (folder / name).write_text(RECORD)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORDS", str(records))
    monkeypatch.setenv("SAYS", "")
    return folder


def called(tmp_path: Path, name: str) -> list[str]:
    """The words of the only call of a tool."""
    (record,) = (tmp_path / "records").glob(f"{name}.[0-9]*")
    return record.read_text().splitlines()


def data(**entry: object) -> DataMount:
    return DataMount.model_validate(entry)


def test_where_data_lies_and_where_the_job_finds_it(tmp_path: Path) -> None:
    entries = (
        data(snapshot="ct", mount="/data"), data(source="/srv/x", target="x"), data(bucket="gs://abc/one"),
        data(snapshot="mr"),
    )  # fmt: skip
    plain = places(entries, tmp_path, image=False)
    assert [(str(each.host), str(each.seen)) for each in plain[:2]] == [("/data", "/data"), ("/srv/x", "/srv/x")]
    assert plain[2].host == plain[2].seen == tmp_path / "mounts" / "one"
    assert [each.disk for each in plain] == [device_name(0), "", "", device_name(1)]
    inside = places(entries, tmp_path, image=True)
    assert (inside[0].host, inside[0].seen) == (tmp_path / "mounts" / "ct", Path("/data"))


async def test_what_is_run_for_each_kind(tools: Path, tmp_path: Path) -> None:
    disks = tmp_path / "disks"
    disks.mkdir()
    for name in ("google-incl-data-0", "google-local-nvme-ssd-0", "google-local-nvme-ssd-1"):
        (disks / name).write_bytes(b"")
    found = places(
        (data(bucket="gs://abc/one/two"), data(scratch="local-ssd")), tmp_path, image=False,
    )  # fmt: skip
    mounter = Mounter(disks, tmp_path, "n1")
    await mounter.mount(found)
    fuse = called(tmp_path, "gcsfuse")
    cache = fuse[fuse.index("--cache-dir") + 1]
    assert cache.startswith(str(tmp_path / "mounts" / "scratch")), "the cache lies on the fast disk"
    assert int(fuse[fuse.index("--file-cache-max-size-mb") + 1]) > 0
    assert fuse[:2] == ["-o", "ro"]
    assert fuse[-4:] == ["--only-dir", "one/two", "abc", str(found[0].host)]
    array = called(tmp_path, "mdadm")
    assert array[:4] == ["--create", "/dev/md/incl-scratch", "--level=0", "--raid-devices=2"]
    assert array[-2:] == [str(disks / "google-local-nvme-ssd-0"), str(disks / "google-local-nvme-ssd-1")]
    assert called(tmp_path, "mkfs.ext4")[-1] == "/dev/md/incl-scratch"
    assert called(tmp_path, "mount") == ["-o", "discard,noatime", "/dev/md/incl-scratch", str(found[1].host)]


async def test_a_snapshot_and_an_export(tools: Path, tmp_path: Path) -> None:
    disks = tmp_path / "disks"
    disks.mkdir()
    (disks / "google-incl-data-0").write_bytes(b"")
    (snapshot,) = places((data(snapshot="ct"),), tmp_path, image=False)
    mounter = Mounter(disks, tmp_path, "n1", device_s=0.0)
    await mounter.mount([snapshot])
    assert called(tmp_path, "mount") == ["-o", "ro,noload", str(disks / "google-incl-data-0"), str(snapshot.host)]
    shutil.rmtree(tmp_path / "records")
    (tmp_path / "records").mkdir()
    (export,) = places((data(nfs="10.0.0.2:/vol1"),), tmp_path, image=False)
    await mounter.mount([export])
    words = called(tmp_path, "mount")
    assert words[:2] == ["-t", "nfs"]
    assert "ro" in words[3].split(",")
    assert words[-2:] == ["10.0.0.2:/vol1", str(export.host)]


@pytest.mark.parametrize(
    ("entry", "says", "reason", "hint"),
    [
        ({"snapshot": "ct"}, "mount: /x: wrong fs type, bad option, bad superblock on /dev/sdb", EndReason.DATA,
         "file system"),
        ({"nfs": "h:/e"}, "mount.nfs: Connection timed out", EndReason.INFRA, "server up"),
        ({"nfs": "h:/e"}, "mount.nfs: access denied by server while mounting h:/e", EndReason.DATA, "may the machines"),
        ({"bucket": "gs://abc"}, "Error: bucket does not exist: googleapi: Error 404", EndReason.DATA, "spelled"),
        ({"bucket": "gs://abc"}, "googleapi: Error 403: no storage.objects.list", EndReason.DATA, "objectViewer"),
        ({"bucket": "gs://abc"}, "", EndReason.DATA, "docs/"),
    ],
)  # fmt: skip
def test_what_a_tool_says_means(entry: dict[str, object], says: str, reason: EndReason, hint: str) -> None:
    found = failure(data(**entry), says)
    assert (found.reason, hint in found.hint) == (reason, True), found.hint
    assert str(next(iter(entry.values()))) in found.message


async def test_what_is_missing_is_told(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounter = Mounter(tmp_path / "none", tmp_path, "n1", device_s=0.0)

    async def refused(on: Mounter, **entry: object) -> RuntimeFailure:
        with pytest.raises(RuntimeFailure) as caught:
            await on.mount(places((data(**entry),), tmp_path, image=False))
        return caught.value

    gone = await refused(mounter, snapshot="ct")
    assert (gone.reason, "did not appear" in gone.message) == (EndReason.INFRA, True)
    assert (await refused(mounter, scratch="local-ssd")).reason is EndReason.DATA
    own = await refused(Mounter(None, tmp_path, "mine"), snapshot="ct")
    assert (own.reason, "source: /path" in own.hint) == (EndReason.UNSUPPORTED, True)
    monkeypatch.setenv("SAYS", "mount.nfs: mounting h:/e failed, reason given by server: No such file or directory")
    assert (await refused(mounter, nfs="h:/e")).reason is EndReason.DATA
    monkeypatch.setattr("incl_agent.mounting._SBIN", ())
    for tool, entry in (("gcsfuse", {"bucket": "gs://abc"}), ("mount.nfs", {"nfs": "h:/f"})):
        (tools / tool).unlink()
        monkeypatch.setenv("PATH", str(tools))
        missing = await refused(mounter, **entry)
        assert (missing.reason, "IMAGE_FAMILY" in missing.hint) == (EndReason.DATA, True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    full = await refused(mounter, nfs="h:/e", mount=str(tmp_path / "full"))
    assert "has files there" in full.message


async def test_a_tool_that_hangs_is_ended(tools: Path, tmp_path: Path) -> None:
    (tools / "mount").write_text("#!/bin/sh\nexec sleep 60\n")
    (export,) = places((data(nfs="10.0.0.2:/vol1"),), tmp_path, image=False)
    with pytest.raises(RuntimeFailure) as caught:
        await Mounter(tmp_path, tmp_path, "n1", command_s=0.2).mount([export])
    assert (caught.value.reason, "timed out" in caught.value.message) == (EndReason.INFRA, True)


def test_runtimes_show_it_to_the_job(tmp_path: Path) -> None:
    entries = (data(snapshot="ct", mount="/data"), data(scratch="local-ssd"))
    volumes = tuple(each.volume for each in places(entries, tmp_path, image=True))
    plan = Plan(name="j", argv=("true",), env={}, cwd=tmp_path, writable=(), mounts=volumes, image="x")
    words = ContainerRuntime("podman", tmp_path).launch(plan, Prepared("x", "sha256:0")).argv
    scratch = tmp_path / "mounts" / "scratch"
    assert f"{tmp_path / 'mounts' / 'ct'}:/data:ro" in words
    assert f"{scratch}:{scratch}" in words
    boxed = BubblewrapRuntime().launch(plan, Prepared()).argv
    at = boxed.index("/data")
    assert boxed[at - 2 : at] == ("--ro-bind", str(tmp_path / "mounts" / "ct"))
    assert boxed[boxed.index(str(scratch)) - 1] == "--bind"


CHILD = """
import asyncio, sys
from pathlib import Path
from incl_agent.mounting import Mounter, places
from incl_shared.spec import DataMount
folder = Path(sys.argv[1])
found = places((DataMount(snapshot="ct"),), folder, image=False)
mounter = Mounter(folder / "disks", folder, "n1", device_s=0.0)
asyncio.run(mounter.mount(found))
asyncio.run(mounter.mount(found))
print((found[0].host / "scan.txt").read_text())
try:
    (found[0].host / "new").touch()
except OSError as error:
    print(error.strerror)
"""


def test_a_real_file_system_with_an_open_journal_is_mounted_read_only(tmp_path: Path) -> None:
    """In a mount namespace of its own, from an image file, which `mount` gives a loop device."""
    source, disks = tmp_path / "source", tmp_path / "disks"
    source.mkdir()
    disks.mkdir()
    (source / "scan.txt").write_text("voxels")
    image = disks / "google-incl-data-0"
    make = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")
    if make is None or os.geteuid() != 0:
        pytest.skip("needs root and mkfs.ext4")
    subprocess.run([make, "-q", "-d", str(source), str(image), "8M"], check=True, capture_output=True)
    probe = ["unshare", "--mount", "--", "mount", "-o", "ro,noload", str(image), str(source)]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("this machine has no loop devices")
    command = ["unshare", "--mount", "--", sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["voxels", "Read-only file system"]
