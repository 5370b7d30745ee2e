"""Processes by who they really are: pid, start time and boot, never a bare pid."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import marshal
import os
import py_compile
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from incl_agent.runtimes.base import Launch

SHIM = Path(__file__).with_name("shim.py")


def compile_shim(folder: Path) -> Path:
    """The shim as bytecode in `folder`, which starts 5 ms faster; named by its content, so that it never changes."""
    digest = hashlib.sha256(SHIM.read_bytes() + sys.version.encode()).hexdigest()[:16]
    target = folder / f"shim-{digest}.pyc"
    if not target.exists():
        py_compile.compile(str(SHIM), cfile=str(target), doraise=True)
    return target


@dataclass(frozen=True)
class Identity:
    """A process of this machine's present life."""

    pid: int
    start: int
    boot: str

    def alive(self) -> bool:
        """Whether this very process is still there (a zombie is not)."""
        fields = stat_fields(self.pid) if self.boot == boot_id() else None
        return fields is not None and int(fields[19]) == self.start and fields[0] != b"Z"


@functools.cache
def boot_id() -> str:
    """Changes with every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def stat_fields(pid: int) -> list[bytes] | None:
    """/proc/<pid>/stat from field 3 (state) on; None: no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def spawn_shim(job_dir: Path, launch: Launch, shim: Path = SHIM) -> tuple[int, int]:
    """Start a shim over a job directory: (its pid, a descriptor that reads one line once the command runs or failed).

    The shim leads a session of its own, so that nothing which ends the agent ends it. The environment of the command
    crosses in an unnamed memory file.
    """
    document = os.memfd_create("launch")
    reader, writer = os.pipe()
    log = os.open(job_dir / "shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(document, marshal.dumps(launch.document()))
        os.lseek(document, 0, os.SEEK_SET)
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", str(shim), str(job_dir)],
            {"LC_ALL": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, document, 0),
                (os.POSIX_SPAWN_DUP2, writer, 3),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD],
        )
    except OSError:
        os.close(reader)
        raise
    finally:
        for descriptor in (document, writer, log):
            os.close(descriptor)
    return pid, reader


async def read_line(descriptor: int) -> str:
    """What a pipe says until its first newline or its end; closes it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    os.set_blocking(descriptor, False)
    text = b""

    def readable() -> None:
        nonlocal text
        chunk = os.read(descriptor, 4096)
        text += chunk
        if (not chunk or b"\n" in chunk) and not done.done():
            done.set_result(None)

    loop.add_reader(descriptor, readable)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return text.decode("utf-8", "replace").strip()


class ProcessHandle:
    """A process held by a pidfd: it cannot become another one meanwhile."""

    def __init__(self, identity: Identity, descriptor: int) -> None:
        self.identity = identity
        self._descriptor = descriptor

    @classmethod
    def open(cls, identity: Identity) -> ProcessHandle | None:
        """Take hold of a living process; None when it is gone."""
        try:
            descriptor = os.pidfd_open(identity.pid)
        except OSError:
            return None
        if not identity.alive():
            os.close(descriptor)
            return None
        return cls(identity, descriptor)

    async def wait(self) -> None:
        """Until the process has ended. No polling: the pidfd becomes readable."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def ended() -> None:
            if not done.done():
                done.set_result(None)

        loop.add_reader(self._descriptor, ended)
        try:
            await done
        finally:
            loop.remove_reader(self._descriptor)
        with contextlib.suppress(ChildProcessError):  # not our child after a restart of the agent
            os.waitpid(self.identity.pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait

    def send(self, number: int) -> None:
        """A signal to exactly this process; gone is no error."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


def survivors(session: int, since: int, marker: str) -> list[Identity]:
    """Processes that a dead shim left: of its session, or with the job's marker in their environment.

    Args:
        session: the shim's pid, which was its session's id.
        since: the shim's start in ticks; older processes cannot be its own.
        marker: 'INCL_JOB=<job>', which descendants inherit.
    """
    boot, found = boot_id(), []
    wanted = marker.encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        fields = stat_fields(int(entry.name))
        if fields is None or fields[0] == b"Z" or int(fields[19]) < since:
            continue
        if int(fields[3]) == session or wanted in _environment(entry.name):
            found.append(Identity(int(entry.name), int(fields[19]), boot))
    return found


def _environment(pid: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def end_survivors(session: int, since: int, marker: str) -> int:
    """SIGKILL to what a dead shim left, each held by a pidfd first. Returns how many there were."""
    found = survivors(session, since, marker)
    for identity in found:
        handle = ProcessHandle.open(identity)
        if handle is not None:
            handle.send(signal.SIGKILL)
            handle.close()
    return len(found)
