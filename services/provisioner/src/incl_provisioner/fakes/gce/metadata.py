"""The metadata server, as a guest sees it at 169.254.169.254."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from incl_provisioner.fakes.gce.catalog import ZONES
from incl_provisioner.fakes.gce.hosts.netns import hardware
from incl_provisioner.fakes.gce.identity import Identity
from incl_provisioner.fakes.gce.model import Instance, fingerprint
from incl_provisioner.fakes.gce.problems import JSON
from incl_provisioner.fakes.gce.wire import read, respond

ROOT = "/computeMetadata/v1/"
PROJECT_NUMBER = 100000000001
DEFAULT_ACCOUNT = f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
_FLAVOR = (("metadata-flavor", "Google"), ("server", "Metadata Server for VM"))
GUEST_VALUE_MOST = 256 * 1024


class _Lazy:
    """A leaf that is made when it is asked for by its name, and left out of recursive answers."""

    def __init__(self, make: Callable[[dict[str, str]], Any]) -> None:
        self.make = make


class MetadataServer:
    """ASGI.

    Args:
        find: gives the VM that a connection belongs to, from its ASGI scope.
        identity: signs identity tokens.
    """

    def __init__(self, project: str, find: Callable[[Scope], Instance | None], identity: Identity) -> None:
        self._project, self._find, self._identity = project, find, identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        content = await read(receive)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        vm = self._find(scope)
        path = scope["path"]
        if vm is None or not path.startswith(ROOT):
            known = vm is not None and path in ("/", "/computeMetadata", "/computeMetadata/")
            await respond(
                send, 200 if known else 404, b"computeMetadata/\n" if known else b"", "application/text", _FLAVOR
            )
            return
        if headers.get("metadata-flavor") != "Google" or "x-forwarded-for" in headers:
            await respond(send, 403, b"Missing Metadata-Flavor:Google header.", "text/html; charset=UTF-8", _FLAVOR)
            return
        inner = path.removeprefix(ROOT)
        query = {
            key: values[-1] for key, values in parse_qs(scope["query_string"].decode(), keep_blank_values=True).items()
        }
        if inner.startswith("instance/guest-attributes/"):
            await self._guest(vm, scope["method"], inner, content, send)
        elif scope["method"] != "GET":
            await respond(send, 405, b"", "text/html; charset=UTF-8", _FLAVOR)
        else:
            await self._value(vm, inner, query, send)

    async def _value(self, vm: Instance, path: str, query: dict[str, str], send: Send) -> None:
        """One value or directory, at once or after it changed."""
        value = self._look(vm, path, query)
        etag = _etag(value)
        if query.get("wait_for_change", "").lower() == "true" and query.get("last_etag") in (None, "0", etag):
            limit = float(query["timeout_sec"]) if query.get("timeout_sec") else None
            value, etag = await self._changed(vm, path, query, etag, limit)
        if isinstance(value, _Lazy):
            value = value.make(query)
        if value is None:
            await respond(send, 404, b"", "text/html; charset=UTF-8", _FLAVOR)
            return
        as_json = query.get("alt", "json" if isinstance(value, dict) and "recursive" in query else "text") == "json"
        content, kind = _render(value, path, as_json=as_json, recursive=query.get("recursive", "").lower() == "true")
        await respond(send, 200, content, kind, (*_FLAVOR, ("etag", etag)))

    async def _changed(
        self, vm: Instance, path: str, query: dict[str, str], etag: str, limit: float | None
    ) -> tuple[Any, str]:
        end = None if limit is None else time.monotonic() + limit
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            changed = await vm.watch.changed(left)
            value = self._look(vm, path, query)
            now = _etag(value)
            if now != etag or not changed:
                return value, now

    def _look(self, vm: Instance, path: str, query: dict[str, str]) -> Any:
        """What is at a path; a dict where it is a directory, None where it is nothing."""
        value: Any = self._tree(vm)
        for part in path.strip("/").split("/") if path.strip("/") else []:
            if isinstance(value, list):
                value = value[int(part)] if part.isdigit() and int(part) < len(value) else None
            else:
                value = value.get(part) if isinstance(value, dict) else None
            if value is None:
                return None
        return value

    def _tree(self, vm: Instance) -> JSON:
        zone = f"projects/{PROJECT_NUMBER}/zones/{vm.zone}"
        scheduling = vm.body["scheduling"]
        network = f"projects/{PROJECT_NUMBER}/networks/default"
        return {
            "project": {"project-id": self._project, "numeric-project-id": PROJECT_NUMBER, "attributes": {}},
            "instance": {
                "id": vm.id, "name": vm.name, "zone": zone, "cpu-platform": vm.body["cpuPlatform"],
                "hostname": vm.body.get("hostname") or f"{vm.name}.{vm.zone}.c.{self._project}.internal",
                "machine-type": f"projects/{PROJECT_NUMBER}/machineTypes/{vm.machine.name}",
                "attributes": vm.metadata(), "tags": (vm.body.get("tags") or {}).get("items", []),
                "preempted": "TRUE" if vm.preempted else "FALSE", "maintenance-event": vm.maintenance,
                "region": f"projects/{PROJECT_NUMBER}/regions/{ZONES[vm.zone]}",
                "scheduling": {
                    "automatic-restart": str(scheduling["automaticRestart"]).upper(),
                    "on-host-maintenance": scheduling["onHostMaintenance"],
                    "preemptible": str(vm.spot).upper(),
                },
                "disks": [
                    {"device-name": one["deviceName"], "index": one["index"], "mode": one["mode"], "type": one["type"]}
                    for one in vm.body["disks"]
                ],
                "network-interfaces": [
                    {"ip": vm.address, "network": network, "access-configs": [], "mac": hardware(vm.address)}
                ],
                "service-accounts": self._accounts(vm),
            },
        }  # fmt: skip

    def _accounts(self, vm: Instance) -> JSON:
        given = vm.body["serviceAccounts"]
        if not given:
            return {}
        email = given[0].get("email") or "default"
        email = DEFAULT_ACCOUNT if email == "default" else email
        token = {"access_token": f"ya29.fake-{vm.id}-{email}", "expires_in": 3599, "token_type": "Bearer"}

        def identity(query: dict[str, str]) -> str | None:
            audience = query.get("audience")
            return self._identity.token(vm, email, audience, full=query.get("format") == "full") if audience else None

        account = {
            "aliases": ["default"], "email": email, "scopes": given[0].get("scopes", []),
            "token": _Lazy(lambda _: {key: token[key] for key in token}), "identity": _Lazy(identity),
        }  # fmt: skip
        return {"default": account, email: account}

    async def _guest(self, vm: Instance, method: str, path: str, content: bytes, send: Send) -> None:
        """Guest attributes: the only thing that a guest writes."""
        parts = path.removeprefix("instance/guest-attributes/").strip("/").split("/")
        kind = "text/html; charset=UTF-8"
        if vm.metadata().get("enable-guest-attributes", "").upper() != "TRUE":
            await respond(send, 403, b"Guest attributes endpoint access is disabled.", kind, _FLAVOR)
        elif method == "GET":
            value = vm.guest.get((parts[0], parts[1])) if len(parts) == 2 else None
            keys = "".join(f"{key}\n" for space, key in sorted(vm.guest) if space == parts[0])
            shown = value if len(parts) == 2 else keys or None
            await respond(send, 200 if shown is not None else 404, (shown or "").encode(), "application/text", _FLAVOR)
        elif len(parts) != 2 or len(content) > GUEST_VALUE_MOST:
            await respond(send, 400, b"", kind, _FLAVOR)
        elif method == "PUT":
            vm.guest[parts[0], parts[1]] = content.decode(errors="replace")
            await respond(send, 200, b"", kind, _FLAVOR)
        elif method == "DELETE":
            vm.guest.pop((parts[0], parts[1]), None)
            await respond(send, 200, b"", kind, _FLAVOR)
        else:
            await respond(send, 405, b"", kind, _FLAVOR)


def _etag(value: Any) -> str:
    return fingerprint("" if isinstance(value, _Lazy) else _plain(value))


def _plain(value: Any) -> Any:
    """Without what is made only when asked for, and with the names that JSON answers have; the user's keys stay."""
    if isinstance(value, dict):
        return {
            _camel(key): one if key == "attributes" else _plain(one)
            for key, one in value.items()
            if not isinstance(one, _Lazy)
        }
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _camel(key: str) -> str:
    head, *rest = key.split("-") if "@" not in key else [key]
    return head + "".join(part.capitalize() for part in rest)


def _render(value: Any, path: str, *, as_json: bool, recursive: bool) -> tuple[bytes, str]:
    directory = isinstance(value, dict | list) and not path.endswith(("/scopes", "/tags", "/aliases", "/token"))
    if path.endswith("/attributes") and recursive:
        return json.dumps(value).encode(), "application/json"
    if path.endswith("/token"):
        return json.dumps(value).encode(), "application/json"
    if as_json or recursive:
        return json.dumps(_plain(value)).encode(), "application/json"
    if directory:
        names = value.items() if isinstance(value, dict) else enumerate(value)
        lines = [f"{name}/" if isinstance(one, dict | list) else str(name) for name, one in names]
        return "".join(f"{line}\n" for line in lines).encode(), "application/text"
    if isinstance(value, list):
        return "".join(f"{one}\n" for one in value).encode(), "application/text"
    return str(value).encode(), "application/text"
