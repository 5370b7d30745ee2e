"""The switches over HTTP: POST /fake/<command> with JSON, GET /fake/state, GET /fake/console/<zone>/<vm>."""

from __future__ import annotations

import hmac
import json

from starlette.types import Receive, Scope, Send

from incl_provisioner.fakes.gce.faults import Fault
from incl_provisioner.fakes.gce.problems import ApiError
from incl_provisioner.fakes.gce.switches import Switches
from incl_provisioner.fakes.gce.wire import read, respond, respond_json

PREFIX = "/fake/"


class Control:
    """ASGI. Every request carries `Authorization: Bearer <token>`."""

    def __init__(self, switches: Switches, token: str) -> None:
        self._switches, self._token = switches, token
        self._commands = switches.commands()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        content = await read(receive)
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            await respond_json(send, 401, {"error": "the token of this cloud is needed"})
            return
        try:
            await self._do(scope["method"], scope["path"].removeprefix(PREFIX), content, send)
        except ApiError as error:
            await respond_json(send, error.status, error.body())
        except (TypeError, ValueError) as error:
            await respond_json(send, 400, {"error": str(error)})

    async def _do(self, verb: str, path: str, content: bytes, send: Send) -> None:
        if verb == "GET" and path == "state":
            await respond_json(send, 200, self._switches.summary())
        elif verb == "GET" and path.startswith("console/") and path.count("/") == 2:
            _, zone, name = path.split("/")
            await respond(send, 200, self._switches.console(zone, name).encode(), "text/plain; charset=UTF-8")
        elif verb == "POST" and path in self._commands:
            given = json.loads(content) if content else {}
            made = self._commands[path](*given) if isinstance(given, list) else self._commands[path](**given)
            shown = {"seen": made.seen, "hit": made.hit} if isinstance(made, Fault) else {}
            await respond_json(send, 200, shown)
        else:
            commands = ", ".join(sorted(self._commands))
            await respond_json(send, 404, {"error": f"GET state, GET console/<zone>/<vm>, or POST one of {commands}"})
