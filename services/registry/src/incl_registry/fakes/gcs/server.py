"""The HTTP server: from bytes to a call, from an answer to bytes, with what goes wrong on purpose between.

Methods, as faults and counts name them: buckets.get, objects.list, .get, .media, .patch, .delete, .compose,
.insert (media or multipart), .resumable (begins one), .resume (a chunk), signed.get, signed.put,
oauth.token, iam.signBlob.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from incl_registry.fakes.gcs.calls import Call, Calls, Reply, json_reply, route
from incl_registry.fakes.gcs.faults import Fault, Faults
from incl_registry.fakes.gcs.identity import Identity
from incl_registry.fakes.gcs.model import Model
from incl_registry.fakes.gcs.problems import ApiError

_log = logging.getLogger(__name__)
_GARBAGE: Final = b"<!DOCTYPE html><title>Error 502 (Server Error)!!1</title>"


class FakeStorage:
    """A running Cloud Storage on loopback; threads of this process serve it.

    Args:
        buckets: that are there.
        port: 0 takes a free one. It is kept from stop to start.
        guarded: nothing without an access token of the service account.
        clock: the server's; seconds since the epoch.
    """

    def __init__(
        self, *buckets: str, port: int = 0, guarded: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.model = Model(clock)
        self.identity = Identity(clock)
        self.faults = Faults()
        self.guarded = guarded
        self._calls = Calls(self.model, self.identity, lambda: self.url)
        self._port = port
        self._server: _Server | None = None
        for bucket in buckets:
            self.model.buckets[bucket] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def key_file(self) -> str:
        """The service account's key, for GOOGLE_APPLICATION_CREDENTIALS."""
        return self.identity.key_file(self.url)

    def __enter__(self) -> FakeStorage:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; all that was stored is there again."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fake-gcs", daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and cut those that are there."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut_all()

    def fault(self, **rule: Any) -> Fault:
        """Switch a fault on; the arguments are those of `Fault`."""
        return self.faults.add(Fault(**rule))

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """The objects that are there."""
        return sorted(name for name in list(self.model.buckets[bucket]) if name.startswith(prefix))

    def answer(self, call: Call) -> Reply:
        """What a call is answered without any fault."""
        try:
            return self._calls.run(call, guarded=self.guarded)
        except ApiError as error:
            if call.method.startswith("signed."):
                return Reply(error.status, error.xml(), {"Content-Type": "application/xml; charset=UTF-8"})
            if call.method == "oauth.token":
                return json_reply({"error": error.reason, "error_description": error.message}, error.status)
            return json_reply(error.body(), error.status)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], storage: FakeStorage) -> None:
        self.storage = storage
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a connection ended badly", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _any(self) -> None:
        path, _, text = self.path.partition("?")
        body = self._body()
        call = Call(self.command, path, text, body, self.headers.get)
        if not route(call):
            self._send(json_reply({"error": {"code": 404, "message": "Not Found"}}, 404))
            return
        fault = self.server.storage.faults.of_call(call.method, call.name)
        if fault is None:
            self._send(self.server.storage.answer(call))
        else:
            self._hit(call, fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

    def _hit(self, call: Call, fault: Fault) -> None:
        if fault.kind == "slow":
            time.sleep(fault.seconds)
        if fault.effect or fault.kind in ("slow", "partial"):
            reply = self.server.storage.answer(call)
        if fault.kind == "slow":
            self._send(reply)
        elif fault.kind == "error":
            self._send(json_reply(fault.error().body(), fault.status))
        elif fault.kind == "garbage":
            self._send(Reply(200, _GARBAGE, {"Content-Type": "text/html"}))
        else:
            if fault.kind == "partial":
                self._head(reply)
                self.wfile.write(reply.body[: len(reply.body) // 2])
            elif fault.kind == "hang":
                time.sleep(fault.seconds)
            self._cut()

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        whole = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(whole)

    def _send(self, reply: Reply) -> None:
        self._head(reply)
        self.wfile.write(reply.body)

    def _head(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()

    def _cut(self) -> None:
        """The end of the connection, in the midst of whatever it was."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""
