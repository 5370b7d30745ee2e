"""The door of the artifact store, as a client sees it: one HTTP exchange with a grant, its errors as InclErrors.

The standard library's client: it is quick to import, and no proxy from the environment can come between.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final
from urllib.parse import urlsplit

from incl_shared.errors import DeniedError, ErrorEnvelope, InclError, IntegrityError, InvalidInput, UnavailableError

BLOCK: Final = 1 << 18
_MAX_ERROR: Final = 64 << 10

TRANSIENT = (ConnectionError, TimeoutError, OSError, http.client.HTTPException)
"""What a cut or refused connection raises."""


class StoreFullError(UnavailableError):
    """The store has no room. Trying again at once does not help."""


class Door:
    """Connections to one artifact store, kept open and shared by threads.

    Args:
        url: http://host:port, or https://.
        timeout_s: of one step of an exchange (connect, a read, a write), not of the whole.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"{url!r} is not the address of an artifact store")
        self.url = url
        self._https = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout_s
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self.closed = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def exchange(
        self, method: str, path: str, headers: dict[str, str], body: Iterator[bytes] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request; the connection is kept for the next one when the answer was read to its end.

        Raises:
            one of TRANSIENT: no connection, or it was cut.
        """
        connection = self._take()
        done = False
        try:
            self._open(connection)
            response = _send(connection, method, self._prefix + path, headers, body)
            yield response
            done = response.isclosed() and not response.will_close
        finally:
            self._give(connection, done)

    def close(self) -> None:
        """Close what is open. An exchange that is under way in another thread is cut, and raises there."""
        with self._lock:
            self.closed.set()
            idle, self._idle = self._idle, []
            for connection in self._busy:
                if connection.sock is not None:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)
        for connection in idle:
            connection.close()

    def _take(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        with self._lock:
            if self.closed.is_set():
                raise ConnectionAbortedError("the door is closed")
            if self._idle:
                connection = self._idle.pop()
            else:
                connection = kind(self._host, self._port, timeout=self._timeout, blocksize=BLOCK)
            self._busy.add(connection)
        return connection

    def _open(self, connection: http.client.HTTPConnection) -> None:
        """Connected from here on, or closed: whichever came first, nothing hangs that `close` does not see."""
        if connection.sock is None:
            connection.connect()
        with self._lock:
            if self.closed.is_set():
                raise ConnectionAbortedError("the door is closed")

    def _give(self, connection: http.client.HTTPConnection, usable: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            keep = usable and not self.closed.is_set()
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()


class Places:
    """Where a store sends its clients: addresses that are keys themselves. No grant is shown there, and none is written
    down anywhere.

    Args:
        url: of the store; from one with TLS nobody is sent to a place without.
        timeout_s: as of Door.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._secure = urlsplit(url).scheme == "https"
        self._timeout = timeout_s
        self._doors: dict[str, Door] = {}
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def get(self, address: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """Read there.

        Raises:
            UnavailableError: it is no address that we go to, or it is not accepted there (any more).
            one of TRANSIENT: no connection, or it was cut.
        """
        with self._exchange("GET", address, headers) as response:
            if response.status not in (200, 206):
                raise _no_use(address, response, "does not give the bytes")
            yield response

    def put(self, address: str, headers: dict[str, str], body: Iterator[bytes]) -> None:
        """Store there. That something is there already (412) is well: it came with a try whose answer was lost.

        Raises:
            as get; what the body raises.
        """
        with self._exchange("PUT", address, headers, body) as response:
            if response.status not in (200, 201, 412):
                raise _no_use(address, response, "does not take the bytes")
            response.read(_MAX_ERROR)

    @contextmanager
    def _exchange(
        self, method: str, address: str, headers: dict[str, str], body: Iterator[bytes] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or (self._secure and parts.scheme != "https"):
            raise UnavailableError("the artifact store sent us to a place where we do not go", cause=parts.scheme)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        with self._door(f"{parts.scheme}://{parts.netloc}").exchange(method, path, headers, body) as response:
            yield response

    def close(self) -> None:
        """See Door.close."""
        with self._lock:
            self._closed = True
            doors = list(self._doors.values())
        for door in doors:
            door.close()

    def _door(self, url: str) -> Door:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the doors are closed")
            if url not in self._doors:
                self._doors[url] = Door(url, self._timeout)
            return self._doors[url]


def _no_use(address: str, response: http.client.HTTPResponse, what: str) -> UnavailableError:
    response.read(_MAX_ERROR)
    return UnavailableError(f"the bucket at {urlsplit(address).hostname} {what}", cause=f"HTTP {response.status}")


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: dict[str, str],
    body: Iterator[bytes] | None,
) -> http.client.HTTPResponse:
    try:
        connection.request(method, path, body=body, headers=headers)
    except (BrokenPipeError, ConnectionResetError):
        # the server may have refused before it read everything: its answer says why
        with suppress(*TRANSIENT):
            return connection.getresponse()
        raise
    return connection.getresponse()


def limited(source: IO[bytes], count: int) -> Iterator[bytes]:
    """Exactly count bytes of a file, in blocks.

    Raises:
        IntegrityError: it has fewer.
        InvalidInput: it cannot be read.
    """
    while count > 0:
        try:
            piece = source.read(min(count, BLOCK))
        except OSError as error:
            raise InvalidInput("the file cannot be read any more", cause=error.strerror or str(error)) from error
        if not piece:
            raise IntegrityError("the file became shorter while it was sent", hint="upload it when nothing writes it")
        count -= len(piece)
        yield piece


def error_of(response: http.client.HTTPResponse, what: str) -> InclError:
    """The error that an answer other than success stands for; the answer is read to its end."""
    envelope = _envelope(response.read(_MAX_ERROR) or response.getheader("Incl-Problem", "").encode())
    if response.status in (401, 403):
        cause = envelope.message if envelope else f"HTTP {response.status}"
        return DeniedError(f"{what}: the artifact store does not allow it", cause=cause, hint="ask for a new grant")
    if response.status == 507:
        return StoreFullError(
            f"{what}: the artifact store's disk is full",
            cause=envelope.message if envelope else "HTTP 507",
            hint="free disk space where `incl up` keeps its data (incl doctor shows it), then try again",
        )
    if envelope is not None:
        return InclError.from_envelope(envelope)
    return UnavailableError(f"{what}: the artifact store answered HTTP {response.status}", hint="incl status")


def unreachable(url: str, error: BaseException) -> UnavailableError:
    """The error of a store that stays away."""
    return UnavailableError(
        f"the artifact store at {url} cannot be reached", cause=str(error) or type(error).__name__, hint="incl status"
    )


def _envelope(body: bytes) -> ErrorEnvelope | None:
    try:
        fields = json.loads(body)
        return ErrorEnvelope.model_validate(fields)
    except ValueError:
        return None
