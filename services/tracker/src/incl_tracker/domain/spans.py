"""Columns of several blocks one after the other, so that a question about them is one pass of NumPy.

Every block but the last has BLOCK slots. Dictionaries stay those of the blocks: a text is sought in each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest

import numpy as np

from incl_tracker.domain.columns import BLOCK, Array, Bools, Column, Numbers, Tags, Texts

_NONE = Texts.of((), (), 0)
_ABSENT = -2
"""A code that no experiment has."""


@dataclass(frozen=True, slots=True)
class ManyTexts:
    """Texts of the first `count` experiments of several blocks. by_block: their codes in the blocks' dictionaries."""

    by_block: Array
    pieces: Sequence[Texts]
    count: int

    @classmethod
    def of(cls, pieces: Sequence[Texts | None]) -> ManyTexts:
        """From those of each block."""
        by_block = np.full((len(pieces), BLOCK), -1, np.int16)
        kept = []
        for row, piece in zip(by_block, pieces, strict=True):
            if piece is not None:
                row[: len(piece.codes)] = piece.codes
            said = piece or _NONE
            kept.append(Texts(row, said.offsets, said.data))
        return cls(by_block, kept, by_block.size)

    def cut(self, count: int) -> ManyTexts:
        """Those of the first experiments."""
        return ManyTexts(self.by_block, self.pieces, count)

    @property
    def codes(self) -> Array:
        """The code of each experiment, in its block's dictionary; -1 is none."""
        return self.by_block.reshape(-1)[: self.count]

    def among(self, words: Sequence[bytes], inside: bool) -> Bools | bool:
        """Which experiments have one of these words; inside: a text that contains one (folded) of them."""
        found = [piece.codes_of(words, inside) for piece in self.pieces]
        most = max(map(len, found))
        if most == 0:
            return False
        if most == 1:
            wanted = np.array([codes[0] if codes else _ABSENT for codes in found], np.int16)
            result = self.by_block == wanted[:, None]
        else:
            result = np.zeros(self.by_block.shape, np.bool_)
            for row, codes, piece in zip(result, found, self.pieces, strict=True):
                hits = np.zeros(len(piece.offsets), np.bool_)
                hits[codes] = True
                row[:] = hits[piece.codes]
        return np.asarray(result.reshape(-1)[: self.count])

    def below(self, text: bytes) -> Bools:
        """Which experiments' texts are less (none is, too)."""
        limits = np.array([piece.find(text)[0] for piece in self.pieces], np.int16)
        return np.asarray((self.by_block < limits[:, None]).reshape(-1)[: self.count])

    def at(self, slot: int) -> bytes:
        """The text of an experiment that has one."""
        return self.pieces[slot // BLOCK].at(slot % BLOCK)

    def greatest(self, slots: Array, limit: int) -> Array:
        """Of some experiments those `limit` that have the greatest texts."""
        if len(slots) <= limit:
            return slots
        some: list[int] = []
        blocks = slots // BLOCK
        for block in np.unique(blocks).tolist():
            here = self.pieces[block].greatest(slots[blocks == block] % BLOCK, limit)
            some += (here + block * BLOCK).tolist()
        return np.asarray(nlargest(limit, some, key=self.at), np.int64)

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return self.by_block.nbytes + sum(piece.size - piece.codes.nbytes for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class ManyTags:
    """Tags of several blocks."""

    pieces: Sequence[Tags | None]

    def among(self, words: Sequence[bytes], inside: bool, count: int) -> Bools | bool:
        """Which experiments have one of these tags; inside: one that contains one (folded) of them."""
        result = np.zeros(len(self.pieces) * BLOCK, np.bool_)
        for row, piece in zip(result.reshape(-1, BLOCK), self.pieces, strict=True):
            if piece is not None:
                row[: len(piece.starts) - 1] = piece.among(words, inside, len(piece.starts) - 1)
        return result[:count]

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return sum(piece.size for piece in self.pieces if piece is not None) + 200


Many = Numbers | ManyTexts | ManyTags


def joined(pieces: Sequence[Column | None]) -> Many:
    """The column of some blocks; at least one of them has it."""
    texts = [piece if isinstance(piece, Texts) else None for piece in pieces]
    if any(texts):
        return ManyTexts.of(texts)
    tags = [piece if isinstance(piece, Tags) else None for piece in pieces]
    if any(tags):
        return ManyTags(tags)
    some = [piece.values for piece in pieces if isinstance(piece, Numbers)]
    values = np.full((len(pieces), BLOCK), np.nan, np.result_type(np.float32, *some))
    for row, piece in zip(values, pieces, strict=True):
        if isinstance(piece, Numbers):
            row[: len(piece.values)] = piece.values
    return Numbers(values.reshape(-1))


def parted(column: Many) -> list[Column | None]:
    """The pieces that it was joined of, as views of it."""
    if isinstance(column, ManyTexts):
        return list(column.pieces)
    if isinstance(column, ManyTags):
        return list(column.pieces)
    return [Numbers(row) for row in column.values.reshape(-1, BLOCK)]
