"""Files on their way to the artifact store: a copy of their own in the spool, put there atomically.

A hard link would be corrupted by a script that writes its checkpoint in place (torch.save does), so the copy is a
reflink where the file system has them, else a true copy; with move=True the script
gives the file away and it is renamed.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple, Union

from incl import _state
from incl._values import flatten, pieces, to_step, to_text
from incl._warn import warn

if TYPE_CHECKING:
    from pathlib import Path

Source = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview]

_FICLONE = 0x40049409
_LATEST = "latest-checkpoint.json"


def folder(state: _state.State) -> str:
    """Where the spooled files of this process lie."""
    path = os.path.join(state.spool, "files")
    os.makedirs(path, exist_ok=True)
    return path


def place(source: Source, name: str, state: _state.State, move: bool = False) -> str:
    """A copy of source in the spool, under a name of its own that ends in `/<name>`; whole or not there at all.

    Raises:
        OSError: it cannot be read, or there is no room.
    """
    own = f"{os.getpid()}-{os.urandom(6).hex()}"
    base = folder(state)
    temporary = os.path.join(base, f".{own}")
    os.mkdir(temporary)
    target = os.path.join(temporary, name)
    try:
        if isinstance(source, (bytes, bytearray, memoryview)):
            with open(target, "wb") as file:
                file.write(source)
        elif not (move and _moved(os.fspath(source), target)):
            _copy(os.fspath(source), target)
        os.rename(temporary, os.path.join(base, own))
    except BaseException:
        import shutil

        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return os.path.join(base, own, name)


def _moved(source: str, target: str) -> bool:
    try:
        os.rename(source, target)
    except OSError:
        return False  # another file system, or the source is not there: the copy says which
    return True


def _copy(source: str, target: str) -> None:
    mode = os.stat(source).st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(target)
        for entry in sorted(os.listdir(source)):
            _copy(os.path.join(source, entry), os.path.join(target, entry))
    elif stat.S_ISREG(mode):
        if not _reflink(source, target):
            import shutil

            shutil.copyfile(source, target)
        os.chmod(target, stat.S_IMODE(mode) | stat.S_IRUSR | stat.S_IWUSR)
    # Sockets, pipes and devices inside a checkpoint directory carry no bytes to keep.


def _reflink(source: str, target: str) -> bool:
    try:
        import fcntl

        with open(source, "rb") as old, open(target, "wb") as new:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except (ImportError, OSError):
        return False
    return True


def safe_name(text: str, ending: str = "") -> str:
    """Text as the name of a file."""
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in text).lstrip(".")
    return (kept or "file")[: 120 - len(ending)] + ending


def checkpoint(
    source: Source, step: Any = None, metrics: Any = None, name: Optional[str] = None, move: bool = False
) -> Optional[Path]:
    """See `incl.checkpoint`."""
    state = _state.current()
    if state.writer is None:
        warn("no-run", "no run here, nothing is recorded: call incl.init() first, or use `incl run`")
        return None
    number = to_step(step) if step is not None else None
    if number is None:
        number = next(state.steps)
    try:
        if name is None:
            name = "checkpoint.bin" if isinstance(source, (bytes, bytearray, memoryview)) else _base(source)
        name = safe_name(str(name))
        file = os.path.abspath(place(source, name, state, move))
    except Exception as error:
        warn(f"checkpoint-{getattr(error, 'errno', '')}", f"the checkpoint of step {number} is not kept: {error}")
        return None
    numbers = pieces(flatten(state.last))[0] if metrics is None else {}
    if hasattr(metrics, "items"):
        numbers = flatten(metrics)
    path = f"{number}/{name}"
    state.record({"k": "c", "s": number, "path": path, "file": file, "metrics": numbers})
    _point(state, {"file": file, "step": number})
    return _path(file)


def _base(source: Any) -> str:
    return os.path.basename(os.path.abspath(os.fspath(source))) or "checkpoint"


def _point(state: _state.State, latest: Dict[str, Any]) -> None:
    pointer = os.path.join(folder(state), _LATEST)
    temporary = f"{pointer}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with open(temporary, "w") as file:
            json.dump(latest, file)
        os.replace(temporary, pointer)
    except OSError:
        warn("latest", "the newest checkpoint cannot be noted: incl.latest_checkpoint() may give an older one")


def latest_checkpoint() -> Optional[Path]:
    """See `incl.latest_checkpoint`."""
    state = _state.current()
    if state.spool:
        try:
            with open(os.path.join(state.spool, "files", _LATEST)) as file:
                made = str(json.load(file)["file"])
            if os.path.exists(made):
                return _path(made)
        except (OSError, ValueError, KeyError, TypeError):
            pass
    given = os.environ.get("INCL_LATEST_CHECKPOINT", "")
    return _path(given) if given and os.path.exists(given) else None


def _path(text: str) -> Path:
    from pathlib import Path

    return Path(text)


Kept = Tuple[Source, str, Optional[str]]
"""A file or its bytes, its name, and what is said of it."""


def keep(kind: str, key: str, files: Sequence[Kept], step: Any) -> None:
    """Spool files of a key (kind: image, table, text, file) at one step, and record them; warns where it cannot."""
    state = _state.current()
    if state.writer is None:
        warn("no-run", "no run here, nothing is recorded: call incl.init() first, or use `incl run`")
        return
    number = None if step is None else to_step(step)
    if number is None:
        number = next(state.steps)
    for data, wanted, caption in files:
        name = safe_name(wanted)
        try:
            file = os.path.abspath(place(data, name, state))
        except Exception as error:
            warn(f"{kind}-{getattr(error, 'errno', '')}", f"{kind} {key!r} is not kept: {error}")
            continue
        record = {"k": "f", "s": number, "kind": kind, "key": to_text(key, 250), "file": file, "name": name}
        if caption is not None:
            record["caption"] = to_text(caption, 1000)
        state.record(record)
