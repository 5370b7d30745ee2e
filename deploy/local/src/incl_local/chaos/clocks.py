"""Services whose clock can be set while they run; everybody else has the machine's. For tests.

The clock is Python's own: what `time.time` says in these processes. The monotonic clock is left alone, as it is when an
administrator sets the time. (libfaketime 0.9.10 would fake the C library's, but under it `time.sleep` of Python 3.11
fails with EINVAL, and the services need five times as long for their work.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_HOOK = """\
import sys
words = sys.orig_argv
service = words[words.index("incl_local.service") + 1] if "incl_local.service" in words[:-1] else ""
if service in {services!r}:
    import time
    real, steady, seen = time.time, time.monotonic, [0.0, -1.0]

    def now():
        if steady() - seen[1] > 0.1:
            with open({file!r}, encoding="ascii") as file:
                seen[:] = float(file.read()), steady()
        return real() + seen[0]

    time.time, time.time_ns = now, lambda: int(now() * 1e9)
"""


class Clocks:
    """The clock of some services. `environment` is for `incl up --processes`; `set_by` jumps while they run."""

    def __init__(self, folder: Path, services: Iterable[str]) -> None:
        self._file = folder / "clock"
        hooks = folder / "hooks"
        hooks.mkdir(parents=True)
        text = _HOOK.format(services=sorted(services), file=str(self._file))
        (hooks / "sitecustomize.py").write_text(text, encoding="utf-8")
        self.environment = {"PYTHONPATH": str(hooks)}
        self.set_by(0)

    def set_by(self, seconds: int) -> None:
        """They are so many seconds ahead (or behind) of the machine from now on."""
        scratch = self._file.with_suffix(".new")
        scratch.write_text(f"{seconds}\n", encoding="ascii")
        os.replace(scratch, self._file)  # noqa: PTH105 - whole or not at all
