"""A small registry: the part of the OCI distribution API that a pull needs, with a login, and with what goes wrong."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(data: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry:
    """Serves images on loopback. login: user:password; empty: nobody is asked. requests: (method, path, status)."""

    def __init__(self, login: str = "") -> None:
        self.login = login
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.status = 0
        """Every request is answered so, when set."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Not on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def host(self) -> str:
        """Where it listens; the first part of its images' names."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Registry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, name: str, tag: str, layer: bytes) -> str:
        """An image of one layer (a plain tar); its digest."""
        diff = digest_of(layer)
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}
        ).encode()
        for blob in (layer, config):
            self.blobs[digest_of(blob)] = blob
        kinds = (("config", "config.v1+json", config), ("layer", "layer.v1.tar", layer))
        parts = {
            kind: {"mediaType": f"application/vnd.oci.image.{media}", "digest": digest_of(blob), "size": len(blob)}
            for kind, media, blob in kinds
        }
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts["config"], "layers": [parts["layer"]]}
        ).encode()
        self.blobs[digest_of(manifest)] = manifest
        self.tags[name, tag] = digest_of(manifest)
        return digest_of(manifest)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        status, body, kind, digest = self._find(handler)
        self.requests.append((handler.command, handler.path, status))
        handler.send_response(status)
        if status == 401:
            handler.send_header("WWW-Authenticate", 'Basic realm="test"')
        if digest:
            handler.send_header("Docker-Content-Digest", digest)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    def _find(self, handler: BaseHTTPRequestHandler) -> tuple[int, bytes, str, str]:
        plain = "application/json"
        if self.status:
            return self.status, b"{}", plain, ""
        given = handler.headers.get("Authorization", "")
        if self.login and given != "Basic " + base64.b64encode(self.login.encode()).decode():
            return 401, _error("UNAUTHORIZED", "authentication required"), plain, ""
        if handler.path == "/v2/":
            return 200, b"{}", plain, ""
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", handler.path)
        if found is None:
            return 404, _error("UNSUPPORTED", "no such route"), plain, ""
        name, what, ref = found[1], found[2], found[3]
        digest = self.tags.get((name, ref), ref)
        if digest not in self.blobs or name not in {each for each, _ in self.tags}:
            return 404, _error("MANIFEST_UNKNOWN", "manifest unknown"), plain, ""
        kind = MANIFEST if what == "manifests" else "application/octet-stream"
        return 200, self.blobs[digest], kind, digest if what == "manifests" else ""


def _error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def shell_layer(tools: Sequence[str] = ("sh", "sleep", "cat", "env")) -> bytes:
    """A file system with these tools of this machine, and what they are linked to."""
    out, added = io.BytesIO(), set[str]()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for tool in tools:
            path = shutil.which(tool) or ""
            linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
            for file in (path, *re.findall(r"(/\S+)", linked)):
                name = f"bin/{tool}" if file == path else file.lstrip("/")
                if name not in added:
                    added.add(name)
                    archive.add(Path(file).resolve(), name)
    return out.getvalue()


def conf(folder: Path, registry: Registry) -> Path:
    """A registries.conf that knows it as one without TLS."""
    path = folder / "registries.conf"
    path.write_text(f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n')
    return path
