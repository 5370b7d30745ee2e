"""A copy of the SDK for jobs: the pure `incl` package alone, so that a user's image needs nothing installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

from incl_shared.errors import InternalError


def place_sdk(folder: Path) -> Path:
    """Copy the package into `<folder>/sdk-<hash>/incl`, once for each content; returns `<folder>/sdk-<hash>`.

    Raises:
        InternalError: the package is not installed beside the agent.
    """
    spec = importlib.util.find_spec("incl")
    if spec is None or spec.origin is None:
        raise InternalError("the package incl is not installed beside the agent", hint="pip install incl")
    source = Path(spec.origin).parent
    files = sorted(path for path in source.rglob("*") if path.suffix in (".py", ".pyi", ".typed") and path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    target = folder / f"sdk-{digest.hexdigest()[:16]}"
    if not target.exists():
        partial = folder / f".{target.name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        for path in files:
            copy = partial / "incl" / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        try:
            partial.rename(target)
        except OSError:  # another agent of this folder was quicker
            shutil.rmtree(partial, ignore_errors=True)
    return target
