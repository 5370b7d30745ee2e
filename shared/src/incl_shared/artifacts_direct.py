"""Parts of a blob on their way to the bucket, without the artifact store: each to an address that it signed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import IO, Final

from incl_shared.artifacts_http import BLOCK, TRANSIENT, Places
from incl_shared.errors import IntegrityError, InvalidInput, UnavailableError

_AT_ONCE: Final = 4
_MOST: Final = 4 << 20
Reader = Callable[[int, int], bytes]
"""(offset, count) -> bytes of the file, for several threads at once."""


@dataclass(frozen=True, slots=True)
class Part:
    """[offset, offset + size) of a blob, and where it goes."""

    offset: int
    size: int
    url: str
    headers: dict[str, str]


def parts_of(response: HTTPResponse, size: int) -> list[Part]:
    """What the store asks for.

    Raises:
        UnavailableError: the answer makes no sense.
    """
    try:
        listed = json.loads(response.read(_MOST))["parts"]
        parts = [
            Part(
                int(one["offset"]),
                int(one["size"]),
                str(one["url"]),
                {str(k): str(v) for k, v in one["headers"].items()},
            )
            for one in listed
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnavailableError("the artifact store's answer makes no sense", cause=type(error).__name__) from error
    if not parts or any(part.offset < 0 or part.size <= 0 or part.offset + part.size > size for part in parts):
        raise UnavailableError("the artifact store asks for bytes that the file does not have")
    return parts


def reader(source: IO[bytes]) -> Reader:
    """Reads a file, or bytes in memory, from anywhere."""
    if isinstance(source, io.BytesIO):
        data = source.getvalue()
        return lambda offset, count: data[offset : offset + count]
    handle = source.fileno()
    return lambda offset, count: os.pread(handle, count, offset)


def send(places: Places, parts: Sequence[Part], read: Reader) -> tuple[int, Exception | None]:
    """Send these, several at a time; (how many bytes went, why one did not).

    Raises:
        IntegrityError: the file became shorter.
        InvalidInput: it cannot be read.
    """

    def one(part: Part) -> Exception | None:
        headers = part.headers | {"Content-Length": str(part.size)}
        try:
            places.put(part.url, headers, _piece(read, part))
        except (*TRANSIENT, UnavailableError) as error:
            return error
        return None

    with ThreadPoolExecutor(min(_AT_ONCE, len(parts)), "incl-parts") as pool:
        outcomes = list(pool.map(one, parts))
    sent = sum(part.size for part, error in zip(parts, outcomes, strict=True) if error is None)
    return sent, next((error for error in outcomes if error is not None), None)


def _piece(read: Reader, part: Part) -> Iterator[bytes]:
    at, end = part.offset, part.offset + part.size
    while at < end:
        try:
            piece = read(at, min(BLOCK, end - at))
        except OSError as error:
            raise InvalidInput("the file cannot be read any more", cause=error.strerror or str(error)) from error
        if not piece:
            raise IntegrityError("the file became shorter while it was sent", hint="upload it when nothing writes it")
        at += len(piece)
        yield piece
