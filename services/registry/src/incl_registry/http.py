"""The HTTP door of the blobs. Nothing is answered without a grant; docs/mechanisms/artifacts.md has the protocol.

HEAD /blobs/<sha256>                                   get: its size
GET  /blobs/<sha256>                                   get: its bytes, also a range; also by the grant of a model
HEAD /blobs/<sha256>?upload=<id>&size=<n>              put: 200 it is there, or 404 and Upload-Offset
PUT  /blobs/<sha256>?upload=<id>&size=<n>&offset=<m>   put: bytes from m on
POST /blobs/<sha256>?upload=<id>&size=<n>              put: 200 and where missing parts go, or 201
GET, HEAD /shared/<token>/<file>                       the one blob that the token names; a link for people
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import BinaryIO, Final
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from incl_registry import store
from incl_registry.blobs import BlobStore, Upload
from incl_registry.errors import CheckingError, StorageFullError, TooLargeError, UnauthorizedError, WrongOffsetError
from incl_registry.grants import GrantScope, Verb, verify
from incl_registry.metrics import RegistryMetrics
from incl_registry.models import store as model_store
from incl_registry.threads import Threads
from incl_shared.clock import Clock
from incl_shared.db import Database
from incl_shared.errors import DeniedError, InclError, IntegrityError, InternalError, InvalidInput, NotFoundError

UPLOAD_OFFSET: Final = "Upload-Offset"
PROBLEM: Final = "Incl-Problem"
"""The error as a header too: the answer to a HEAD has no body."""
DIRECT: Final = "Incl-Direct"
"""`yes`: the client may ask (POST) for addresses of the bucket instead of sending the bytes here."""
CHECKED: Final = "Upload-Checked"
"""Bytes of an upload whose checksum was looked at so far; the client asks again."""
FOLLOWS: Final = "Incl-Follows"
"""A client that says `Incl-Follows: yes` is sent to the bucket, where the store can sign for it."""
_BLOCK: Final = 1 << 20
_FRESH_S: Final = 3600.0
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_UPLOAD = re.compile(r"[0-9a-f]{32}\Z")
_NUMBER = re.compile(r"[0-9]{1,15}\Z")
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})?\Z")
_SHARED: Final = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger("incl.registry.http")


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """What uploads must keep to. Bytes, seconds."""

    min_free: int
    max_blob: int
    idle_s: float
    signed_ttl_s: float = 600.0
    direct_from: int = 1 << 20
    """Smaller blobs come through here: they cost less so."""


class BlobDoor:
    """The routes."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        clock: Clock,
        *,
        key: bytes,
        limits: DoorLimits,
        metrics: RegistryMetrics,
        threads: Threads | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._key = key
        self._limits = limits
        self._metrics = metrics
        self._threads = threads or Threads()

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/blobs/{sha256}", self.blob, methods=["GET", "HEAD", "PUT", "POST"]),
                Route("/shared/{token}/{file}", self.shared, methods=["GET", "HEAD"]),
            ],
            exception_handlers={InclError: self._problem, ClientDisconnect: self._gone, Exception: self._fault},
        )

    async def blob(self, request: Request) -> Response:
        """Every route comes through here: first the grant, then what is asked."""
        scope = verify(self._key, _bearer(request), self._clock.now())
        sha256 = request.path_params["sha256"]
        if not _SHA256.fullmatch(sha256):
            raise InvalidInput("a blob is named by 64 lower-case hexadecimal characters")
        if request.method == "PUT":
            _need(scope, Verb.PUT)
            return await self._put(request, scope, sha256)
        if request.method == "POST":
            _need(scope, Verb.PUT)
            return await self._places(request, scope, sha256)
        if request.method == "HEAD" and scope.verb is Verb.PUT:
            return await self._offset(request, scope, sha256)
        if scope.verb is not Verb.MODEL:
            _need(scope, Verb.GET)
        return await self._get(request, scope, sha256)

    async def shared(self, request: Request) -> Response:
        """A link: the grant is in the address. What comes is never shown in a page of this place."""
        scope = verify(self._key, request.path_params["token"], self._clock.now())
        file = request.path_params["file"]
        if scope.verb is not Verb.SHARE or scope.blob is None or file != scope.file:
            raise UnauthorizedError("this is no link to a shared file", hint="ask for a new link: incl share")
        size = await self._readable(scope, scope.blob)
        if request.method == "GET" and (link := await self._link(scope.blob, file)) is not None:
            return Response(status_code=307, headers={"Location": link} | _SHARED)
        named = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(file, safe='')}"}
        return await self._bytes(request, scope.blob, size, named | _SHARED)

    async def _offset(self, request: Request, scope: GrantScope, sha256: str) -> Response:
        upload, size = _upload(request, scope), _number(request, "size")
        if await self._known(scope, sha256):
            return Response(status_code=200)
        have = await self._threads.run(self._blobs.partial, sha256, upload)
        await self._check_room(size, size - have)
        direct = size >= self._limits.direct_from and await self._threads.run(self._blobs.direct)
        return Response(status_code=404, headers={UPLOAD_OFFSET: str(have)} | ({DIRECT: "yes"} if direct else {}))

    async def _places(self, request: Request, scope: GrantScope, sha256: str) -> Response:
        """Where the client sends what is missing; 201 once nothing is, and the checksum is right."""
        upload, size = _upload(request, scope), _number(request, "size")
        await self._check_room(size, size)
        places = await self._threads.run(self._blobs.places, sha256, upload, size, self._limits.signed_ttl_s)
        if places:
            return JSONResponse({"parts": [asdict(place) for place in places]}, headers={"Cache-Control": "no-store"})
        await self._record(scope, sha256, size)
        self._metrics.direct_bytes.inc(size)
        return JSONResponse({"sha256": sha256, "size": size}, status_code=201)

    async def _known(self, scope: GrantScope, sha256: str) -> bool:
        """Whether the project has the blob; it then counts as this experiment's, and as young."""
        now = self._clock.now()
        size, fresh = await self._database.read(
            lambda connection: (
                store.size_of(connection, scope.project, sha256),
                store.used_since(connection, scope.experiment, sha256, now - _FRESH_S),
            )
        )
        if size is None or not await self._threads.run(self._blobs.touch, sha256):
            return False
        if not fresh:
            await self._record(scope, sha256, size)
        return True

    async def _put(self, request: Request, scope: GrantScope, sha256: str) -> Response:
        upload_id, size, offset = _upload(request, scope), _number(request, "size"), _number(request, "offset")
        length = request.headers.get("content-length", "")
        if offset > size or not _NUMBER.fullmatch(length) or int(length) != size - offset:
            raise InvalidInput("the length of the body is not what is left of the blob")
        await self._check_room(size, size - offset)
        upload = await self._threads.run(self._blobs.resume, sha256, upload_id, offset)
        try:
            await self._receive(request, upload, size)
            await self._threads.run(upload.finish)
        finally:
            await self._threads.run(upload.close)
        await self._record(scope, sha256, size)
        self._metrics.uploaded_bytes.inc(size - offset)
        return JSONResponse({"sha256": sha256, "size": size}, status_code=201)

    async def _receive(self, request: Request, upload: Upload, size: int) -> None:
        """The body into the upload, a megabyte at a time; what came before a cut is kept."""
        buffer = bytearray()
        try:
            async with aclosing(request.stream()) as stream:
                while (piece := await asyncio.wait_for(anext(stream, None), self._limits.idle_s)) is not None:
                    buffer += piece
                    if len(buffer) >= _BLOCK:
                        data = bytes(buffer)
                        buffer.clear()
                        await self._threads.run(upload.write, data)
        except (ClientDisconnect, TimeoutError):
            await self._threads.run(upload.write, bytes(buffer))
            raise ClientDisconnect from None
        await self._threads.run(upload.write, bytes(buffer))
        if upload.offset != size:
            raise IntegrityError("the body ended too early", hint="go on with the upload")

    async def _record(self, scope: GrantScope, sha256: str, size: int) -> None:
        now = self._clock.now()
        await self._database.write(
            lambda tx: store.put_blob(tx.connection, scope.project, scope.experiment, sha256, size, now)
        )

    async def _check_room(self, size: int, more: int) -> None:
        if size > self._limits.max_blob:
            raise TooLargeError(f"a blob has at most {self._limits.max_blob} bytes")
        free = await self._threads.run(self._blobs.free)
        if free is not None and free < more + self._limits.min_free:
            raise StorageFullError(
                f"the artifact store has room for {max(0, free - self._limits.min_free)} bytes, {more} are needed",
                hint="free disk space there; incl doctor shows where",
            )

    async def _get(self, request: Request, scope: GrantScope, sha256: str) -> Response:
        size = await self._readable(scope, sha256)
        follows = request.method == "GET" and request.headers.get(FOLLOWS) == "yes"
        if follows and _window(request, size) is not None and (link := await self._link(sha256)) is not None:
            return Response(status_code=307, headers={"Location": link, "Cache-Control": "no-store"})
        return await self._bytes(request, sha256, size, {})

    async def _readable(self, scope: GrantScope, sha256: str) -> int:
        """The size of a blob that this experiment, or this version of a model, has."""
        of, place = scope.project, scope.experiment
        if scope.verb is Verb.MODEL:
            if not await self._database.read(lambda connection: model_store.may_read(connection, of, place, sha256)):
                raise DeniedError(f"this version of a model has no blob {sha256[:12]}", hint="incl model show")
        elif not await self._database.read(lambda connection: store.may_read(connection, place, sha256)):
            raise DeniedError(f"experiment {place} has no blob {sha256[:12]}", hint="incl show")
        size = await self._threads.run(self._blobs.size, sha256)
        if size is None:
            raise NotFoundError(f"no blob {sha256[:12]} is stored")
        return size

    async def _bytes(self, request: Request, sha256: str, size: int, more: dict[str, str]) -> Response:
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{sha256}"', "Content-Type": "application/octet-stream"} | more
        if request.method == "HEAD":
            return Response(headers=headers | {"Content-Length": str(size)})
        window = _window(request, size)
        if window is None:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        start, end = window
        status = 206 if "range" in request.headers and (start, end) != (0, size) else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        source = await self._threads.run(self._blobs.open, sha256)
        body = self._stream(source, start, end)
        return StreamingResponse(body, status_code=status, headers=headers | {"Content-Length": str(end - start)})

    async def _link(self, sha256: str, file: str | None = None) -> str | None:
        link = await self._threads.run(self._blobs.link, sha256, self._limits.signed_ttl_s, file)
        if link is not None:
            self._metrics.sent_on.inc()
        return link

    async def _stream(self, source: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
        try:
            await self._threads.run(source.seek, start)
            while start < end and (piece := await self._threads.run(source.read, min(_BLOCK, end - start))):
                start += len(piece)
                self._metrics.downloaded_bytes.inc(len(piece))
                yield piece
        finally:
            source.close()

    async def _problem(self, _: Request, error: Exception) -> Response:
        response = problem(error)
        self._metrics.refused.labels(str(response.status_code)).inc()
        return response

    async def _gone(self, _: Request, __: Exception) -> Response:
        self._metrics.uploads_cut.inc()
        return Response(status_code=408)

    async def _fault(self, request: Request, error: Exception) -> Response:
        _log.error("a request failed: %s", request.method, exc_info=error)
        return await self._problem(request, error)


def _bearer(request: Request) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise UnauthorizedError("no grant was shown", hint="ask the registry for one")
    return token.strip()


def _need(scope: GrantScope, verb: Verb) -> None:
    if scope.verb is not verb:
        raise DeniedError(f"the grant is to {scope.verb.value}, not to {verb.value}")


def _upload(request: Request, scope: GrantScope) -> str:
    """What the store calls an upload: the same id in another experiment's grant is another upload."""
    upload = request.query_params.get("upload", "")
    if not _UPLOAD.fullmatch(upload):
        raise InvalidInput("an upload is named by 32 lower-case hexadecimal characters")
    return hashlib.sha256(f"{scope.project} {scope.experiment} {upload}".encode()).hexdigest()[:32]


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not _NUMBER.fullmatch(text):
        raise InvalidInput(f"{name} is a number of bytes")
    return int(text)


def _window(request: Request, size: int) -> tuple[int, int] | None:
    """[start, end) that is asked for; a header that is no single range counts as none; None: it lies outside."""
    match = _RANGE.match(request.headers.get("range", ""))
    if match is None:
        return 0, size
    start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    return (start, end) if start < end else None


def problem(error: Exception) -> Response:
    """An error as RFC 9457 has it, with the fields of the platform's error envelope."""
    failure = error if isinstance(error, InclError) else InternalError("the artifact store failed")
    status = failure.http_status
    body = {"type": "about:blank", "status": status, "title": failure.message} | failure.envelope().model_dump()
    headers = {
        "Content-Type": "application/problem+json",
        PROBLEM: failure.envelope().model_dump_json(ensure_ascii=True),
    }
    if isinstance(failure, WrongOffsetError):
        headers[UPLOAD_OFFSET] = str(failure.offset)
    if isinstance(failure, CheckingError):
        headers[CHECKED] = str(failure.checked)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status_code=status, headers=headers)
