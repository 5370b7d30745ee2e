"""The writer of one process: one line a record, one write() a line, no network, no thread, no waiting.

The format is in incl_shared/telemetry/wire.py, the mechanism in docs/mechanisms/spool.md.
"""

from __future__ import annotations

import errno
import os
import threading
import time

from incl._values import encode
from incl._warn import warn

TYPE_CHECKING = False  # as typing has it; importing typing costs more than all the rest
if TYPE_CHECKING:
    from typing import Optional, Tuple

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_RETRY_S = 1.0
_CHECK_S = 1.0
_LOST = (errno.EFBIG, errno.EBADF, errno.EIO, getattr(errno, "ESTALE", errno.EBADF))


class Writer:
    """Appends records to `<directory>/<name>.jsonl`. Any thread and any signal handler may call write().

    What cannot be written is dropped and counted; the count is written as a record once there is room again. Until then
    it is the length of `<directory>/<name>.lost`, a file of nothing but a hole: a full disk has room for that, so that
    a process which ends before there is room has said it too.
    """

    def __init__(self, directory: str, prefix: str) -> None:
        self.directory = directory
        self._prefix = prefix
        self.name = ""
        self._fd = -1
        self._identity: Tuple[int, int] = (0, 0)
        self._check_at = 0.0
        self._retry_at = 0.0
        self._slow = True
        self._torn = False
        self._used = False
        self._dropped = 0
        self._lost = 0  # in all, of this file
        self._lost_said = True
        # Taken only off the normal path. Re-entrant, for a signal handler that logs while its own thread holds it.
        self._lock = threading.RLock()

    def write(self, line: bytes, now: float) -> bool:
        """Append one line. now: seconds since the epoch.

        Returns:
            Whether it is in the file (else it is dropped and counted).
        """
        if self._slow or now > self._check_at:
            return self._write_slow(line, now)
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            return self._failed(0, line, error)
        return written == len(line) or self._failed(written, line, None)

    def _write_slow(self, line: bytes, now: float) -> bool:
        with self._lock:
            self._verify(now)
            if self._fd < 0 and not self._open():
                self._drop()
                return False
            mend = b"\n" if self._torn else b""
            head = mend + (encode({"k": "d", "t": now, "n": self._dropped}) if self._dropped else b"")
            try:
                written = os.write(self._fd, head + line)
            except OSError as error:
                return self._failed(0, line, error)
            if written == len(head) + len(line):
                self._torn, self._dropped, self._slow, self._used = False, 0, False, True
                return True
            if line and written == len(head) + len(line) - 1:  # it lacks only its newline
                self._dropped, self._torn, self._used = 0, True, True
                return True
            if written >= len(head):
                self._dropped, self._torn = 0, written > len(head)
            else:
                self._torn = written > len(mend)
            return self._failed(0, line, None)

    def _failed(self, written: int, line: bytes, error: Optional[OSError]) -> bool:
        with self._lock:
            self._slow = True
            self._torn = self._torn or 0 < written < len(line)
            if error is None and 0 < written == len(line) - 1:
                return True
            code = error.errno if error is not None else errno.ENOSPC
            if code in _LOST and self._go_on_elsewhere(line):
                return True
            if line:
                self._drop()
        warn(f"write-{code}", f"{self.directory}: {os.strerror(code or 0)}: records are dropped (and counted)")
        return False

    def _drop(self) -> None:
        self._dropped += 1
        self._lost += 1
        if self._fd >= 0:
            self._say_lost()

    def _say_lost(self) -> None:
        path = os.path.join(self.directory, self.name + ".lost")
        try:
            try:
                os.truncate(path, self._lost)
            except FileNotFoundError:
                os.close(os.open(path, _FLAGS, 0o644))
                os.truncate(path, self._lost)
            self._lost_said = True
        except OSError:
            self._lost_said = False

    def _go_on_elsewhere(self, line: bytes) -> bool:
        """This file takes no more, or is no longer ours: a new writer, which says what the old one did not. The reader
        counts the old one's torn end."""
        if self._lost_said:
            self._dropped = 0
        elif self._torn and self._dropped:
            self._dropped -= 1
        if not self._used:
            self._retry_at = time.monotonic() + _RETRY_S
        self._fd, self._torn = -1, False
        if not self._open():
            return False
        try:
            written = os.write(self._fd, line)
        except OSError:
            return False
        self._torn = 0 < written < len(line)
        self._used = written == len(line)
        self._slow = self._dropped > 0 or not self._used
        return self._used

    def _verify(self, now: float) -> None:
        """Let go of a descriptor that somebody closed (its number may be another file now) or whose file is gone."""
        self._check_at = now + _CHECK_S
        if self._fd < 0:
            return
        try:
            status = os.fstat(self._fd)
            if (status.st_dev, status.st_ino) == self._identity:
                if status.st_nlink > 0:
                    return
                os.close(self._fd)
        except OSError:
            pass
        self._fd, self._torn, self._slow, self._retry_at = -1, False, True, 0.0

    def _open(self) -> bool:
        if time.monotonic() < self._retry_at:
            return False
        self.name = f"{self._prefix}{os.getpid()}-{os.urandom(5).hex()}"
        try:
            if self._identity != (0, 0) and not os.path.exists(self.directory):
                os.mkdir(self.directory)  # the script has deleted it since
            self._fd = os.open(os.path.join(self.directory, self.name + ".jsonl"), _FLAGS, 0o644)
            status = os.fstat(self._fd)
        except OSError as error:
            self._fd = -1
            self._retry_at = time.monotonic() + _RETRY_S
            warn("open", f"cannot write in {self.directory}: {error.strerror}: records are dropped (and counted)")
            return False
        self._identity, self._used = (status.st_dev, status.st_ino), False
        self._lost, self._lost_said = self._dropped, True
        if self._lost:
            self._say_lost()
        return True

    def close(self, now: float) -> None:
        """Say what was dropped, if there is room by now, and let the file go."""
        with self._lock:
            if self._fd >= 0 and (self._dropped or self._torn):
                self._write_slow(b"", now)
            self.abandon()

    def abandon(self) -> None:
        """Let the file go, writing nothing (after a fork: it is the parent's)."""
        descriptor, self._fd, self._slow = self._fd, -1, True
        try:
            if descriptor >= 0 and (os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino) == self._identity:
                os.close(descriptor)
        except OSError:
            pass
