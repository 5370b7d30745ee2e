"""The SDK of INCL: `import incl; incl.log({"loss": 0.3}, step=7)`.

It appends to a local spool and returns: no network, no thread, no import but the standard library. It never raises into
the training and never blocks it; what cannot be recorded is said once on stderr and counted.
On the platform everything is set already; elsewhere `incl.init()` makes a run.
"""

from __future__ import annotations

import os

from incl import _state
from incl._warn import warn

TYPE_CHECKING = False  # as typing has it; importing typing costs more than all the rest
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence, Union

    from incl._config import Config
    from incl._models import ModelError
    from incl._run import Run

__version__ = "0.1.0"

__all__ = [
    "ModelError",
    "alert",
    "attempt",
    "checkpoint",
    "config",
    "experiment_id",
    "finish",
    "init",
    "latest_checkpoint",
    "load_model",
    "log",
    "log_image",
    "log_table",
    "log_text",
    "node_rank",
    "num_nodes",
    "output_dir",
    "rank",
    "sweep",
    "trial",
]

config: Config
"""Hyper-parameters: those of the platform over those of init(config=…). A dict whose keys are attributes too."""
output_dir: Path
"""Files put here are kept as the outputs of the experiment. Made when first asked for."""
experiment_id: Optional[str]
"""The id of the experiment or run; None where there is none."""
rank: int
"""The rank of this process in the whole job (RANK of a launcher, else the node's); 0 alone."""
node_rank: int
"""The rank of this machine."""
num_nodes: int
"""How many machines the job has."""
attempt: int
"""Which attempt of the experiment this is, from 1."""
sweep: Optional[str]
"""The id of the sweep that this is a trial of; None where it is none."""
trial: Optional[int]
"""The number of the trial in its sweep, from 0; None where it is none."""


def log(values: Mapping[str, Any], step: Optional[int] = None) -> None:
    """Record scalars: numbers, booleans, scalar or one-element tensors and arrays; nested dicts become 'outer/inner'.

    step: where on the axis they stand; counted from 0 in this process when left out. NaN and infinities are kept. What
    is no number is dropped with one warning. Takes microseconds; never raises, never waits.
    """
    try:
        _state.current().log(values, step)
    except Exception as error:
        warn("log", f"log() failed: {type(error).__name__}: {error}")


def init(
    project: Optional[str] = None,
    name: Optional[str] = None,
    config: Optional[Mapping[str, Any]] = None,
    tags: Iterable[str] = (),
    dir: Union[str, os.PathLike[str], None] = None,
    mode: Optional[str] = None,
) -> Run:
    """Begin a run. On the platform it only attaches to the experiment and applies `config` as defaults.

    Elsewhere it makes a run under `dir` (.incl, or INCL_DIR): shipped while it runs where a platform is known
    (`incl up`, `incl login`), else kept for `incl sync`. A run that is active in this process is finished first.

    mode: 'auto', 'online', 'offline' (recorded only), 'disabled' (nothing is recorded); INCL_MODE by default.
    Returns:
        The run: `run.id`, `run.directory`, `run.finish()`; also a context manager.
    """
    from incl import _run

    return _run.init(project, name, config, tags, dir, mode)


def finish(status: Optional[str] = None) -> None:
    """End the run of init(). status: 'finished', 'failed' or 'stopped'; by default what the process' end says.

    It waits for nothing: the shipper sends the rest. Called by itself at the end of the process.
    """
    from incl._run import Session

    if Session.active is not None:
        Session.active.finish(status)


def checkpoint(
    source: Union[str, os.PathLike[str], bytes],
    step: Optional[int] = None,
    metrics: Optional[Mapping[str, Any]] = None,
    name: Optional[str] = None,
    move: bool = False,
) -> Optional[Path]:
    """Keep a checkpoint: a file, a directory, or bytes (with a name). It is copied, so the script may go on writing it.

    move: the file is given away (renamed instead of copied). metrics: numbers that belong to it, for keeping the best
    (`checkpoint: best`); without them those of this process's newest incl.log().
    Returns:
        Where the copy lies until it is stored, or None when it could not be kept (said once on stderr).
    """
    from incl import _files

    return _files.checkpoint(source, step, metrics, name, move)


def latest_checkpoint() -> Optional[Path]:
    """The newest checkpoint of this run, else the one of an earlier attempt that the platform brought; None: a fresh
    start."""
    from incl import _files

    return _files.latest_checkpoint()


def register_model(
    name: str,
    source: Union[str, os.PathLike[str]],
    note: str = "",
    tags: Iterable[str] = (),
    metadata: Optional[Mapping[str, Any]] = None,
    move: bool = False,
) -> bool:
    """Make a file, or a directory, the next version of a model. It is copied, so the script may go on writing it; the
    version is there once its bytes are stored, also when this process is killed in the next moment.

    note, tags, metadata (a dict of what JSON has) are said of the version. move: the file is given away.
    Returns:
        Whether it is on its way; why not is said once on stderr.
    """
    from incl import _models

    return _models.register(name, source, note, tags, metadata, move)


def load_model(reference: str, project: Optional[str] = None) -> Path:
    """A local path of a version: 'chest-xray@production', 'chest-xray:3', 'chest-xray' (the newest). A file, or the
    folder of its files; fetched unless it is in this machine's cache, checked at each use, and not to be written to.

    Raises:
        incl.ModelError: there is none, it cannot be reached, or this machine has no command line `incl`.
    """
    from incl import _models

    return _models.load(reference, project)


def log_image(
    key: str,
    image: Any,
    step: Optional[int] = None,
    caption: Union[str, Sequence[Optional[str]], None] = None,
) -> None:
    """Keep an image: a path, PNG or JPEG bytes, a PIL image, a matplotlib figure, an array or a tensor: H x W, or H x W
    x 1, 3 or 4 (tensors: channels first), of floats from 0 to 1, of floats from 0 to 255, or of bytes.

    A batch (N x H x W x C) becomes one picture, a grid; of a list each image is kept by itself, with its own caption.
    """
    from incl import _media

    _media.log_image(key, image, step, caption)


def log_table(
    key: str,
    data: Any = None,
    columns: Optional[Sequence[str]] = None,
    step: Optional[int] = None,
    caption: Optional[str] = None,
) -> None:
    """Keep a table as CSV: a data frame (pandas, polars, arrow), a list of dicts, a dict of lists, named tuples, or
    rows with `columns`."""
    from incl import _media

    _media.log_table(key, data, columns, step, caption)


def log_text(key: str, text: str, step: Optional[int] = None) -> None:
    """Keep a text."""
    from incl import _media

    _media.log_text(key, text, step)


def alert(title: str, text: str = "", level: str = "info") -> None:
    """Tell the people of the experiment something. level: 'info', 'warn' or 'error'
    (logging's 'warning' and 'critical' are warn and error)."""
    from incl._values import to_text

    level = {"warning": "warn", "critical": "error"}.get(str(level), level)
    if level not in ("info", "warn", "error"):
        warn("alert-level", f"alert level {level!r} is none of info, warn, error: taken as info")
        level = "info"
    record = {"k": "a", "title": to_text(title, 500), "text": to_text(text), "level": level}
    _state.current().record(record)


def _current_config() -> Config:
    from incl._config import Config
    from incl._run import Session

    if Session.config is None:
        Session.config = Config()
    return Session.config


def _make_output_dir() -> Path:
    from pathlib import Path

    path = Path(os.environ.get("INCL_OUTPUT_DIR") or os.path.join(".incl", "outputs")).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warn("output", f"cannot make {path}: {error.strerror}")
    return path


def _trial() -> Optional[int]:
    number = _state.environment_int("INCL_TRIAL", -1)
    return number if number >= 0 else None


def _model_error() -> Any:
    from incl._models import ModelError

    return ModelError


_ATTRIBUTES: Dict[str, Callable[[], Any]] = {
    "ModelError": _model_error,
    "config": _current_config,
    "output_dir": _make_output_dir,
    "experiment_id": lambda: _state.current().experiment_id,
    "rank": lambda: _state.environment_int("RANK", _state.environment_int("INCL_NODE_RANK", 0)),
    "node_rank": lambda: _state.environment_int("INCL_NODE_RANK", 0),
    "num_nodes": lambda: _state.environment_int("INCL_NUM_NODES", 1),
    "attempt": lambda: _state.environment_int("INCL_ATTEMPT", 1),
    "sweep": lambda: os.environ.get("INCL_SWEEP") or None,
    "trial": _trial,
}


def __getattr__(name: str) -> Any:
    attribute = _ATTRIBUTES.get(name)
    if attribute is None:
        raise AttributeError(f"module 'incl' has no attribute {name!r}")
    return attribute()
