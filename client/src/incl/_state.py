"""What this process belongs to: the experiment of the platform, a run made by init(), or nothing."""

from __future__ import annotations

import itertools
import json
import os
import time

from incl._spool import Writer
from incl._values import MAX_KEY, encode, flatten, pieces, to_step
from incl._warn import warn

TYPE_CHECKING = False  # as typing has it; importing typing costs more than all the rest
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from incl._values import Number

    Encoder = Callable[[Any], str]


def _encoder() -> Encoder:
    """JSON text of a flat dict of floats and ints with str keys, by the C encoder kept ready where there is one."""
    plain = json.JSONEncoder(separators=(",", ":")).encode
    make = getattr(json.encoder, "c_make_encoder", None)
    quote = getattr(json.encoder, "c_encode_basestring_ascii", None)
    sample: Dict[str, Number] = {"a/\u00e4": 0.1, "b": float("nan"), "c": float("-inf"), "d": 7}
    try:
        ready = make(None, None, quote, None, ":", ",", False, False, True)  # type: ignore[misc]

        def fast(values: Any) -> str:
            return "".join(ready(values, 0))

        return fast if fast(sample) == plain(sample) else plain
    except Exception:
        return plain


_PLAIN = frozenset({float})
_PLAIN_INT = frozenset({float, int})


_encode_flat = _encoder()


class State:
    """The spool of this process and what the environment says of it."""

    def __init__(self) -> None:
        self.spool = os.environ.get("INCL_SPOOL_DIR", "")
        self.experiment_id = os.environ.get("INCL_EXPERIMENT_ID") or None
        self.steps = itertools.count()
        self.known: Dict[str, None] = {}
        self.last: Dict[str, Any] = {}
        rank = os.environ.get("RANK", "")
        self.writer = Writer(self.spool, f"r{rank[:6]}-" if rank.isdigit() else "p") if self.spool else None

    def log(self, values: Any, step: Any) -> None:
        """One record of scalars; see `incl.log`."""
        writer = self.writer
        if writer is None:
            warn("no-run", "no run here, values are not recorded: call incl.init() first, or use `incl run`")
            return
        number = step if type(step) is int and -(2**63) < step < 2**63 else self._step(step)
        now = time.time()
        if type(values) is dict and self.known.keys() >= values.keys() and _are_plain(values):
            self.last = values
            text = _encode_flat(values)
            writer.write(f'{{"k":"m","t":{now!r},"s":{number},"v":{text}}}\n'.encode("ascii"), now)
        else:
            self._log_any(writer, values, number, now)

    def _step(self, step: Any) -> int:
        number = None if step is None else to_step(step)
        if number is not None:
            return number
        if step is not None:
            warn("step-type", f"{step!r:.60} is no step: counted instead")
        return next(self.steps)

    def _log_any(self, writer: Writer, values: Any, step: int, now: float) -> None:
        if not hasattr(values, "items"):
            warn("log-type", f"log() takes a dict of numbers, not {type(values).__name__}: dropped")
            return
        numbers = flatten(values)
        if len(self.known) < 10_000:
            self.known.update(
                (key, None) for key in values if type(key) is str and 0 < len(key) <= MAX_KEY and key.isprintable()
            )
        if numbers:
            self.last = numbers
            for piece in pieces(numbers):
                writer.write(encode({"k": "m", "t": now, "s": step, "v": piece}), now)

    def record(self, record: Dict[str, Any]) -> bool:
        """Write a record that is no scalar. Returns whether it is in the spool."""
        if self.writer is None:
            warn("no-run", "no run here, nothing is recorded: call incl.init() first, or use `incl run`")
            return False
        now = time.time()
        head = {"k": record.pop("k"), "t": now}
        head.update(record)
        return self.writer.write(encode(head), now)

    def close(self) -> None:
        """Say what was dropped, let the file go."""
        if self.writer is not None:
            self.writer.close(time.time())


def _are_plain(values: Dict[str, Any]) -> bool:
    kinds = set(map(type, values.values()))
    if kinds <= _PLAIN:
        return 0 < len(values) <= 1000
    if kinds <= _PLAIN_INT and len(values) <= 1000:
        return all(-(2**53) <= value <= 2**53 for value in values.values() if type(value) is int)
    return False


class _Process:
    """What this process holds; a forked child begins with nothing."""

    state: Optional[State] = None


def current() -> State:
    """The state of this process, made when first asked for."""
    state = _Process.state
    if state is None:
        _Process.state = state = State()
    return state


def reset() -> None:
    """Read the environment anew: init() and finish() changed it."""
    previous, _Process.state = _Process.state, None
    if previous is not None:
        previous.close()


def _after_fork_in_child() -> None:
    previous, _Process.state = _Process.state, None
    if previous is not None and previous.writer is not None:
        previous.writer.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def environment_int(name: str, default: int) -> int:
    """A number of the environment, or the default where there is none."""
    try:
        return int(os.environ.get(name, ""))
    except ValueError:
        return default
