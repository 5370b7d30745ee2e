"""From what a training script has at hand (tensors, NumPy scalars, nested dicts) to plain numbers."""

from __future__ import annotations

import json  # not when first needed: an import inside a signal handler or a forked child can fail or hang
import math

from incl._warn import warn

TYPE_CHECKING = False  # as typing has it; importing typing costs more than all the rest
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

    Number = Union[int, float]

MAX_KEY = 250
MAX_DEPTH = 16
MAX_VALUES = 1000
"""Values in one record; more are written as several records of the same step."""
EXACT = 2**53
MAX_STEP = 2**63 - 1
MAX_TEXT = 32_768


def to_number(value: Any) -> Optional[Number]:
    """The number that value stands for: int, float, bool, a scalar or one-element tensor or array. None: no number."""
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is int or kind is bool:
        return _integer(int(value))
    if isinstance(value, (str, bytes, bytearray)) or value is None:
        return None
    try:
        item = getattr(value, "item", None)
        if callable(item):
            value = item()
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, int):
            return _integer(int(value))
        if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
            return None
        return float(value)
    except Exception:
        return None


def _integer(value: int) -> Optional[Number]:
    if -EXACT <= value <= EXACT:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def to_key(key: Any) -> str:
    """A metric's name: text without control characters, at most 250 characters."""
    text = key if isinstance(key, str) else to_text(key)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "_" for c in text)
    if len(text) > MAX_KEY:
        warn("key-length", f"a metric's name is cut to {MAX_KEY} characters: {text[:60]!r}…")
        text = text[:MAX_KEY]
    return text or "_"


def flatten(values: Any) -> Dict[str, Number]:
    """Numbers by name; nested dicts become 'outer/inner'. What is no number is dropped with one warning."""
    numbers: Dict[str, Number] = {}
    for name, value in _leaves(values, "", 0):
        number = to_number(value)
        if number is None:
            warn("value-type", f"{name[:80]!r} is no number but {_kind(value)}: dropped (this is said once)")
        else:
            numbers[name] = number
    return numbers


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    try:
        return type(value).__name__ + (f" of shape {tuple(shape)}" if shape else "")
    except Exception:
        return type(value).__name__


def _leaves(values: Any, prefix: str, depth: int) -> Iterator[Tuple[str, Any]]:
    if depth > MAX_DEPTH:
        warn("value-depth", f"values nested deeper than {MAX_DEPTH} are dropped")
        return
    for key, value in list(values.items()):
        name = to_key(f"{prefix}/{key}" if prefix else key)
        if isinstance(value, dict):
            yield from _leaves(value, name, depth + 1)
        else:
            yield name, value


def to_step(step: Any) -> Optional[int]:
    """A step as a 64-bit integer, whole numbers exactly; None when it is none."""
    try:
        number = step.__index__()
    except Exception:
        number = to_number(step)
    if number is None or not -MAX_STEP - 1 <= number <= MAX_STEP:  # NaN is not, either
        return None
    return int(number)


def pieces(numbers: Dict[str, Number]) -> List[Dict[str, Number]]:
    """At most MAX_VALUES numbers each."""
    if len(numbers) <= MAX_VALUES:
        return [numbers]
    items = list(numbers.items())
    return [dict(items[i : i + MAX_VALUES]) for i in range(0, len(items), MAX_VALUES)]


def to_plain(value: Any, depth: int = 0) -> Any:
    """Value as JSON has it: numbers, text, booleans, None, lists and dicts of them; everything else as its text."""
    if value is None or isinstance(value, (bool, str)):
        return to_text(value) if isinstance(value, str) else value
    if depth < MAX_DEPTH:
        if isinstance(value, dict):
            return {to_text(key, MAX_KEY): to_plain(inner, depth + 1) for key, inner in list(value.items())}
        if isinstance(value, (list, tuple)):
            return [to_plain(inner, depth + 1) for inner in value]
    number = to_number(value)
    return to_text(value) if number is None else number


def to_text(value: Any, limit: int = MAX_TEXT) -> str:
    """Value's text, valid UTF-8, at most limit characters; never raises."""
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text[:limit].encode("utf-8", "replace").decode("utf-8")


def encode(record: Dict[str, Any]) -> bytes:
    """A record as a spool line: one line of ASCII JSON with bare NaN and Infinity, ended by a newline."""
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
