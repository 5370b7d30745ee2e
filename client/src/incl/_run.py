"""Runs: init() and finish() on the platform (it only attaches) and outside it (it makes a run of its own)."""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional

from incl import _config, _ship, _state
from incl._values import to_number, to_plain, to_text
from incl._warn import forget, info, warn

if TYPE_CHECKING:
    from pathlib import Path

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_OWN = ("INCL_SPOOL_DIR", "INCL_EXPERIMENT_ID", "INCL_OUTPUT_DIR", "INCL_RUN_DIR", "INCL_RUN_OWNER")
FINAL = ("finished", "failed", "stopped")


class Session:
    """The run that is active in this process, and its configuration."""

    active: Optional[Run] = None
    config: Optional[_config.Config] = None
    watching = False
    made = 0


def new_id() -> str:
    """A ULID in lower case, as incl_shared.ids makes them: milliseconds since the epoch, then 80 random bits."""
    value = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -5, -5))


def _group_id() -> Optional[str]:
    """The id that all local ranks of one launch (torchrun, accelerate …) make for themselves, without a word between
    them. None: this process was not launched as one of several."""
    if "LOCAL_RANK" not in os.environ or "MASTER_PORT" not in os.environ:
        return None
    import hashlib

    launch = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "HOSTNAME")
    parent = os.getppid()
    parts = [os.environ.get(name, "") for name in launch]
    parts += [str(parent), _ship.process_start(parent) or "", str(Session.made)]
    value = int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:16], "big")
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -5, -5))


def write_json(path: str, values: Mapping[str, Any]) -> None:
    """Write a small file in one step.

    Raises:
        OSError: it cannot be written.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(values, file)
    os.replace(temporary, path)


class Run:
    """A handle on what init() attached to. A context manager: it finishes at the end of the block, as failed when an
    exception leaves it."""

    def __init__(self, identifier: str, directory: Optional[str], owner: bool, leads: bool = True) -> None:
        self.id = identifier
        self._directory = directory
        self._owner = owner
        self._leads = leads
        self._process = os.getpid()
        self._before: Dict[str, Optional[str]] = {}
        self.failure = ""
        self.status: Optional[str] = None

    def __repr__(self) -> str:
        where = "" if self._directory is None else f", directory={self._directory!r}"
        return f"Run(id={self.id!r}{where})"

    @property
    def directory(self) -> Optional[Path]:
        """Where a run outside the platform is recorded; None on the platform."""
        if self._directory is None:
            return None
        from pathlib import Path

        return Path(self._directory)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.finish()
        elif issubclass(kind, KeyboardInterrupt):
            self.finish("stopped")
        elif issubclass(kind, SystemExit) and error.code in (None, 0):
            self.finish("finished")
        else:
            self.failure = to_text(f"{kind.__name__}: {error}", 2000)
            self.finish("failed")

    def finish(self, status: Optional[str] = None) -> None:
        """End the run; see `incl.finish`. A second call does nothing."""
        if Session.active is not self or not self.is_here():
            return
        Session.active = None
        if not self._owner:
            return
        _state.reset()
        state = status or self.status or ("failed" if self.failure else "finished")
        if state not in FINAL:
            warn("status", f"status {state!r} is none of {', '.join(FINAL)}: taken as failed")
            state = "failed"
        self._end(state)
        Session.config = None
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def is_here(self) -> bool:
        """Whether this is the process that called init(), not a forked child of it."""
        return os.getpid() == self._process

    def _end(self, state: str) -> None:
        if self._directory is None or not self._leads:
            return
        end = {"ended": time.time(), "state": state, "message": self.failure}
        try:
            write_json(os.path.join(self._directory, "end.json"), end)
        except OSError as error:
            warn("end", f"cannot write the end of the run in {self._directory}: {error.strerror}")

    def claim(self, environment: Dict[str, str]) -> None:
        """Set the environment that this process and its children attach by; finish() puts it back."""
        for name, value in environment.items():
            self._before[name] = os.environ.get(name)
            os.environ[name] = value


def on_platform() -> bool:
    """Whether the platform (or a run of a parent process) has told this process where to write."""
    return bool(os.environ.get("INCL_SPOOL_DIR")) and not _stale_owner()


def _stale_owner() -> bool:
    """Whether the spool that the environment names is a run of init() that a new program should not join."""
    owner = os.environ.get("INCL_RUN_OWNER", "")
    if not owner or not owner.isdigit():
        return False
    multiprocessing = sys.modules.get("multiprocessing.process")
    child = multiprocessing is not None and multiprocessing.parent_process() is not None
    forked = int(owner) != os.getpid() and _imported_by != os.getpid()
    return not (child or forked)


_imported_by = os.getpid()


def init(
    project: Optional[str],
    name: Optional[str],
    values: Optional[Mapping[str, Any]],
    tags: Iterable[str],
    directory: Any,
    mode: Optional[str],
) -> Run:
    """See `incl.init`."""
    if values is not None and not hasattr(values, "keys"):
        warn("config-type", f"config takes a dict, not {type(values).__name__}: ignored")
        values = None
    if Session.active is not None:
        Session.active.finish()
    chosen = mode or os.environ.get("INCL_MODE") or "auto"
    if chosen not in ("auto", "online", "offline", "disabled"):
        warn("mode", f"mode {chosen!r} is none of auto, online, offline, disabled: taken as auto")
        chosen = "auto"
    if chosen == "disabled":
        run = Run(new_id(), None, owner=True)
        run.claim({"INCL_SPOOL_DIR": "", "INCL_RUN_OWNER": str(os.getpid())})
        warn("no-run", "mode=disabled: nothing is recorded")
        _state.reset()
    elif on_platform():
        run = Run(os.environ.get("INCL_EXPERIMENT_ID", ""), os.environ.get("INCL_RUN_DIR"), owner=False)
    else:
        run = _make(project, name, values, [tags] if isinstance(tags, str) else list(tags), directory, chosen)
        _state.reset()
    Session.active = run
    _configure(values)
    _watch()
    return run


def _configure(values: Optional[Mapping[str, Any]]) -> None:
    Session.config = _config.Config(values)
    if len(Session.config):
        _config.record(Session.config)


def _make(
    project: Optional[str],
    name: Optional[str],
    values: Optional[Mapping[str, Any]],
    tags: List[str],
    directory: Any,
    mode: str,
) -> Run:
    forget()
    Session.made += 1
    identifier = _group_id() or new_id()
    leads = os.environ.get("LOCAL_RANK", "0") == "0"
    root = os.path.abspath(os.fspath(directory) if directory is not None else os.environ.get("INCL_DIR") or ".incl")
    place = os.path.join(root, "runs", identifier)
    run = Run(identifier, place, owner=True, leads=leads)
    run.claim(
        {
            "INCL_SPOOL_DIR": os.path.join(place, "spool"),
            "INCL_EXPERIMENT_ID": identifier,
            "INCL_OUTPUT_DIR": os.path.join(place, "outputs"),
            "INCL_RUN_DIR": place,
            "INCL_RUN_OWNER": str(os.getpid()),
        }
    )
    try:
        os.makedirs(os.path.join(place, "spool"), exist_ok=True)
        os.makedirs(os.path.join(place, "outputs"), exist_ok=True)
        if leads:
            write_json(os.path.join(place, "meta.json"), _meta(identifier, project, name, values, tags))
    except OSError as error:
        warn("run", f"cannot record in {place}: {error.strerror}: nothing of this run is kept")
        return run
    if not leads:
        return run
    shown = os.path.relpath(place) if len(os.path.relpath(place)) < len(place) else place
    if mode != "offline" and _ship.start(place):
        info(f"run {identifier[-8:]} is recorded in {shown}, and shipped in the background")
    else:
        if mode == "online":
            warn("online", "mode=online, but no platform can be shipped to from here: see incl up, incl login")
        info(f"run {identifier[-8:]} is recorded in {shown}; send it with: incl sync {_ship.quoted(shown)}")
    return run


def _meta(
    identifier: str,
    project: Optional[str],
    name: Optional[str],
    values: Optional[Mapping[str, Any]],
    tags: List[str],
) -> Dict[str, Any]:
    return {
        "version": 1,
        "id": identifier,
        "project": None if project is None else to_text(project, 63),
        "name": None if name is None else to_text(name, 128),
        "config": to_plain(dict(values or {})),
        "tags": [to_text(tag, 128) for tag in tags],
        "started": time.time(),
        "pid": os.getpid(),
        "pid_started": _ship.process_start(os.getpid()),
        "host": os.uname().nodename if hasattr(os, "uname") else None,
        "boot": _ship.boot_id(),
        "command": [to_text(word, 4096) for word in sys.argv],
        "directory": os.getcwd(),
        "python": sys.version.split()[0],
    }


def _watch() -> None:
    """Note how the process ends: an exception that nobody caught, or sys.exit() with a code."""
    if Session.watching:
        return
    Session.watching = True
    atexit.register(_at_exit)
    shown, leave = sys.excepthook, sys.exit

    def excepthook(kind: Any, error: Any, trace: Any) -> Any:
        run = Session.active
        if run is not None:
            run.failure = to_text(f"{kind.__name__}: {error}", 2000)
            run.status = "stopped" if issubclass(kind, KeyboardInterrupt) else "failed"
        return shown(kind, error, trace)

    def leaving(code: Any = None, /) -> Any:
        run = Session.active
        if run is not None and code not in (None, 0):
            number = to_number(code)
            run.failure = f"sys.exit({number if number is not None else to_text(repr(code), 500)})"
        leave(code)

    sys.excepthook = excepthook
    sys.exit = leaving


def _at_exit() -> None:
    if Session.active is not None:
        Session.active.finish()
    _state.reset()
