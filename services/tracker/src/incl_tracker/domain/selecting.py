"""What a filter means for a block of experiments at once: the same as `incl_shared.filters.matches`, by columns.

A mask is an array of booleans, or one boolean where all experiments of the block are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from incl_shared.filters import (
    And,
    Compare,
    Field,
    Filter,
    Kind,
    Not,
    Number,
    Op,
    Or,
    Span,
    Text,
    Type,
    Value,
    fold,
    resolve,
)
from incl_tracker.domain.columns import Array, Bools, Numbers

Mask = Bools | bool
Key = tuple[str, str]
"""(kind, name) of a stored column."""
COLUMN, NUMBER_OF = "column", {"config": "config#", "env": "env#"}


class Words(Protocol):
    """A column of texts. codes: -1 is none."""

    @property
    def codes(self) -> Array:
        """Of each experiment; those of one block compare as the texts do."""

    def among(self, words: Sequence[bytes], inside: bool) -> Mask:
        """Which experiments have one of these words; inside: a text that contains one (folded) of them."""

    def below(self, text: bytes) -> Bools:
        """Which experiments' texts are less (none is, too)."""

    def at(self, slot: int) -> bytes:
        """The text of an experiment that has one."""

    def greatest(self, slots: Array, limit: int) -> Array:
        """Of some experiments those `limit` that have the greatest texts."""


class Labels(Protocol):
    """A column of tags."""

    def among(self, words: Sequence[bytes], inside: bool, count: int) -> Mask:
        """Which experiments have one of these tags; inside: one that contains one (folded) of them."""


class Rows(Protocol):
    """A block of experiments, or several."""

    project: str
    count: int

    def numbers(self, key: Key) -> Numbers | None:
        """A column of numbers, of `count` experiments; none: no experiment has any."""

    def texts(self, key: Key) -> Words | None:
        """The same of texts."""

    def tags(self) -> Labels | None:
        """The tags."""

    def bounds(self, key: Key) -> tuple[float, float] | None:
        """Between which the numbers of a column lie; none: there is none."""


def keys_of(field: Field) -> tuple[Key, ...]:
    """The stored columns that a field may be read from."""
    match field.kind:
        case Kind.COLUMN:
            if field.name == "duration":
                return ((COLUMN, "started"), (COLUMN, "ended"))
            return () if field.name == "project" else ((COLUMN, field.name),)
        case Kind.METRIC:
            return (("metric", field.name),)
        case _:
            kinds = kinds_of(field)
            return tuple((k, field.name) for kind in kinds for k in (kind, NUMBER_OF[kind]))


def kinds_of(field: Field) -> tuple[str, ...]:
    """config and env, in the order in which a parameter's value is sought."""
    return ("config", "env") if field.kind is Kind.PARAM else (field.kind.value,)


def selected(node: Filter, rows: Rows, now: float) -> Mask:
    """Which experiments pass."""
    match node:
        case And(parts=parts):
            mask: Mask = True
            for part in parts:
                mask = both(mask, selected(part, rows, now))
                if mask is False:
                    break
            return mask
        case Or(parts=parts):
            some: Mask = False
            for part in parts:
                some = either(some, selected(part, rows, now))
                if some is True:
                    break
            return some
        case Not(inner=inner):
            return opposite(selected(inner, rows, now))
        case Compare(op=Op.NE):
            return opposite(_holds(node.field, Op.EQ, node.values, rows, now))
        case Compare(op=op):
            return _holds(node.field, op, node.values, rows, now)


def both(one: Mask, other: Mask) -> Mask:
    """One and the other."""
    if isinstance(one, bool):
        return other if one else False
    if isinstance(other, bool):
        return one if other else False
    return one & other


def either(one: Mask, other: Mask) -> Mask:
    """One or the other."""
    return opposite(both(opposite(one), opposite(other)))


def opposite(mask: Mask) -> Mask:
    """Not it."""
    return not mask if isinstance(mask, bool) else ~mask


def duration(rows: Rows, now: float) -> Array | None:
    """Seconds from start to end, or till now."""
    started, ended = rows.numbers((COLUMN, "started")), rows.numbers((COLUMN, "ended"))
    if started is None:
        return None
    begin = started.values.astype(np.float64)
    if ended is None:
        return np.asarray(now - begin)
    end = ended.values.astype(np.float64)
    return np.asarray(np.where(np.isnan(end), now, end) - begin)


def _holds(field: Field, op: Op, values: Sequence[Value], rows: Rows, now: float) -> Mask:
    if field.kind is Kind.COLUMN:
        return _holds_column(field, op, values, rows, now)
    if field.kind is Kind.METRIC:
        return _some(rows, ("metric", field.name), [_span(op, value, now) for value in values])
    kind, *others = kinds_of(field)
    result = _holds_param(kind, field.name, op, values, rows)
    for other in others:
        here = _holds_param(other, field.name, op, values, rows)
        if here is not False:
            texts = rows.texts((kind, field.name))
            here = here if texts is None else both(here, np.asarray(texts.codes < 0))
        result = either(result, here)
    return result


def _holds_param(kind: str, name: str, op: Op, values: Sequence[Value], rows: Rows) -> Mask:
    numbers = [_span(op, value, 0.0) for value in values if isinstance(value, Number)]
    words = [value.text for value in values if isinstance(value, Text)]
    result: Mask = _some(rows, (NUMBER_OF[kind], name), numbers) if numbers else False
    return either(result, _worded(rows.texts((kind, name)), op, words)) if words else result


def _holds_column(field: Field, op: Op, values: Sequence[Value], rows: Rows, now: float) -> Mask:
    if field.type in (Type.NUMBER, Type.TIME):
        return _some(rows, (COLUMN, field.name), [_span(op, value, now) for value in values])
    if field.type is Type.DURATION:
        found, mask = duration(rows, now), False
        if found is not None:
            result: Mask = mask
            for value in values:
                result = either(result, _within(found, _span(op, value, now)))
            return result
        return False
    words = [value.text for value in values if isinstance(value, Text)]
    if field.name == "project":
        return any(fold(w) in fold(rows.project) if op is Op.HAS else w == rows.project for w in words)
    if field.name == "tag":
        tags = rows.tags()
        return False if tags is None else tags.among(*_sought(op, words), rows.count)
    return _worded(rows.texts((COLUMN, field.name)), op, words)


_Span = tuple[float, bool, float, bool]
"""(least, whether it belongs to it, greatest, whether it belongs to it)."""


def _span(op: Op, value: Value, now: float) -> _Span:
    """The numbers that a comparison is true of."""
    if isinstance(value, Number):
        start, end, day = value.value, value.value, False
    elif isinstance(value, Span):
        start, end, day = value.seconds, value.seconds, False
    else:
        period = resolve(value, now)
        start, end, day = period.start, period.end, period.end > period.start
    match op:
        case Op.LT:
            return -np.inf, True, start, False
        case Op.LE:
            return -np.inf, True, end, not day
        case Op.GT:
            return end, day, np.inf, True
        case Op.GE:
            return start, True, np.inf, True
        case _:
            return start, True, end, not day


def _some(rows: Rows, key: Key, spans: Sequence[_Span]) -> Mask:
    """Whose number of a column lies in any of the spans; blocks that have none such are not read."""
    bounds = rows.bounds(key)
    if bounds is None or not any(_touches(bounds, span) for span in spans):
        return False
    numbers = rows.numbers(key)
    result: Mask = False
    for span in spans if numbers is not None else ():
        result = either(result, _within(numbers.values, span)) if numbers is not None else result
    return result


def _touches(bounds: tuple[float, float], span: _Span) -> bool:
    low, with_low, high, with_high = span
    above = bounds[1] >= low if with_low else bounds[1] > low
    below = bounds[0] <= high if with_high else bounds[0] < high
    return above and below


def _within(values: Array, span: _Span) -> Mask:
    low, with_low, high, with_high = np.float64(span[0]), span[1], np.float64(span[2]), span[3]
    if low == high and with_low and with_high:
        return np.asarray(values == low)
    if low == -np.inf and with_low:
        return np.asarray(values <= high) if with_high else np.asarray(values < high)
    upward = np.asarray(values >= low) if with_low else np.asarray(values > low)
    if high == np.inf and with_high:
        return upward
    return upward & (np.asarray(values <= high) if with_high else np.asarray(values < high))


def _worded(texts: Words | None, op: Op, words: Sequence[str]) -> Mask:
    return False if texts is None else texts.among(*_sought(op, words))


def _sought(op: Op, words: Sequence[str]) -> tuple[list[bytes], bool]:
    inside = op is Op.HAS
    return [encoded(fold(word) if inside else word) for word in words], inside


def encoded(text: str) -> bytes:
    """A text as columns hold it."""
    return text.encode("utf-8", "surrogatepass")
