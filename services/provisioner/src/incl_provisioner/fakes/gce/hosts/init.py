"""The first process of a VM. Run by its path with `python -I -S`, so it imports nothing of ours.

Usage: init.py <form> <name> [<startup script>], form: namespaces or groups.
Standard output is the serial console. Standard input is the power: a line `acpi` is the power button, its end is the
power cut. SIGTERM (from `poweroff` inside) is the power button too.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

BEGIN = time.monotonic()


def say(who: str, text: str) -> None:
    """A line on the console."""
    line = f"[{time.monotonic() - BEGIN:12.6f}] {who}: {text}\n".encode(errors="replace")
    os.write(1, line)


def adopt_orphans() -> None:
    """Without a PID namespace: whoever loses its parent below becomes a child of this process (a subreaper)."""
    import ctypes  # costs 10 ms, and only this form needs it

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def parents() -> dict[int, int]:
    """pid -> parent, of every process that can be seen."""
    found = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  # no pathlib: it is slow to import
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                    found[int(entry)] = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
    return found


def inside(form: str) -> list[int]:
    """Every process of this VM but the first."""
    known = parents()
    found: list[int] = []
    if form == "namespaces":
        return [pid for pid in known if pid != 1]
    mine = {os.getpid()}
    while True:
        more = [pid for pid, parent in known.items() if parent in mine and pid not in mine]
        if not more:
            return found
        mine.update(more)
        found.extend(more)


def signal_all(form: str, number: int) -> int:
    """A signal for every process inside; how many there are."""
    there = inside(form)
    for pid in there:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return len(there)


def reap() -> dict[int, int]:
    """Collect who ended: pid -> wait status."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def begin(script: str, write: int) -> int:
    """Start the startup script in a session of its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(write, 1)
        os.dup2(write, 2)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.environ["INCL_FAKE_INIT"] = str(os.getppid())
        os.execve(script, [script], os.environ)  # noqa: S606
    finally:
        os._exit(127)


class Init:
    """Boots, waits, and goes down."""

    def __init__(self, form: str, name: str, script: str | None) -> None:
        self.form, self.name, self.script = form, name, script
        self.child = 0
        self.output = -1
        self.going_down = False
        self.told = False
        self.rest = b""
        self.wake, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(self.wake, False)
        signal.signal(signal.SIGTERM, self.on_term)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def on_term(self, *_: object) -> None:
        """The power button."""
        self.going_down = True

    def boot(self) -> None:
        """As the guest agent does it."""
        say("kernel", f"Linux version (fake cloud) {self.name}")
        if self.script is None:
            return
        self.output, write = os.pipe()
        os.set_blocking(self.output, False)
        self.child = begin(self.script, write)
        os.close(write)
        say(f"google_metadata_script_runner[{self.child}]", "Found startup-script in metadata.")

    def pump(self) -> None:
        """What the script says goes to the console, line by line."""
        try:
            data = os.read(self.output, 65536)
        except BlockingIOError:
            return
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop() if data else b""
        for line in lines:
            say(f"google_metadata_script_runner[{self.child}]", "startup-script: " + line.decode(errors="replace"))
        if not data:
            os.close(self.output)
            self.output = -1

    def ended(self) -> None:
        """Somebody ended."""
        for pid, status in reap().items():
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                if self.output >= 0:
                    self.pump()
                say(f"google_metadata_script_runner[{pid}]", f"startup-script exit status {code}")

    def power(self) -> None:
        """The line from outside."""
        data = os.read(0, 64)
        if not data:
            self.cut()
        if b"acpi" in data:
            self.going_down = True

    def cut(self) -> None:
        """Everything inside is gone at once; in a PID namespace the kernel does it when this process ends."""
        if self.form == "groups":
            while signal_all("groups", signal.SIGKILL):
                reap()
                time.sleep(0.002)
        os._exit(0)

    def run(self) -> None:
        """Until the power goes."""
        self.boot()
        while True:
            if self.going_down and not self.told:
                self.told = True
                say("systemd[1]", "Powering off: sending SIGTERM to remaining processes.")
                signal_all(self.form, signal.SIGTERM)
            if self.told and not inside(self.form):
                say("systemd[1]", "Powered off.")
                os._exit(0)
            watched = [0, self.wake] + ([self.output] if self.output >= 0 else [])
            ready, _, _ = select.select(watched, [], [], 0.05 if self.going_down else None)
            if self.output in ready:
                self.pump()
            if 0 in ready:
                self.power()
            if self.wake in ready:
                os.read(self.wake, 4096)
            self.ended()


if __name__ == "__main__":
    if sys.argv[1] == "groups":
        adopt_orphans()
    Init(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None).run()
