"""The API: from a request to an answer, with what goes wrong on purpose between."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from incl_provisioner.fakes.gce import masks, routes
from incl_provisioner.fakes.gce.call import Call, Handler
from incl_provisioner.fakes.gce.catalog import IMAGES
from incl_provisioner.fakes.gce.faults import Faults
from incl_provisioner.fakes.gce.model import State
from incl_provisioner.fakes.gce.operations import Operation, Operations
from incl_provisioner.fakes.gce.problems import JSON, ApiError, not_found
from incl_provisioner.fakes.gce.wire import closed, cut, half, read, respond, respond_json

log = logging.getLogger(__name__)
GARBAGE = b"<!DOCTYPE html><title>Error 502 (Server Error)!!1</title><p>The server encountered a temporary error."


@dataclass(frozen=True)
class Outcome:
    """What a caller gets. `kind`: answer, cut, hang, garbage or partial."""

    kind: str
    status: int
    body: JSON


class Api:
    """Compute Engine's HTTP API.

    Args:
        handlers: method -> what answers.
    """

    def __init__(self, state: State, operations: Operations, faults: Faults, handlers: dict[str, Handler]) -> None:
        self._state, self._operations, self._faults, self._handlers = state, operations, faults, handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        found = routes.find(scope["method"], scope["path"])
        content = await read(receive)
        if found is None:
            await respond(send, 404, b"Not Found", "text/html; charset=UTF-8")
            return
        method, project, place, name = found
        try:
            body = json.loads(content) if content else {}
        except ValueError:
            await respond_json(send, 400, ApiError(400, "parseError", "Parse Error").body())
            return
        call = Call(method, project, place, name, dict(parse_qsl(scope["query_string"].decode())), body)
        outcome = await self.outcome(call)
        if outcome.kind == "answer":
            await respond_json(send, *_masked(scope, outcome))
        elif outcome.kind == "garbage":
            await respond(send, 200, GARBAGE, "text/html; charset=UTF-8")
        else:
            if outcome.kind == "cut":
                cut(scope)
            elif outcome.kind == "partial":
                half(scope, json.dumps(outcome.body).encode())
            await closed(receive)

    async def outcome(self, call: Call) -> Outcome:
        """What becomes of a call, with what goes wrong on purpose; without HTTP."""
        fault = self._faults.of_call(call.method, call.place, call.name or str(call.body.get("name", "")))
        if fault is None:
            return Outcome("answer", *await self.answer(call))
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        told = (fault.status, fault.error().body())
        if fault.effect or fault.kind in ("slow", "partial"):
            answered = await self.answer(call)
            told = told if fault.kind == "error" else answered
        return Outcome("answer" if fault.kind in ("slow", "error") else fault.kind, *told)

    async def answer(self, call: Call) -> tuple[int, JSON]:
        """(HTTP status, body) of one call, without HTTP."""
        try:
            return 200, await self._handle(call)
        except ApiError as error:
            return error.status, error.body()
        except Exception:
            self._operations.failures += 1
            log.exception("the fake cloud failed in %s", call.method)
            return 500, ApiError(500, "backendError", "Backend Error").body()

    async def _handle(self, call: Call) -> JSON:
        self._faults.admit(call.method, call.resource)
        if call.project != self._state.project and call.project not in IMAGES:
            raise not_found(f"projects/{call.project}")
        request_id = call.query.get("requestId")
        request: JSON = {"method": call.method, "place": call.place, "name": call.name, "body": call.body}
        known = self._operations.replayed(request_id, request) if request_id else None
        if known is not None:
            return known.body
        answer = self._handlers[call.method](call)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Operation):
            if request_id:
                self._operations.remember(request_id, request, answer)
            return answer.body
        return answer


def _masked(scope: Scope, outcome: Outcome) -> tuple[int, JSON]:
    """(status, body) with the fields that the caller wants."""
    mask = next((value.decode() for name, value in scope["headers"] if name == b"x-goog-fieldmask"), "")
    if not mask or outcome.status != 200:
        return outcome.status, outcome.body
    try:
        return 200, masks.apply(masks.parse(mask), outcome.body)
    except ApiError as error:
        return error.status, error.body()
