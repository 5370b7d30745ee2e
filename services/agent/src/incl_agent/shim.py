"""The shim: one tiny process above one job, so that the agent can die and come back without the job noticing.

Started as `python -I -S shim.py <job directory>` in a session of its own. Standard library only, and little of it: it
must be up in a few hundredths of a second. The agent hands it a marshalled dict over standard input (an unnamed memory
file, so that secrets never touch a disk):

    argv, env, cwd      the command; env is complete
    grace               seconds between SIGTERM and SIGKILL
    max_duration        seconds, or None
    reap                whether everything that the job leaves behind is killed at its end
    wrappers            how many levels of processes above the user's own are not sent SIGTERM
    kill, cleanup       commands that kill, and afterwards remove, what a container runtime holds; or None
    lease               a file with the time (CLOCK_BOOTTIME, seconds) after which the job must not run; or None

Files in the job directory, each written whole: shim.json (who I am; made with link(2), so that of two shims only one
ever runs the job), child.json (the user's process), exit.json (how it ended). One line goes to descriptor 3 once the
command runs or could not be run. SIGTERM to the shim stops the job, SIGUSR1 kills it at once.
"""

# pathlib and contextlib would cost more to import than all that this file does.
# ruff: noqa: PTH104, PTH108, PTH123, PTH208, SIM105, S302, S606

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the signal module costs more than Python's own start, for its enums
import marshal
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STDIN, STDOUT, STDERR, NOTIFY = 0, 1, 2, 3
LEFTOVERS_GRACE_S = 0.5
KILL_AGAIN_S = 2.0
LEASE_LOOK_S = 0.05
OOM_SCORE = "300"
PR_SET_CHILD_SUBREAPER = 36


def quote(text: str) -> str:
    """A JSON string; the json module would double the shim's start."""
    safe = "".join(c if 32 <= ord(c) < 127 and c not in '"\\' else f"\\u{min(ord(c), 0xFFFF):04x}" for c in text)
    return f'"{safe}"'


def dump(values: dict[str, Any]) -> bytes:
    """A flat dict of numbers, texts and None as JSON."""
    parts = []
    for key, value in values.items():
        text = "null" if value is None else quote(value) if isinstance(value, str) else repr(value)
        parts.append(f"{quote(key)}: {text}")
    return ("{" + ", ".join(parts) + "}\n").encode()


def write_temporary(name: str, values: dict[str, Any], sync: bool = False) -> str:
    """A file of my own beside `name`; returns its name.

    Who runs where need not be synced: whatever takes the page cache away takes the processes too, and the boot id says
    so. How a job ended must be.
    """
    temporary = f".{name}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, dump(values))
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return temporary


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot (field 22 of /proc/<pid>/stat)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def claim() -> bool:
    """Become the job's one shim. False: another was first."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    me = {"pid": os.getpid(), "start": start_ticks(os.getpid()), "boot": boot, "time": time.time()}
    temporary = write_temporary("shim.json", me)
    try:
        os.link(temporary, "shim.json")
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def become_subreaper() -> None:
    """Have orphaned descendants handed to me, not to init."""
    try:  # what ctypes does, without the 5 ms of importing it
        import _ctypes

        whole_program: Any = None
        function = _ctypes.dlsym(_ctypes.dlopen(whole_program, 0), "prctl")
        _ctypes.call_function(function, (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    except (ImportError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def notify(text: str) -> None:
    """Tell the agent, if it still listens."""
    try:
        os.write(NOTIFY, text.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass
    try:
        os.close(NOTIFY)
    except OSError:
        pass


def descendants(levels_above: int = 0) -> list[int]:
    """Pids of my living descendants, without the first `levels_above` generations."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    level, depth = [os.getpid()], 0
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        if depth >= levels_above:
            found += level
        depth += 1
    return found


def send(pids: list[int], number: int) -> None:
    """A signal to each; those that are gone are no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass


def send_group(group: int, number: int) -> None:
    """A signal to the job's process group, which I hold by not having reaped its leader."""
    try:
        os.killpg(group, number)
    except OSError:
        pass


class Job:
    """The user's command and what comes of it."""

    def __init__(self, launch: dict[str, Any]) -> None:
        self.launch = launch
        self.pid = 0
        self.cause: str | None = None
        self.killed = False
        self.ended = 0.0
        self.began = (time.time(), time.monotonic())
        self.kill_at: float | None = None
        self.lease: str | None = launch.get("lease")
        self.signals = [signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1]

    def start(self) -> str | None:
        """Fork and run the command. Returns why it could not be run, or None."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [*self.signals, signal.SIGINT, signal.SIGHUP])
        gate_read, gate_write = os.pipe()
        error_read, error_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(gate_write)
            self._become(gate_read, error_write)
        os.close(gate_read)
        os.close(error_write)
        child = {"pid": self.pid, "start": start_ticks(self.pid), "time": time.time()}
        os.rename(write_temporary("child.json", child), "child.json")
        os.write(gate_write, b"!")
        os.close(gate_write)
        with open(error_read, "rb") as pipe:
            problem = pipe.read()
        return problem.decode("utf-8", "replace") or None

    def _become(self, gate: int, errors: int) -> None:
        """In the child: wait until my pid is on disk, then turn into the command."""
        try:
            os.setpgid(0, 0)
            if os.read(gate, 1) != b"!":
                os._exit(127)
            if self.launch["reap"]:
                with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                    file.write(OOM_SCORE)
        except OSError:
            pass
        stage = "cwd"
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), STDIN)
            os.dup2(os.open("stdout.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), STDOUT)
            os.dup2(os.open("stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), STDERR)
            os.set_inheritable(NOTIFY, False)
            os.chdir(self.launch["cwd"])
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            stage = "exec"
            os.execvpe(self.launch["argv"][0], self.launch["argv"], self.launch["env"])
        except OSError as error:
            os.write(errors, f"{stage}\n{error.errno}\n{error.strerror}".encode())
        finally:
            os._exit(127)

    def wait(self) -> tuple[int, Any]:
        """Until the command has ended: (wait status, resource usage). Obeys SIGTERM and max_duration meanwhile."""
        limit = self.launch["max_duration"]
        deadline = None if limit is None else time.monotonic() + limit
        while True:
            if self._reap_others():
                break
            now = time.monotonic()
            moments = [at for at in (self.kill_at, deadline if self.cause is None else None) if at is not None]
            if self.lease is not None and not self.killed:
                moments.append(now + max(LEASE_LOOK_S, lease_end(self.lease) - boottime()))
            timeout = max(0.0, min(moments) - now) if moments else 86_400.0
            info = signal.sigtimedwait(self.signals, timeout)
            now = time.monotonic()
            if self.cause is None and info is not None and info.si_signo == signal.SIGTERM:
                self._stop("stop")
            elif info is not None and info.si_signo == signal.SIGUSR1:
                self.cause, self.kill_at = self.cause or "stop", now
            elif self.cause is None and deadline is not None and now >= deadline:
                self._stop("max_duration")
            if self.lease is not None and not self.killed and boottime() >= lease_end(self.lease):
                self.cause, self.kill_at = self.cause or "lease", now
            if self.kill_at is not None and now >= self.kill_at:
                self._kill()
        _, status, usage = os.wait4(self.pid, 0)
        self.ended = self.began[0] + (time.monotonic() - self.began[1])  # whatever the clock is set to meanwhile
        if self.launch["reap"]:
            end_leftovers()
        return status, usage

    def _reap_others(self) -> bool:
        """Bury orphans that were handed to me. True: the command itself has ended (it is not reaped yet)."""
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return False
            if found.si_pid == self.pid:
                return True
            os.waitpid(found.si_pid, 0)

    def _stop(self, cause: str) -> None:
        self.cause = cause
        self.kill_at = time.monotonic() + self.launch["grace"]
        if self.launch["wrappers"]:
            send(descendants(self.launch["wrappers"]), signal.SIGTERM)
        else:
            send_group(self.pid, signal.SIGTERM)
            send_group(self.pid, signal.SIGCONT)

    def _kill(self) -> None:
        self.killed = True
        self.kill_at = time.monotonic() + KILL_AGAIN_S
        run(self.launch["kill"], self.launch["env"])
        if self.launch["kill"] is None:
            send_group(self.pid, signal.SIGKILL)
        if self.launch["reap"]:
            send(descendants(), signal.SIGKILL)


def lease_end(path: str) -> float:
    """Until when the job may run, as the agent said last. Without a file it may not."""
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return 0.0


def boottime() -> float:
    """Seconds since the boot of the machine, also those that it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def reap_all() -> bool:
    """Bury the dead among my children. True: some live on."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def end_leftovers() -> None:
    """The command ended: end what it left behind, politely for half a second, then not."""
    if not reap_all():
        return
    send(descendants(), signal.SIGTERM)
    until = time.monotonic() + LEFTOVERS_GRACE_S
    while reap_all():
        if time.monotonic() >= until:
            send(descendants(), signal.SIGKILL)
        signal.sigtimedwait([signal.SIGCHLD], 0.02)


def run(argv: list[str] | None, env: dict[str, str]) -> None:
    """A command of the container runtime; its failure is no failure of mine."""
    if argv is None:
        return
    try:
        os.waitpid(os.posix_spawnp(argv[0], argv, env, setsigmask=[]), 0)
    except OSError as error:
        os.write(STDERR, f"{argv[0]}: {error}\n".encode())


def main() -> int:
    """Run one job. Returns the shim's own exit status."""
    os.chdir(sys.argv[1])
    with open(STDIN, "rb", closefd=False) as file:
        launch = marshal.load(file)
    os.set_inheritable(NOTIFY, False)
    os.closerange(NOTIFY + 1, os.sysconf("SC_OPEN_MAX"))  # whatever the agent's process had left open
    if not claim():
        return 0
    if launch["reap"]:
        become_subreaper()
    job = Job(launch)
    if job.lease is not None and boottime() >= lease_end(job.lease):
        problem: str | None = "lease\n0\nthe lease of the machine is over"
    else:
        problem = job.start()
    started = job.began[0]
    if problem is not None:
        if job.pid:
            os.waitpid(job.pid, 0)
        stage, number, text = problem.split("\n", 2)
        end = {"error": text, "errno": int(number), "stage": stage, "started": started, "ended": started}
        os.rename(write_temporary("exit.json", end, sync=True), "exit.json")
        notify("failed")
        return 0
    notify("started")
    status, usage = job.wait()
    signalled = os.WIFSIGNALED(status)
    end = {
        "exit_code": None if signalled else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if signalled else None,
        "cause": job.cause,
        "killed": int(job.killed),
        "started": started,
        "ended": job.ended,
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "max_rss_kb": usage.ru_maxrss,
    }
    os.rename(write_temporary("exit.json", end, sync=True), "exit.json")
    run(launch["cleanup"], launch["env"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
