"""Taking hold of what a job left in its spool, so that the job cannot exchange it any more."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

_log = logging.getLogger("incl.agent")


def hold(path: Path, spool: Path) -> int | None:
    """A descriptor of what a record names; None when it is gone, or not in the spool.

    It is looked at once it is held: a job that exchanges it for a link afterwards, to have a file uploaded that it may
    not see itself, changes nothing any more.
    """
    try:
        held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be stored: %s", path, error.strerror)
        return None
    real, kind = Path(os.readlink(f"/proc/self/fd/{held}")), os.fstat(held).st_mode  # noqa: PTH115
    if real.is_relative_to(spool.resolve()) and (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        return held
    os.close(held)
    return None
