"""The file that a fault of ours leaves behind."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from incl_cli.places import state_dir

_KEPT = 20


def write_crash(error: BaseException, words: Sequence[str]) -> Path | None:
    """A file with the traceback; none when it cannot be written.

    Of the command line only the command and the names of its options go in: values may be secret.
    """
    shown = [word.partition("=")[0] for index, word in enumerate(words) if index == 0 or word.startswith("-")]
    text = "\n".join(
        [
            f"time: {time.strftime('%Y-%m-%dT%H:%M:%S%z')}",
            f"python: {platform.python_version()} on {platform.platform()}",
            f"command: incl {' '.join(shown)}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    try:
        folder = state_dir() / "crashes"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path.write_text(text, encoding="utf-8", errors="replace")
        for old in sorted(folder.glob("*.txt"))[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        return None
    return path
