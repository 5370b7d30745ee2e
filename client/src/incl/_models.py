"""Models: register_model() leaves a copy in the spool, as a checkpoint; load_model() asks the command line for one."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from incl import _files, _state
from incl._values import to_plain, to_text
from incl._warn import warn

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_UNFIT = re.compile(r"[\x00-\x1f\x7f,]+")
_MOST_NOTE, _MOST_METADATA, _MOST_TAGS = 20_000, 65_536, 100


class ModelError(RuntimeError):
    """A model cannot be loaded; the text says why, and what to do."""


def register(name: Any, source: Any, note: Any, tags: Any, metadata: Any, move: bool) -> bool:
    """See `incl.register_model`."""
    state = _state.current()
    if state.writer is None:
        warn("no-run", "no run here, nothing is recorded: call incl.init() first, or use `incl run`")
        return False
    model = to_text(name, 100)
    if not isinstance(name, str) or _NAME.fullmatch(model) is None:
        warn("model-name", f"{model!r} cannot be a model: letters, digits, - and _, at most 63; it is not registered")
        return False
    try:
        base = os.path.basename(os.path.abspath(os.fspath(source))) or "model"
        file = os.path.abspath(_files.place(source, _files.safe_name(base), state, move))
    except Exception as error:
        warn(f"model-{getattr(error, 'errno', '')}", f"{model} is not registered: {error}")
        return False
    record: Dict[str, Any] = {"k": "v", "model": model, "file": file, "note": _note(model, note), "tags": _tags(tags)}
    record["metadata"] = _metadata(model, metadata)
    return state.record(record)


def _note(model: str, note: Any) -> str:
    text = str(to_text(note, _MOST_NOTE + 1))
    if len(text) > _MOST_NOTE:
        warn("model-note", f"the note of {model} is cut after {_MOST_NOTE} characters")
    return text[:_MOST_NOTE]


def _tags(tags: Any) -> List[str]:
    words = [tags] if isinstance(tags, str) else list(tags or ())
    cleaned = (_UNFIT.sub(" ", to_text(word, 200)).strip()[:63].strip() for word in words)
    return [word for word in dict.fromkeys(cleaned) if word][:_MOST_TAGS]


def _metadata(model: str, metadata: Any) -> Dict[str, Any]:
    if metadata is None:
        return {}
    if not hasattr(metadata, "items"):
        warn("model-metadata", f"metadata takes a dict, not {type(metadata).__name__}: {model} goes without it")
        return {}
    plain = to_plain(dict(metadata))
    try:
        if isinstance(plain, dict) and len(json.dumps(plain, allow_nan=False).encode()) <= _MOST_METADATA:
            return plain
        why = f"is larger than {_MOST_METADATA} bytes"
    except ValueError:
        why = "has NaN or an infinity in it"
    warn("model-metadata", f"the metadata of {model} {why}: it goes without them")
    return {}


def load(reference: Any, project: Optional[str]) -> Path:
    """See `incl.load_model`."""
    import subprocess
    from pathlib import Path

    words = [*_command(), "model", "get", str(reference), "--cache", "--json"]
    words += ["--project", project] if project else []
    if str(reference).startswith("-"):
        raise ModelError(f"{str(reference)[:80]!r} names no model: chest-xray, chest-xray:3, chest-xray@production")
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise ModelError(f"the command line of INCL cannot be run: {error}") from None
    if done.returncode != 0:
        raise ModelError(_reason(done.stderr.decode("utf-8", "replace")))
    return Path(json.loads(done.stdout)["path"])


def _command() -> List[str]:
    """How the command line is called: that of this Python, else the one of the PATH."""
    import shutil
    import sys
    from importlib.util import find_spec

    if sys.version_info >= (3, 11) and sys.executable and find_spec("incl_cli") and find_spec("incl_shared"):
        return [sys.executable, "-m", "incl_cli"]
    found = shutil.which("incl")
    if found is None:
        raise ModelError(
            "loading a model needs the command line `incl`, which is not on this machine: pip install incl"
        )
    return [found]


def _reason(said: str) -> str:
    """The words of an error envelope; whatever was said, where it is none."""
    try:
        error = json.loads(said.strip().splitlines()[-1])["error"]
        parts = [error["message"], error["cause"] and f"({error['cause']})", error["hint"] and f"- {error['hint']}"]
        return " ".join(part for part in parts if part)
    except (ValueError, KeyError, IndexError, TypeError):
        return said.strip()[-500:] or "the command line of INCL failed without a word"
