"""The tar format (POSIX.1-2001 pax interchange), as much as a code archive needs of it.

The writer is deterministic: no time, no owner, one of two modes. The reader is strict: regular files, directories and
symbolic links, with pax or GNU long names; everything else is an error that names the member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from incl_shared.errors import IntegrityError, InvalidInput

BLOCK: Final = 512
END_OF_ARCHIVE: Final = b"\0" * (2 * BLOCK)
FILE: Final = b"0"
LINK: Final = b"2"
DIRECTORY: Final = b"5"

_NAME_BYTES = 100
_PREFIX_BYTES = 155
_OCTAL_LIMIT = 8**11
_MAX_EXTENSION = 1 << 20
_KINDS = {
    b"1": "a hard link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One thing in an archive. `name` and `target` are raw bytes, `size` is bytes of content."""

    name: bytes
    kind: bytes
    size: int = 0
    mode: int = 0o644
    target: bytes = b""


def padding(size: int) -> bytes:
    """The zeros that follow content of this many bytes."""
    return b"\0" * (-size % BLOCK)


def header(member: Member) -> bytes:
    """The header blocks of a member; a pax header comes first where a name or a size needs one."""
    records: list[tuple[bytes, bytes]] = []
    split = _split_name(member.name)
    if split is None:
        records.append((b"path", member.name))
        split = (b"", member.name[:_NAME_BYTES])
    target = member.target
    if len(target) > _NAME_BYTES:
        records.append((b"linkpath", target))
        target = target[:_NAME_BYTES]
    size = member.size
    if size >= _OCTAL_LIMIT:
        records.append((b"size", b"%d" % size))
        size = 0
    block = _ustar(*split, member.kind, size, member.mode, target)
    if not records:
        return block
    body = b"".join(_record(key, value) for key, value in records)
    return _ustar(b"", b"PaxHeader", b"x", len(body), 0o644, b"") + body + padding(len(body)) + block


def _ustar(prefix: bytes, name: bytes, kind: bytes, size: int, mode: int, target: bytes) -> bytes:
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    block[100:136] = b"%07o\x000000000\x000000000\x00%011o\x00" % (mode, size)
    block[136:156] = b"00000000000\x00        "
    block[156:157] = kind
    block[157 : 157 + len(target)] = target
    block[257:265] = b"ustar\x0000"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\x00 " % sum(block)
    return bytes(block)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    if len(name) <= _NAME_BYTES:
        return b"", name
    at = name.find(b"/", len(name) - _NAME_BYTES - 1, -1)
    return (name[:at], name[at + 1 :]) if 0 < at <= _PREFIX_BYTES else None


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d%s" % (length, rest)


class Reader:
    """Reads members one after another from a stream of a tar's bytes.

    Args:
        read: read(n) gives exactly n bytes, or fewer at the end of the stream.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def next(self) -> Member | None:
        """The next member, its content still to be read by the caller (with its padding); None at the end.

        Raises:
            InvalidInput: the member is of a kind that is not allowed here.
            IntegrityError: the archive is cut short or its headers are damaged.
        """
        overrides: dict[bytes, bytes] = {}
        while True:
            block = self._exactly(BLOCK)
            if not block.strip(b"\0"):
                if overrides:
                    raise IntegrityError("the archive ends after an extended header")
                return None
            member = _parse(block)
            if member.kind in (b"x", b"g", b"L", b"K"):
                overrides.update(self._extension(member))
                continue
            return _finish(member, overrides)

    def skip_padding(self, size: int) -> None:
        """Step over the zeros that follow content of this many bytes."""
        if -size % BLOCK:
            self._exactly(-size % BLOCK)

    def _exactly(self, count: int) -> bytes:
        data = self._read(count)
        if len(data) != count:
            raise IntegrityError("the archive is cut short", hint="upload it again")
        return data

    def _extension(self, member: Member) -> dict[bytes, bytes]:
        if member.size > _MAX_EXTENSION:
            raise InvalidInput(f"the archive has an extended header of {member.size} bytes")
        body = self._exactly(member.size)
        self.skip_padding(member.size)
        if member.kind in (b"L", b"K"):
            return {b"path" if member.kind == b"L" else b"linkpath": body.rstrip(b"\0")}
        records = _parse_records(body)
        if any(key.startswith(b"GNU.sparse") for key in records):
            raise InvalidInput("the archive has a sparse file", hint="pack it without sparse files")
        wanted = {key: value for key, value in records.items() if key in (b"path", b"linkpath", b"size")}
        if member.kind == b"g" and wanted:
            raise InvalidInput("the archive has a global header that names files")
        return wanted


def _parse(block: bytes) -> Member:
    if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 0x20:
        raise IntegrityError("a header of the archive is damaged", hint="upload it again")
    name = _text(block[0:100])
    magic, prefix = block[257:263], _text(block[345:500])
    if magic == b"ustar\0" and prefix:
        name = prefix + b"/" + name
    kind = block[156:157]
    if kind in (b"\0", b"7"):
        kind = DIRECTORY if name.endswith(b"/") else FILE
    return Member(name, kind, _number(block[124:136]), _number(block[100:108]), _text(block[157:257]))


def _finish(member: Member, overrides: dict[bytes, bytes]) -> Member:
    name = overrides.get(b"path", member.name)
    size = _decimal(overrides[b"size"]) if b"size" in overrides else member.size
    if member.kind not in (FILE, LINK, DIRECTORY):
        what = _KINDS.get(member.kind, f"of the unknown kind {member.kind!r}")
        raise InvalidInput(
            f"the archive has {what}: {display(name)}", hint="an archive may hold files, directories and symbolic links"
        )
    if member.kind != FILE and size:
        raise InvalidInput(f"the archive has content where there can be none: {display(name)}")
    return replace(member, name=name, size=size, target=overrides.get(b"linkpath", member.target))


def _parse_records(body: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        blank = body.find(b" ", at, at + 20)
        length = _decimal(body[at:blank]) if blank > 0 else 0
        record = body[blank + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length <= 0 or at + length > len(body) or not equals or not value.endswith(b"\n"):
            raise IntegrityError("an extended header of the archive is damaged")
        records[key] = value[:-1]
        at += length
    return records


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise IntegrityError("a header of the archive has a number that is none")
    return int(text)


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        if value >= 1 << 62:
            raise IntegrityError("a header of the archive has a number that is too large")
        return value
    digits = field.strip(b"\0 ")
    if digits.strip(b"01234567"):
        raise IntegrityError("a header of the archive has a number that is none")
    return int(digits or b"0", 8)


def display(name: bytes) -> str:
    """A name for people: control characters and broken UTF-8 escaped, long ones shortened."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"
