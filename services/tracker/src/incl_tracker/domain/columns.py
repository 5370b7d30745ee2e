"""One property of up to 4,096 experiments as a column: numbers, texts or tags, each at the slot of its experiment.

Blobs are little-endian. A number is stored as narrow as it is exact; none is NaN. Texts are codes into a dictionary in
the order of its bytes, so that codes compare as the texts do; none is -1. Columns that few experiments have are stored
as (slot, value) pairs.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
BLOCK = 4096
"""Experiments of a block at most."""
_TYPES = ("<i1", "<i2", "<i4", "<f4", "<f8")
_HEAD = struct.Struct("<cBBxIIxxxx")
_SPARSE = 4
"""A column is stored as pairs when fewer than one of so many experiments has a value."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """values: of any number type; NaN is none."""

    values: Array

    @classmethod
    def of(cls, slots: Sequence[int], values: Sequence[float | None], count: int) -> Numbers:
        """From pairs; None is none."""
        return cls(np.full(count, np.nan)).changed(slots, values, count)

    def changed(self, slots: Sequence[int], values: Sequence[float | None], count: int) -> Numbers:
        """With other values at some slots, for `count` experiments."""
        result = np.full(count, np.nan)
        size = min(count, len(self.values))
        result[:size] = self.values[:size]
        result[np.asarray(slots, np.int64)] = np.asarray(values, np.float64)
        return Numbers(result)

    def given(self, slots: Sequence[int]) -> list[bool]:
        """Whether experiments have a value; those beyond the end have none."""
        return [slot < len(self.values) and not np.isnan(self.values[slot]) for slot in slots]

    def bounds(self) -> tuple[float | None, float | None]:
        """(least, greatest) of the values, none where there is none."""
        some = self.values[~np.isnan(self.values)]
        return (float(some.min()), float(some.max())) if len(some) else (None, None)

    def encode(self) -> bytes:
        """As a blob."""
        values = np.asarray(self.values, np.float64)
        slots = np.flatnonzero(~np.isnan(values))
        sparse = len(slots) * _SPARSE < len(values)
        kept = _narrow(values[slots] if sparse else values)
        head = _HEAD.pack(b"N", _TYPES.index(kept.dtype.str.replace("|", "<")), sparse, len(values), len(kept))
        return b"".join((head, kept.tobytes(), slots.astype("<u2").tobytes() if sparse else b""))

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return self.values.nbytes + 200


@dataclass(frozen=True, slots=True)
class Texts:
    """codes: of each experiment, -1 is none. The dictionary's entries lie in `data` between `offsets`, in order."""

    codes: Array
    offsets: Array
    data: bytes

    @classmethod
    def of(cls, slots: Sequence[int], values: Sequence[bytes], count: int) -> Texts:
        """From pairs."""
        known = sorted(set(values))
        place = {text: code for code, text in enumerate(known)}
        codes = np.full(count, -1, np.int16)
        codes[np.asarray(slots, np.int64)] = np.fromiter(map(place.__getitem__, values), np.int16, len(values))
        return cls(codes, _offsets(known), b"".join(known))

    def changed(self, slots: Sequence[int], values: Sequence[bytes | None], count: int) -> Texts:
        """With other texts at some slots, for `count` experiments."""
        entries = self.entries()
        found: dict[int, bytes | None] = {
            slot: entries[code] for slot, code in enumerate(self.codes[:count].tolist()) if code >= 0
        }
        found.update(zip(slots, values, strict=True))
        some = {slot: text for slot, text in found.items() if text is not None}
        return Texts.of(list(some), list(some.values()), count)

    def given(self, slots: Sequence[int]) -> list[bool]:
        """Whether experiments have a value; those beyond the end have none."""
        return [slot < len(self.codes) and bool(self.codes[slot] >= 0) for slot in slots]

    def entry(self, code: int) -> bytes:
        """One of the dictionary."""
        return self.data[int(self.offsets[code]) : int(self.offsets[code + 1])]

    def entries(self) -> list[bytes]:
        """The whole dictionary."""
        cuts = self.offsets.tolist()
        return [self.data[a:b] for a, b in pairwise(cuts)]

    def find(self, text: bytes) -> tuple[int, bool]:
        """(the code of the first entry that is not less, whether it is that text)."""
        count = len(self.offsets) - 1
        place = bisect_left(range(count), text, key=self.entry)
        return place, place < count and self.entry(place) == text

    def containing(self, folded: bytes) -> list[int]:
        """Codes of the entries that contain a text, capital letters A to Z made small."""
        if folded not in self.data.lower():
            return []
        return [code for code, entry in enumerate(self.entries()) if folded in entry.lower()]

    def codes_of(self, words: Sequence[bytes], inside: bool) -> list[int]:
        """Codes of the entries that are one of these words; inside: that contain one (folded) of them."""
        if inside:
            return [code for word in words for code in self.containing(word)]
        return [place for place, there in map(self.find, words) if there]

    def among(self, words: Sequence[bytes], inside: bool) -> Bools | bool:
        """Which experiments have such a text."""
        codes = self.codes_of(words, inside)
        if len(codes) == 1:
            return np.asarray(self.codes == codes[0])
        if not codes:
            return False
        hits = np.zeros(len(self.offsets), np.bool_)
        hits[codes] = True
        return np.asarray(hits[self.codes])

    def below(self, text: bytes) -> Bools:
        """Which experiments' texts are less (none is, too)."""
        return np.asarray(self.codes < self.find(text)[0])

    def at(self, slot: int) -> bytes:
        """The text of an experiment that has one."""
        return self.entry(int(self.codes[slot]))

    def greatest(self, slots: Array, limit: int) -> Array:
        """Of some experiments those `limit` that have the greatest texts."""
        codes = self.codes[slots]
        return np.asarray(slots[np.argpartition(codes, len(codes) - limit)[-limit:]]) if len(slots) > limit else slots

    def encode(self) -> bytes:
        """As a blob."""
        slots = np.flatnonzero(self.codes >= 0)
        sparse = len(slots) * _SPARSE < len(self.codes)
        kept = (self.codes[slots] if sparse else self.codes).astype("<i2")
        head = _HEAD.pack(b"T", 0, sparse, len(self.codes), len(kept))
        parts = (head, struct.pack("<I", len(self.offsets)), self.offsets.astype("<u4").tobytes(), kept.tobytes())
        return b"".join((*parts, slots.astype("<u2").tobytes() if sparse else b"", self.data))

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return self.codes.nbytes + self.offsets.nbytes + len(self.data) + 300


@dataclass(frozen=True, slots=True)
class Tags:
    """Several texts of each experiment: those of slot i are codes[starts[i]:starts[i + 1]] of `texts`' dictionary."""

    starts: Array
    texts: Texts

    @classmethod
    def of(cls, tags: Sequence[Sequence[bytes]]) -> Tags:
        """From the tags of each slot."""
        every = [tag for some in tags for tag in some]
        texts = Texts.of(range(len(every)), every, len(every))
        starts = np.zeros(len(tags) + 1, np.uint32)
        np.cumsum([len(some) for some in tags], out=starts[1:])
        return cls(starts, texts)

    def changed(self, slots: Sequence[int], tags: Sequence[Sequence[bytes]], count: int) -> Tags:
        """With other tags at some slots, for `count` experiments."""
        entries, codes, cuts = self.texts.entries(), self.texts.codes.tolist(), self.starts.tolist()
        rows: list[Sequence[bytes]] = [[entries[c] for c in codes[a:b]] for a, b in pairwise(cuts)]
        rows = rows[:count] + [()] * (count - len(rows))
        for slot, some in zip(slots, tags, strict=True):
            rows[slot] = some
        return Tags.of(rows)

    def given(self, slots: Sequence[int]) -> list[bool]:
        """Whether experiments have any; those beyond the end have none."""
        return [slot + 1 < len(self.starts) and bool(self.starts[slot] < self.starts[slot + 1]) for slot in slots]

    def holders(self, codes: Sequence[int], count: int) -> Bools:
        """Which experiments have any of these tags."""
        result = np.zeros(count, np.bool_)
        result[self.slots()[np.isin(self.texts.codes, codes)]] = True
        return result

    def among(self, words: Sequence[bytes], inside: bool, count: int) -> Bools | bool:
        """Which experiments have one of these tags; inside: one that contains one (folded) of them."""
        codes = self.texts.codes_of(words, inside)
        return self.holders(codes, count) if codes else False

    def slots(self) -> Array:
        """The slot of each of `texts`' codes."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts.astype(np.intp)).astype(np.intp))

    def encode(self) -> bytes:
        """As a blob."""
        head = _HEAD.pack(b"G", 0, 0, len(self.starts), 0)
        return head + self.starts.astype("<u4").tobytes() + self.texts.encode()

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return self.starts.nbytes + self.texts.size


Column = Numbers | Texts | Tags


def decode(blob: bytes) -> Column:
    """The column of a blob. Arrays are views of it and cannot be written to."""
    mark, kind, sparse, count, kept = _HEAD.unpack_from(blob)
    if mark == b"N":
        dtype = np.dtype(_TYPES[kind])
        values = np.frombuffer(blob, dtype, kept, _HEAD.size)
        if sparse:
            slots = np.frombuffer(blob, "<u2", kept, _HEAD.size + values.nbytes)
            return Numbers(_spread(values.astype(np.float64), slots, count, np.nan))
        return Numbers(values)
    if mark == b"T":
        return _decode_texts(blob, bool(sparse), count, kept)
    starts = np.frombuffer(blob, "<u4", count, _HEAD.size)
    texts = decode(blob[_HEAD.size + starts.nbytes :])
    assert isinstance(texts, Texts)
    return Tags(starts, texts)


def _decode_texts(blob: bytes, sparse: bool, count: int, kept: int) -> Texts:
    (cuts,) = struct.unpack_from("<I", blob, _HEAD.size)
    place = _HEAD.size + 4
    offsets = np.frombuffer(blob, "<u4", cuts, place)
    place += offsets.nbytes
    codes = np.frombuffer(blob, "<i2", kept, place)
    place += codes.nbytes
    if sparse:
        slots = np.frombuffer(blob, "<u2", kept, place)
        place += slots.nbytes
        codes = _spread(codes, slots, count, -1)
    return Texts(codes, offsets, blob[place:])


def _spread(values: Array, slots: Array, count: int, none: float) -> Array:
    result = np.full(count, none, values.dtype)
    result[slots] = values
    return result


def _offsets(entries: Sequence[bytes]) -> Array:
    offsets = np.zeros(len(entries) + 1, np.uint32)
    np.cumsum([len(entry) for entry in entries], out=offsets[1:])
    return offsets


def _narrow(values: Array) -> Array:
    """The same numbers in the smallest type that holds them exactly."""
    if len(values) and np.isfinite(values).all() and (values == np.trunc(values)).all():
        for name in _TYPES[:3]:
            limits = np.iinfo(name)
            if limits.min <= values.min() and values.max() <= limits.max:
                return values.astype(name)
    with np.errstate(over="ignore"):
        single = values.astype("<f4")
    return single if ((single == values) | np.isnan(values)).all() else values.astype("<f8")
