"""Data on a machine of a cloud: disks, exports, buckets and scratch are mounted before the job begins.

Commands are run one after the other, each with a deadline. What is mounted stays so, also for another agent: the
machine ends with its attempt.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from incl_agent.runtimes.base import Mount, RuntimeFailure
from incl_shared.mounts import bucket_parts, device_name
from incl_shared.spec import DataMount
from incl_shared.states import EndReason

DISKS = Path("/dev/disk/by-id")
_DEVICE_S = 60.0
"""How long a disk may take to be seen by the machine's system after it has booted."""
_COMMAND_S = 120.0
_LOOK_S = 0.2
_ARRAY = Path("/dev/md/incl-scratch")
_CACHE_SHARE = 0.5
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_MIB = 1 << 20
_SAID = 65_536


@dataclass(frozen=True)
class DataPlace:
    """An entry of data on this machine. host: where it lies here; seen: where the job finds it."""

    data: DataMount
    host: Path
    seen: Path
    disk: str = ""
    """The name of its disk among the machine's, of a snapshot."""

    @property
    def volume(self) -> Mount:
        """For runtimes that show a job only what they are told."""
        return Mount(self.host, self.seen, writable=self.data.scratch is not None)


def places(data: Sequence[DataMount], folder: Path, *, image: bool) -> tuple[DataPlace, ...]:
    """Where each entry lies. folder: the agent's own; image: whether the job sees mounts by a runtime alone."""
    found, disks = [], 0
    for each in data:
        if each.source is not None:
            host = Path(each.source)
        else:
            host = Path(each.mount) if each.mount and not image else folder / "mounts" / each.target
        disk = ""
        if each.snapshot is not None:
            disk, disks = device_name(disks), disks + 1
        found.append(DataPlace(each, host, Path(each.mount) if each.mount and image else host, disk))
    return tuple(found)


class Mounter:
    """Args: disks: where disks are found by name; None: this is no machine of a cloud, and mounts nothing."""

    def __init__(
        self, disks: Path | None, folder: Path, node: str,
        *, device_s: float = _DEVICE_S, command_s: float = _COMMAND_S,
    ) -> None:  # fmt: skip
        self._disks, self._folder, self._node = disks, folder, node
        self._device_s, self._command_s = device_s, command_s

    async def mount(self, wanted: Sequence[DataPlace]) -> None:
        """Mount what is not mounted yet: scratch first, as a bucket's cache lies there.

        Raises:
            RuntimeFailure: reason data, or infra where another machine may fare better.
        """
        for place in sorted(wanted, key=lambda each: each.data.scratch is None):
            if place.data.source is None and not _mounted(place.host):
                await self._one(place, wanted)

    async def _one(self, place: DataPlace, wanted: Sequence[DataPlace]) -> None:
        if self._disks is None:
            raise RuntimeFailure(
                EndReason.UNSUPPORTED,
                f"the machine {self._node} mounts no {place.data.kind}: it was not made for this experiment",
                "name an `instance`, or mount it there yourself and name the folder: source: /path",
            )
        _make_point(place)
        if place.data.snapshot is not None:
            await self._snapshot(place, self._disks)
        elif place.data.nfs is not None:
            await self._nfs(place, place.data.nfs)
        elif place.data.bucket is not None:
            cache = next((each.host for each in wanted if each.data.scratch is not None), self._folder)
            await self._bucket(place, place.data.bucket, cache / ".incl-gcsfuse")
        else:
            await self._scratch(place, self._disks)

    async def _snapshot(self, place: DataPlace, disks: Path) -> None:
        device = disks / f"google-{place.disk}"
        if not await self._appears(device):
            raise RuntimeFailure(
                EndReason.INFRA, f"the disk of the snapshot {place.data.snapshot} did not appear on {self._node}",
                "another machine is tried by the experiment's retry policy",
            )  # fmt: skip
        device = _first_part(device)
        kind = await self._run("blkid", "-o", "value", "-s", "TYPE", str(device), check=False)
        options = {"xfs": "ro,norecovery,nouuid", "btrfs": "ro"}.get(kind.strip(), "ro,noload")
        # A snapshot of a disk in use has an open journal, which must not be replayed onto a disk that is read-only.
        await self._run("mount", "-o", options, str(device), str(place.host), place=place)

    async def _nfs(self, place: DataPlace, export: str) -> None:
        _need("mount.nfs", place, "the machine's image has no NFS client", "nfs-common")
        options = "ro,hard,timeo=600,retrans=3,nolock"
        await self._run("mount", "-t", "nfs", "-o", options, export, str(place.host), place=place)

    async def _bucket(self, place: DataPlace, url: str, cache: Path) -> None:
        _need("gcsfuse", place, "the machine's image has no gcsfuse", "gcsfuse")
        bucket, prefix = bucket_parts(url)
        room = await asyncio.to_thread(_make_cache, cache)
        words = ["-o", "ro", "--implicit-dirs", "--cache-dir", str(cache), "--file-cache-max-size-mb", str(room)]
        words += ["--only-dir", prefix] if prefix else []
        await self._run("gcsfuse", *words, bucket, str(place.host), place=place)

    async def _scratch(self, place: DataPlace, disks: Path) -> None:
        found = _local_ssds(disks)
        if not found:
            raise RuntimeFailure(
                EndReason.DATA, f"the machine {self._node} has no local SSD", "name an instance that can have some"
            )
        device = found[0]
        if len(found) > 1:
            _need("mdadm", place, "the machine's image has no mdadm, which joins its local SSDs", "mdadm")
            device = _ARRAY
            words = ("--create", str(device), "--level=0", f"--raid-devices={len(found)}", "--run")
            await self._run("mdadm", *words, *map(str, found), place=place)
        # Whatever lies there is of no other: local SSDs are empty when a machine is made, and gone with it.
        await self._run("mkfs.ext4", "-F", "-q", "-m", "0", "-E", "nodiscard", str(device), place=place)
        await self._run("mount", "-o", "discard,noatime", str(device), str(place.host), place=place)

    async def _appears(self, device: Path) -> bool:
        deadline = asyncio.get_running_loop().time() + self._device_s
        while not _exists(device):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def _run(self, *words: str, place: DataPlace | None = None, check: bool = True) -> str:
        """What a command says.

        Raises:
            RuntimeFailure: it failed, and check is set.
        """
        tool = _tool(words[0])
        if tool is None:
            if check and place is not None:
                raise failure(place.data, f"there is no {words[0]} on the machine")
            return ""
        # A file, not a pipe: what stays in the background (gcsfuse) would hold a pipe open.
        with tempfile.TemporaryFile() as out:
            process = await asyncio.create_subprocess_exec(
                tool, *words[1:], stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
            said = ""
            try:
                code = await asyncio.wait_for(process.wait(), self._command_s)
            except TimeoutError:
                code, said = 1, f"{words[0]} timed out after {self._command_s:.0f} s"
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            out.seek(0)
            said = said or out.read(_SAID).decode("utf-8", "replace")
        if check and code and place is not None:
            raise failure(place.data, said)
        return "" if code else said


_MEANINGS: tuple[tuple[str, EndReason, str], ...] = (
    (r"wrong fs type|bad superblock|can't read superblock|unknown filesystem|structure needs cleaning",
     EndReason.DATA, "does the snapshot hold a file system (ext4, xfs)? make it of an unmounted disk"),
    (r"timed out|connection refused|no route to host|network is unreachable|connection reset|resource temporarily",
     EndReason.INFRA, "is the server up, and does the machines' network reach it? the retry policy tries again"),
    (r"not resolve|name or service not known|no such host", EndReason.DATA, "is the host's name spelled right?"),
    (r"bucket.{0,40}(?:not exist|not found)|notfound|error 404|no such file or directory", EndReason.DATA,
     "is it spelled right, and is it there?"),
    (r"permission denied|access denied|forbidden|error 40[13]|not permitted|must be superuser", EndReason.DATA,
     "may the machines read it? a bucket: their INCL_PROVISIONER_CLOUD__SERVICE_ACCOUNT needs storage.objectViewer"),
)  # fmt: skip
"""(what the tool says, reason, hint), the first that fits."""


def failure(data: DataMount, said: str) -> RuntimeFailure:
    """What a tool's last words mean."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = lines[-1][:300] if lines else "it said nothing"
    message = f"the {data.kind} {data.text} cannot be mounted: {words}"
    for pattern, reason, hint in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE) is not None:
            return RuntimeFailure(reason, message, hint)
    return RuntimeFailure(EndReason.DATA, message, "docs/compute-engine.md says what is run, and where")


def _need(tool: str, place: DataPlace, what: str, package: str) -> None:
    if _tool(tool) is None:
        raise RuntimeFailure(
            EndReason.DATA,
            f"the {place.data.kind} {place.data.text} cannot be mounted: {what}",
            f"use an image with {package} (INCL_PROVISIONER_CLOUD__IMAGE_FAMILY), or data by a snapshot",
        )


def _tool(name: str) -> str | None:
    """A command by name, also where only an administrator's PATH has it."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SBIN))


def _make_point(place: DataPlace) -> None:
    host = place.host
    try:
        host.mkdir(parents=True, exist_ok=True)
        taken = any(host.iterdir())
    except OSError as error:
        raise RuntimeFailure(
            EndReason.DATA, f"data cannot be mounted at {host}: {error.strerror}", "choose another place for `mount`"
        ) from error
    if taken:
        raise RuntimeFailure(
            EndReason.DATA, f"data cannot be mounted at {host}: the machine's image has files there",
            "choose another place for `mount`",
        )  # fmt: skip


def _exists(device: Path) -> bool:
    return device.exists()


def _first_part(device: Path) -> Path:
    """The first partition of a disk that has some, else the disk."""
    first = device.with_name(f"{device.name}-part1")
    return first if first.exists() else device


def _local_ssds(disks: Path) -> list[Path]:
    return sorted(each for each in disks.glob("google-local-nvme-ssd-*") if "-part" not in each.name)


def _make_cache(cache: Path) -> int:
    """MiB that a cache there may take."""
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    return int(shutil.disk_usage(cache).free * _CACHE_SHARE) // _MIB


def _mounted(host: Path) -> bool:
    """Whether something is mounted there, or a link that was made in its place."""
    return host.is_symlink() or host.is_mount()
