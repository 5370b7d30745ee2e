"""The record files of TensorBoard and of W&B, record by record: checked, and in bounded memory.

A file of a run that crashed ends within a record: that is its end. A record whose checksum is wrong is damage: what
follows cannot be trusted in a TFRecord file, whose lengths chain; W&B's log goes on at its next block.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

MAX_RECORD = 256 << 20
"""No record is larger: a checkpoint's graph in an event file is the largest that is seen."""
_PIECE = 1 << 20
_LENGTHS = 4096
_HEAD = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_CHUNK = struct.Struct("<IHB")
_BLOCK = 32_768
_WANDB_MAGIC = b":W&B\xe1\xbe"
_WANDB_HEADER = 7
_FULL, _FIRST, _LAST = 1, 2, 4
_POLYNOMIAL = 0x82F63B78
_MASK = 0xFFFF_FFFF


class ForeignError(ValueError):
    """A file that is not of this format at all."""


@dataclass
class Reading:
    """What was found while reading a file. torn: it ends within a record. damaged: what is wrong in it, for people."""

    records: int = 0
    torn: bool = False
    damaged: list[str] = field(default_factory=list)


@lru_cache(maxsize=1)
def _tables() -> tuple[array[int], array[int], array[int]]:
    """CRC-32C of every two bytes, the same followed by two zero bytes, and of every byte."""
    one = array("L", [0]) * 256
    for number in range(256):
        crc = number
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        one[number] = crc
    low = array("L", [0]) * 65_536
    for number in range(65_536):
        crc = one[number & 0xFF]
        low[number] = one[(crc ^ (number >> 8)) & 0xFF] ^ (crc >> 8)
    high = array("L", (low[crc & 0xFFFF] ^ (crc >> 16) for crc in low))
    return low, high, one


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), four bytes at a time. Source: RFC 3720, appendix B.4."""
    low, high, one = _tables()
    crc = _MASK
    whole = len(data) & ~3
    words = array("I", data[:whole])
    if sys.byteorder == "big":
        words.byteswap()
    for word in words:
        crc ^= word
        crc = high[crc & 0xFFFF] ^ low[crc >> 16]
    for byte in data[whole:]:
        crc = one[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ _MASK


def masked_crc32c(data: bytes) -> int:
    """A checksum as TFRecord files have it: rotated and moved, as they may hold records that hold checksums."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _MASK


def tfrecords(file: BinaryIO, reading: Reading, *, limit: int = MAX_RECORD) -> Iterator[bytes]:
    """The records of a TFRecord file: length (8 bytes), its checksum (4), the bytes, their checksum (4).

    Source: https://www.tensorflow.org/tutorials/load_data/tfrecord. It ends at a torn record, and at damage.

    Raises:
        ForeignError: the first record shows that it is no such file.
    """
    read, good = file.read, set[bytes]()
    while head := read(12):
        number = reading.records + 1
        if len(head) < 12:
            reading.torn = True
            break
        length, checksum = _HEAD.unpack(head)
        if head not in good:
            if masked_crc32c(head[:8]) != checksum:
                if number == 1:
                    raise ForeignError("it does not begin with a TFRecord")
                reading.damaged.append(f"the length of record {number} is damaged: the rest is left out")
                break
            if len(good) < _LENGTHS:
                good.add(head)
        if length > limit:
            reading.damaged.append(f"record {number} claims {length} bytes: the rest is left out")
            break
        data = _whole(file, length + 4)
        if len(data) < length + 4:
            reading.torn = True
            break
        body = data[:-4]
        if masked_crc32c(body) != _CRC.unpack(data[-4:])[0]:
            reading.damaged.append(f"record {number} is damaged: the rest is left out")
            break
        reading.records += 1
        yield body


def _whole(file: BinaryIO, size: int) -> bytes:
    """Up to size bytes; a length that the file does not have takes no more memory than the file."""
    if size <= _PIECE:
        return file.read(size)
    pieces = []
    while size and (piece := file.read(min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def wandb_records(file: BinaryIO, reading: Reading, *, limit: int = MAX_RECORD) -> Iterator[bytes]:
    """The records of a W&B run file: LevelDB's log format in blocks of 32 KiB after a header of 7 bytes, with CRC-32.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md. A damaged block is left out and counted.

    Raises:
        ForeignError: it has no such header.
    """
    header = file.read(_WANDB_HEADER)
    if len(header) < _WANDB_HEADER and _WANDB_MAGIC.startswith(header[:4]):
        reading.torn = True
        return
    if header[:6] != _WANDB_MAGIC or header[6] != 0:
        raise ForeignError("it does not begin as a W&B run file of version 0")
    parts: list[bytes] | None = None
    size = 0
    start = _WANDB_HEADER
    while block := file.read(_BLOCK - start):
        for kind, piece in _chunks(block, last=len(block) < _BLOCK - start, reading=reading):
            if kind in (_FULL, _FIRST):
                if parts is not None:
                    reading.damaged.append(f"record {reading.records + 1} has no end")
                parts, size = [], 0
            if parts is None:
                continue  # the middle of a record whose beginning was damaged
            parts.append(piece)
            size += len(piece)
            if size > limit:
                reading.damaged.append(f"record {reading.records + 1} has more than {limit} bytes")
                parts = None
            elif kind in (_FULL, _LAST):
                whole, parts = b"".join(parts), None
                reading.records += 1
                yield whole
        start = 0
    reading.torn = reading.torn or parts is not None


def _chunks(block: bytes, *, last: bool, reading: Reading) -> Iterator[tuple[int, bytes]]:
    """(kind, bytes) of the pieces in a block; last: the file ends within it."""
    at = 0
    while len(block) - at >= _CHUNK.size:
        checksum, length, kind = _CHUNK.unpack_from(block, at)
        if kind == 0 and length == 0 and checksum == 0:
            return  # the rest was reserved and not written
        end = at + _CHUNK.size + length
        if end > len(block):
            if last:
                reading.torn = True
            else:
                reading.damaged.append(f"a block is damaged after record {reading.records}")
            return
        piece = block[at + _CHUNK.size : end]
        if not _FULL <= kind <= _LAST or zlib.crc32(piece, zlib.crc32(bytes((kind,)))) != checksum:
            reading.damaged.append(f"a block is damaged after record {reading.records}")
            return
        yield kind, piece
        at = end
    if last and len(block) > at and block[at:].strip(b"\0"):
        reading.torn = True
