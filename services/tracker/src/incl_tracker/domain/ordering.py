"""The order of a list over blocks: keys one after the other, what is missing last, the newest id first in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from incl_shared.filters import Field, Kind, SortKey, Type
from incl_tracker.domain.columns import Array, Bools, Numbers, Texts
from incl_tracker.domain.selecting import COLUMN, NUMBER_OF, Key, Rows, Words, duration, encoded, kinds_of

_OF_NUMBERS = (Type.NUMBER, Type.TIME, Type.DURATION)
Raw = float | str | None
"""A value that a key has, as a cursor says it."""


class Down(bytes):
    """A text that is less than those that it comes after."""

    __slots__ = ()

    def __lt__(self, other: bytes) -> bool:
        return bytes.__gt__(self, other)


@dataclass(frozen=True, slots=True)
class Part:
    """One key of the order in a block: numbers (NaN is missing), or texts. Neither: all are missing."""

    descending: bool
    numbers: Array | None = None
    texts: Texts | None = None

    def ranks(self, places: Array) -> tuple[Array, Array]:
        """(missing, what increases in the order) of some experiments."""
        if self.texts is not None:
            codes = self.texts.codes[places].astype(np.float64)
            return codes < 0, -codes if self.descending else codes
        if self.numbers is None:
            return np.ones(len(places), np.bool_), np.zeros(len(places))
        values = self.numbers[places].astype(np.float64)
        missing = np.isnan(values)
        return missing, np.where(missing, 0.0, -values if self.descending else values)

    def raw(self, place: int) -> Raw:
        """The value of one experiment."""
        if self.texts is not None:
            given = self.texts.codes[place] >= 0
            return self.texts.at(place).decode("utf-8", "surrogatepass") if given else None
        value = np.nan if self.numbers is None else float(self.numbers[place])
        return None if np.isnan(value) else value

    def beyond(self, raw: Raw, count: int) -> tuple[Bools, Bools]:
        """(which come after an experiment with this value, which have the same)."""
        if self.texts is None and self.numbers is None:
            return np.full(count, raw is not None), np.full(count, raw is None)
        if self.texts is not None:
            return self._beyond_text(self.texts, raw)
        values = self.numbers
        assert values is not None
        if raw is None:
            return np.zeros(count, np.bool_), np.isnan(values)
        limit = np.float64(raw)
        before = values >= limit if self.descending else values <= limit
        return np.asarray(~before), np.asarray(values == limit)

    def _beyond_text(self, texts: Texts, raw: Raw) -> tuple[Bools, Bools]:
        codes = texts.codes
        if raw is None:
            return np.zeros(len(codes), np.bool_), np.asarray(codes < 0)
        place, found = texts.find(encoded(str(raw)))
        equal = np.asarray(codes == place) if found else np.zeros(len(codes), np.bool_)
        if self.descending:
            return np.asarray(codes < place), equal
        return np.asarray((codes >= place + found) | (codes < 0)), equal


def parts_of(order: Sequence[SortKey], rows: Rows, now: float) -> list[Part]:
    """The keys of an order in a block."""
    return [part for key in order for part in _parts(key.field, key.descending, rows, now)]


def _parts(field: Field, descending: bool, rows: Rows, now: float) -> list[Part]:
    if field.kind is Kind.METRIC:
        return [Part(descending, _values(rows, ("metric", field.name)))]
    if field.kind is Kind.COLUMN:
        if field.type is Type.DURATION:
            return [Part(descending, duration(rows, now))]
        if field.type in (Type.NUMBER, Type.TIME):
            return [Part(descending, _values(rows, (COLUMN, field.name)))]
        if field.name == "project":
            texts = Texts.of(range(rows.count), [encoded(rows.project)] * rows.count, rows.count)
            return [Part(descending, None, texts)]
        return [Part(descending, None, _texts(rows, (COLUMN, field.name)))]
    numbers, texts_of = param(field, rows)
    return [Part(descending, numbers), Part(descending, None, texts_of)]


def param(field: Field, rows: Rows) -> tuple[Array | None, Texts | None]:
    """A parameter's numbers and texts: a configuration goes before an environment variable of that name."""
    found = [
        (_texts(rows, (kind, field.name)), _values(rows, (NUMBER_OF[kind], field.name))) for kind in kinds_of(field)
    ]
    some = [(texts, numbers) for texts, numbers in found if texts is not None]
    if len(some) < 2:
        return (some[0][1], some[0][0]) if some else (None, None)
    (first, here), (second, there) = some
    given = first.codes >= 0
    slots = np.flatnonzero(~given & (second.codes >= 0))
    entries, codes = second.entries(), second.codes[slots].tolist()
    texts = first.changed(slots.tolist(), [entries[code] for code in codes], rows.count)
    none = np.full(rows.count, np.nan)
    return np.where(given, none if here is None else here, none if there is None else there), texts


def by_blocks(order: Sequence[SortKey]) -> bool:
    """Whether this order goes by texts, whose codes mean something only within a block."""
    return any(key.field.type not in _OF_NUMBERS for key in order)


def _texts(rows: Rows, key: Key) -> Texts | None:
    texts = rows.texts(key)
    assert texts is None or isinstance(texts, Texts)
    return texts


def _values(rows: Rows, key: Key) -> Array | None:
    numbers: Numbers | None = rows.numbers(key)
    return None if numbers is None else numbers.values


@dataclass(frozen=True, slots=True)
class Candidate:
    """An experiment that may be on the page. key: compares as the order does. place: in the block that it is from."""

    key: tuple[Any, ...]
    raws: tuple[Raw, ...]
    id: str
    place: int = 0


def after(parts: Sequence[Part], raws: Sequence[Raw], last: str, ids: Callable[[], Words], count: int) -> Bools:
    """Which experiments come after the one with these values and this id."""
    result, ties = np.zeros(count, np.bool_), np.ones(count, np.bool_)
    for number, (part, raw) in enumerate(zip(parts, raws, strict=True)):
        beyond, equal = part.beyond(raw, count)
        result = result | (ties & beyond) if number else beyond
        ties = ties & equal if number else equal
        if not ties.any():
            return result
    return result | (ties & ids().below(encoded(last)))


def first_of(parts: Sequence[Part], places: Array, ids: Callable[[], Words], limit: int) -> list[Candidate]:
    """The first of some experiments, at most `limit`, in any order."""
    sure: list[Array] = []
    for part in parts:
        if limit == 0 or len(places) <= limit:
            break
        missing, ranks = part.ranks(places)
        given, rest = places[~missing], places[missing]
        if len(given) <= limit:
            sure.append(given)
            limit, places = limit - len(given), rest
            continue
        ranks = ranks[~missing]
        worst = np.partition(ranks, limit - 1)[limit - 1]
        better = given[ranks < worst]
        sure.append(better)
        limit, places = limit - len(better), given[ranks == worst]
    texts = ids()
    sure.append(texts.greatest(places, limit) if limit else places[:0])
    result = []
    for place in np.concatenate(sure).tolist():
        raws = tuple([part.raw(place) for part in parts])
        identifier = texts.at(place)
        result.append(Candidate(_key(parts, raws, identifier), raws, identifier.decode(), place))
    return result


def _key(parts: Sequence[Part], raws: Sequence[Raw], identifier: bytes) -> tuple[Any, ...]:
    key: list[Any] = []
    for part, raw in zip(parts, raws, strict=True):
        if raw is None:
            key.append((1, 0))
        elif isinstance(raw, str):
            key.append((0, Down(encoded(raw)) if part.descending else encoded(raw)))
        else:
            key.append((0, -raw if part.descending else raw))
    return (*key, Down(identifier))
