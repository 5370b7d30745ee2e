"""Exchanging parts of a data folder: written down first, so that the next start finishes one that was cut short."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from incl_local.backup import files
from incl_local.layout import Layout

PLAN = "restore.json"


def swap(layout: Layout, fresh: Layout, names: Sequence[str]) -> Path | None:
    """Put what has these names in a fresh folder into the place of what is here. The caller holds the lock.

    Returns:
        the folder of what was here, if it was a platform.
    """
    names = [name for name in names if (fresh.root / name).exists()]
    aside = layout.root / f"before-restore-{stamp()}"
    had = any((layout.root / "db").glob("*.db"))
    plan = {"fresh": fresh.root.name, "aside": aside.name, "names": names}
    with files.created(layout.root / f".{PLAN}.{os.getpid()}") as file:
        file.write(json.dumps(plan).encode())
    (layout.root / f".{PLAN}.{os.getpid()}").rename(layout.root / PLAN)
    files.sync_folder(layout.root)
    finish(layout)
    if not had:
        shutil.rmtree(aside, ignore_errors=True)
        return None
    return aside


def finish(layout: Layout) -> bool:
    """Finish a swap that was cut short. The caller holds the lock. True: there was one."""
    plan = layout.root / PLAN
    if not plan.exists():
        return False
    said = json.loads(plan.read_text(encoding="utf-8"))
    fresh, aside = layout.root / said["fresh"], layout.root / said["aside"]
    aside.mkdir(mode=0o700, exist_ok=True)
    for name in said["names"]:
        new, here, old = fresh / name, layout.root / name, aside / name
        if not new.exists():
            continue
        if here.exists():
            here.rename(old)
        new.rename(here)
    files.sync_folder(aside)
    files.sync_folder(layout.root)
    plan.unlink()
    shutil.rmtree(fresh, ignore_errors=True)
    return True


def stamp() -> str:
    """The time, as a part of names."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
