"""The first process of a VM, as the cloud holds it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from incl_provisioner.fakes.gce.hosts.port import Guest

INIT = Path(__file__).with_name("init.py")
PATIENCE = 3.0
"""Seconds that a VM without power may take to be gone before its first process is killed."""


def prepare(guest: Guest) -> list[str]:
    """Write the startup script and the commands that a guest has; the arguments of init."""
    folder = guest.folder
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir(exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    for name in ("poweroff", "shutdown"):
        command = folder / "bin" / name
        command.write_text('#!/bin/sh\nexec kill -s TERM "$INCL_FAKE_INIT"\n', encoding="utf-8")
        command.chmod(0o755)
    _prepare_disks(guest)
    if guest.script is None:
        return [guest.name]
    script = folder / "startup-script"
    first = "" if guest.script.startswith("#!") else "#!/bin/sh\n"
    script.write_text(first + guest.script, encoding="utf-8")
    script.chmod(0o700)
    return [guest.name, str(script)]


_MOUNT = """#!/bin/sh
# A disk of this cloud is a folder; whatever else is to be mounted is left to the machine's own mount.
for word; do device=$at; at=$word; done
if [ ! -d "$device" ] || [ "${device#"$INCL_VM_DISKS"/}" = "$device" ]; then exec "$INCL_FAKE_MOUNT" "$@"; fi
if [ -n "$INCL_FAKE_DISK" ]; then
  "$INCL_FAKE_MOUNT" --bind "$device" "$at" && exec "$INCL_FAKE_MOUNT" -o remount,bind,ro "$at"
fi
case "$at" in
  "$INCL_VM_ROOT"/*) rmdir "$at" && exec ln -s "$device" "$at" ;;
  *) echo "mount: $at: VMs here share this machine's files, leave it out: permission denied" >&2; exit 32 ;;
esac
"""


def _prepare_disks(guest: Guest) -> None:
    """A device for each disk of data, and a `mount` that knows them."""
    disks = guest.folder / "disks"
    disks.mkdir(exist_ok=True)
    command = guest.folder / "bin" / "mount"
    command.write_text(_MOUNT, encoding="utf-8")
    command.chmod(0o755)
    for name, folder in guest.disks.items():
        device = disks / f"google-{name}"
        device.unlink(missing_ok=True)
        device.symlink_to(folder)


_KEPT = (
    *("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"),
    *("CONTAINERS_REGISTRIES_CONF", "CONTAINERS_STORAGE_CONF"),  # as a machine's image would have them in /etc
)


def environment(guest: Guest) -> dict[str, str]:
    """What a guest sees: nothing of ours but the PATH, and what it was given."""
    path = os.environ.get("PATH", os.defpath)
    keep = {key: os.environ[key] for key in _KEPT if key in os.environ}
    return {
        **keep, "PATH": f"{guest.folder / 'bin'}{os.pathsep}{path}", "HOME": str(guest.folder / "home"),
        "TMPDIR": str(guest.folder / "tmp"), "HOSTNAME": guest.name, "INCL_FAKE_VM": guest.name,
        "INCL_VM_DISKS": str(guest.folder / "disks"), "INCL_FAKE_MOUNT": shutil.which("mount") or "mount",
        **guest.environment,
    }  # fmt: skip


class Process:
    """A VM that is up.

    Args:
        command: what starts its init; a leader of its own process group.
        pass_fds: stay open in it.
    """

    def __init__(self, command: Sequence[str], guest: Guest, pass_fds: Sequence[int] = ()) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        with (guest.folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=console, stderr=console, cwd=guest.folder / "home",
                env=environment(guest), start_new_session=True, pass_fds=pass_fds,
            )  # fmt: skip
        self._timer: asyncio.TimerHandle | None = None
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._gone)

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when no process of it is left."""
        return self._ended

    @property
    def pid(self) -> int:
        """Of what was started here."""
        return self._process.pid

    def _gone(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._close()
        if self._timer is not None:
            self._timer.cancel()
        if not self._ended.done():
            self._ended.set_result(None)

    def _close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def shut_down(self) -> None:
        """Press the power button."""
        if self._process.stdin is not None and not self._ended.done():
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(b"acpi\n")
                self._process.stdin.flush()

    def cut_power(self) -> None:
        """Take the power away."""
        if self._ended.done():
            return
        self._close()
        self._timer = self._loop.call_later(PATIENCE, self._kill)

    def _kill(self) -> None:
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def python() -> list[str]:
    """The interpreter, without what makes it slow to start."""
    return [sys.executable, "-I", "-S", str(INIT)]


async def stop_all(running: Sequence[Process]) -> None:
    """The power of them all is cut, and they are gone."""
    for one in running:
        one.cut_power()
    if running:
        await asyncio.wait([one.ended for one in running])
