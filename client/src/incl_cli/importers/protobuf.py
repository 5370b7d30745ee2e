"""Reading protobuf messages by their wire format, with no schema compiler and no library.

Source: https://protobuf.dev/programming-guides/encoding/. A message is walked field by field; nothing is allocated for
a length that its bytes do not have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10
_INT64 = 1 << 63
_double = struct.Struct("<d").unpack_from
_float = struct.Struct("<f").unpack_from

Field = tuple[int, int, int, bytes]
"""(number, wire type, the value of a varint or of 4 or 8 bytes as an unsigned integer, the bytes of the others)."""


class BadMessageError(ValueError):
    """Bytes that are no protobuf message."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, the place after it).

    Raises:
        BadMessageError: it has no end.
    """
    value = shift = 0
    for place, byte in enumerate(data[at : at + _MAX_VARINT], at):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
        shift += 7
    raise BadMessageError("a number has no end")


def fields(data: bytes) -> Iterator[Field]:
    """The fields of a message in their order.

    Raises:
        BadMessageError: it is none.
    """
    at, size = 0, len(data)
    while at < size:
        key = data[at]
        at += 1
        if key >= 0x80:
            key, at = varint(data, at - 1)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise BadMessageError("a field has the number 0")
        if wire == VARINT:
            value, at = varint(data, at)
            yield number, wire, value, b""
            continue
        if wire == BYTES:
            if at < size and data[at] < 0x80:
                length = data[at]
                at += 1
            else:
                length, at = varint(data, at)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise BadMessageError(f"a field has the wire type {wire}")
        end = at + length
        if end > size:
            raise BadMessageError("a field is longer than its message")
        piece = data[at:end]
        yield number, wire, 0 if wire == BYTES else int.from_bytes(piece, "little"), piece
        at = end


def first(data: bytes, wanted: int) -> bytes:
    """The bytes of the last field with this number (the last one counts), or none."""
    found = b""
    for number, _, _, piece in fields(data):
        if number == wanted:
            found = piece
    return found


def signed(value: int) -> int:
    """An int32 or int64 that a varint holds."""
    return value - 2 * _INT64 if value >= _INT64 else value


def double(piece: bytes) -> float:
    """The value of a FIXED64 field that is a double."""
    if len(piece) != 8:
        raise BadMessageError("a double has not 8 bytes")
    return float(_double(piece)[0])


def single(piece: bytes) -> float:
    """The value of a FIXED32 field that is a float."""
    if len(piece) != 4:
        raise BadMessageError("a float has not 4 bytes")
    return float(_float(piece)[0])


def text(piece: bytes) -> str:
    """The value of a string field; what is no UTF-8 is replaced."""
    return piece.decode("utf-8", "replace")


def numbers(wire: int, value: int, piece: bytes, kind: str) -> list[float]:
    """The values of a repeated number, packed or not. kind: 'd', 'f', 'q' (int32, int64) or 'Q' (bool, uint)."""
    if wire == BYTES and kind in "df":
        size = struct.calcsize(kind)
        count, rest = divmod(len(piece), size)
        if rest:
            raise BadMessageError("a packed field has a part of a number")
        return list(struct.unpack(f"<{count}{kind}", piece))
    if wire == BYTES:
        found, at = [], 0
        while at < len(piece):
            number, at = varint(piece, at)
            found.append(float(signed(number) if kind == "q" else number))
        return found
    if kind == "d":
        return [double(piece)]
    if kind == "f":
        return [single(piece)]
    return [float(signed(value) if kind == "q" else value)]
