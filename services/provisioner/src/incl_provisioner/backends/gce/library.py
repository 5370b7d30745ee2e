"""google-cloud-compute, imported when it is first needed (a second, 150 MB): its clients, what its exceptions mean."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from incl_provisioner.backends.gce.port import CloudFailure
from incl_provisioner.domain.cloud.classify import classify
from incl_provisioner.domain.cloud.errors import CloudError, read_errors

METHODS = {
    "instances.insert": ("InstancesClient", "insert_unary"),
    "instances.get": ("InstancesClient", "get"),
    "instances.aggregatedList": ("InstancesClient", "aggregated_list"),
    "instances.delete": ("InstancesClient", "delete_unary"),
    "instances.getSerialPortOutput": ("InstancesClient", "get_serial_port_output"),
    "instances.getGuestAttributes": ("InstancesClient", "get_guest_attributes"),
    "regionInstances.bulkInsert": ("RegionInstancesClient", "bulk_insert_unary"),
    "disks.aggregatedList": ("DisksClient", "aggregated_list"),
    "disks.insert": ("DisksClient", "insert_unary"),
    "snapshots.get": ("SnapshotsClient", "get"),
    "snapshots.list": ("SnapshotsClient", "list"),
    "disks.delete": ("DisksClient", "delete_unary"),
    "images.getFromFamily": ("ImagesClient", "get_from_family"),
    "regions.get": ("RegionsClient", "get"),
    "advice.capacity": ("AdviceClient", "capacity"),
    "zoneOperations.get": ("ZoneOperationsClient", "get"),
    "zoneOperations.list": ("ZoneOperationsClient", "list"),
    "regionOperations.get": ("RegionOperationsClient", "get"),
    "regionOperations.list": ("RegionOperationsClient", "list"),
}
"""Method of the API -> the library's client and its method; the `_unary` ones give the operation itself."""


class Library:
    """The library's module, and one client of each kind.

    Args:
        endpoint: of another API than the provider's, such as the fake cloud's; it gets no credentials.
        credentials: of google.auth; None: those of the environment.
    """

    def __init__(self, endpoint: str | None = None, credentials: object | None = None) -> None:
        self.types: Any = importlib.import_module("google.cloud.compute_v1")
        self._credentials = credentials or (self._anonymous() if endpoint else None)
        options = importlib.import_module("google.api_core.client_options").ClientOptions(api_endpoint=endpoint)
        self._make: Callable[[str], Any] = lambda kind: _settled(
            getattr(self.types, kind)(credentials=self._credentials, client_options=options, transport="rest")
        )
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    @staticmethod
    def _anonymous() -> object:
        return importlib.import_module("google.auth.credentials").AnonymousCredentials()

    def method(self, name: str) -> Callable[..., Any]:
        """What does a method of the API. Several threads use one client at once. Call it where its errors are read."""
        kind, method = METHODS[name]
        with self._lock:
            if kind not in self._clients:
                self._clients[kind] = self._make(kind)
        found: Callable[..., Any] = getattr(self._clients[kind], method)
        return found

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            client.transport.close()
        self._clients.clear()


def _settled(client: Any) -> Any:
    """A client whose session has read the environment (proxies, authorities) once, not for every call.

    A sixth of a call's time was that. All calls of a client go to one host.
    """
    session, host = getattr(client.transport, "_session", None), getattr(client, "api_endpoint", "")
    if session is None or not host:
        return client
    url = host if "://" in host else f"https://{host}"
    found = session.merge_environment_settings(url, {}, None, None, None)
    session.proxies, session.verify, session.trust_env = dict(found["proxies"]), found["verify"], False
    return client


class Threads:
    """Where the library's calls block."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "compute")

    async def run(self, name: str, call: Callable[[float], Any], limit: float) -> Any:
        """The answer of a call that takes the timeout of its request in seconds, and may block.

        Raises:
            CloudFailure: it failed, or did not end.
        """
        loop = asyncio.get_running_loop()
        try:
            # The library's timeout is one of silence; an answer that trickles is ended by this one.
            async with asyncio.timeout(limit * 1.5 + 1.0):
                return await loop.run_in_executor(self._pool, call, limit)
        except Exception as error:
            meant = failure(name, error)
            if meant is None:
                raise
            raise meant from error

    async def close(self) -> None:
        """Wait for calls that are under way; each has a timeout."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def failure(call: str, error: Exception) -> CloudFailure | None:
    """What an exception of the library means; None when it is none of the library's, but a fault of ours."""
    errors, status = _read(error)
    return CloudFailure(call, classify(errors), status) if errors else None


def _read(error: Exception) -> tuple[tuple[CloudError, ...], int | None]:
    core = importlib.import_module("google.api_core.exceptions")
    auth = importlib.import_module("google.auth.exceptions")
    requests = importlib.import_module("requests.exceptions")
    parse = importlib.import_module("google.protobuf.json_format")
    if isinstance(error, core.GoogleAPICallError):
        status = int(error.code) if error.code is not None else None
        said = {"code": status, "message": error.message, "errors": list(error.errors)}
        return read_errors(said, status=status), status
    if isinstance(error, auth.TransportError | requests.ConnectionError | requests.ChunkedEncodingError):
        return (CloudError("CONNECTION_ERROR", _short(error)),), None
    if isinstance(error, auth.GoogleAuthError):
        return (CloudError("REFRESH_ERROR", _short(error)),), None
    if isinstance(error, requests.Timeout | core.RetryError | TimeoutError):
        return (CloudError("TIMEOUT", _short(error)),), None
    if isinstance(error, parse.Error | requests.RequestException):
        return (CloudError("BAD_GATEWAY", "the answer makes no sense"),), None
    return (), None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
