"""What this process belongs to: the experiment of the platform, a run made by init(), or nothing."""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
from binascii import b2a_base64

from incl._spool import Writer
from incl._values import MAX_KEY, MAX_VALUES, encode, flatten, pieces, to_step
from incl._warn import warn

TYPE_CHECKING = False  # as typing has it; importing typing costs more than all the rest
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    Shape = Tuple[str, Callable[..., bytes]]
    """The names of a record as its line has them, and what packs its values."""

_PLAIN = frozenset({float, int})
_MOST_SHAPES = 1000


class State:
    """The spool of this process and what the environment says of it."""

    def __init__(self) -> None:
        self.spool = os.environ.get("INCL_SPOOL_DIR", "")
        self.experiment_id = os.environ.get("INCL_EXPERIMENT_ID") or None
        self.steps = itertools.count()
        self.shapes: Dict[Tuple[str, ...], Shape] = {}
        self.last: Dict[str, Any] = {}
        rank = os.environ.get("RANK", "")
        self.writer = Writer(self.spool, f"r{rank[:6]}-" if rank.isdigit() else "p") if self.spool else None

    def log(self, values: Any, step: Any) -> None:
        """One record of scalars; see `incl.log`."""
        writer = self.writer
        if writer is None:
            warn("no-run", "no run here, values are not recorded: call incl.init() first, or use `incl run`")
            return
        number = step if type(step) is int and -(2**63) <= step < 2**63 else self._step(step)
        now = time.time()
        # The text of ten floats takes longer than all the rest: where the names have come before, they are packed.
        shape = self.shapes.get(tuple(values)) if type(values) is dict else None
        if shape is not None and _PLAIN.issuperset(map(type, values.values())):
            try:
                packed = b2a_base64(shape[1](*values.values()), newline=False)
            except (OverflowError, struct.error):
                packed = b""
            if packed:
                self.last = values
                head = f'{{"k":"m","t":{now!r},"s":{number},"n":{shape[0]},"b":"'
                writer.write(b'%b%b"}\n' % (head.encode("ascii"), packed), now)
                return
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
        self._know(values)
        if numbers:
            self.last = numbers
            for piece in pieces(numbers):
                writer.write(encode({"k": "m", "t": now, "s": step, "v": piece}), now)

    def _know(self, values: Any) -> None:
        """Remember names that need no change, so that the next record of them is packed."""
        if type(values) is not dict or not 0 < len(values) <= MAX_VALUES or len(self.shapes) >= _MOST_SHAPES:
            return
        names = tuple(values)
        if all(type(name) is str and 0 < len(name) <= MAX_KEY and name.isprintable() for name in names):
            text = json.dumps(names, separators=(",", ":"))
            self.shapes[names] = (text, struct.Struct(f"<{len(names)}d").pack)

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
