"""Operations: PENDING, RUNNING, DONE, with errors inside; and request ids, which give the same operation again."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from incl_provisioner.fakes.gce.faults import Faults
from incl_provisioner.fakes.gce.model import State, last
from incl_provisioner.fakes.gce.pace import Pace
from incl_provisioner.fakes.gce.problems import JSON, ApiError, OperationError, OperationFailed, invalid, not_found

log = logging.getLogger(__name__)
Work = Callable[["Operation"], Awaitable[None]]
USER = "incl@fake-project.iam.gserviceaccount.com"
SYSTEM = "system"


@dataclass(eq=False)
class Operation:
    """One operation; `body` is what the API shows."""

    scope: str
    name: str
    body: JSON
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def finish(self, at: str, error: OperationError | None = None) -> None:
        """DONE, with or without an error."""
        self.body.update(status="DONE", progress=100, endTime=at, **(error.body() if error else {}))
        self.body.setdefault("startTime", at)
        self.done.set()


class Operations:
    """All operations, in the order in which they began."""

    def __init__(self, state: State, pace: Pace, faults: Faults) -> None:
        self._state, self._pace, self._faults = state, pace, faults
        self._all: dict[tuple[str, str], Operation] = {}
        self._requests: dict[str, tuple[str, Operation]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.failures = 0

    def create(
        self, kind: str, scope: str, target: str, *, user: str = USER, group: str = "", target_id: int = 0
    ) -> Operation:
        """A PENDING operation.

        Args:
            kind: insert, delete, bulkInsert, compute.instances.preempted, …
            scope: zones/z, regions/r or global.
            target: the resource, projects/….
        """
        number = self._state.new_id()
        begin = "systemevent" if user == SYSTEM else "operation"
        at = int(self._state.clock() * 1000)
        name = f"{begin}-{at}-{number % 16**13:013x}-{number % 16**8:08x}-{(number // 7) % 16**8:08x}"
        body: JSON = {
            "kind": "compute#operation", "id": str(number), "name": name, "operationType": kind, "user": user,
            "targetLink": self._state.url(target), "targetId": str(target_id or self._state.new_id()),
            "status": "PENDING", "progress": 0, "insertTime": self._state.now(),
            "selfLink": self._state.at(f"{scope}/operations/{name}"),
        }  # fmt: skip
        where, _, place = scope.partition("/")
        if place:
            body[where[:-1]] = self._state.at(scope)
        if group:
            body["operationGroupId"] = group
        operation = Operation(scope, name, body)
        self._all[scope, name] = operation
        return operation

    def begin(self, operation: Operation, work: Work, method: str) -> Operation:
        """Let it run in the background.

        Args:
            work: does it; raises OperationFailed.
            method: the API method, for faults.
        """
        self.spawn(self._run(operation, work, method))
        return operation

    def event(self, kind: str, scope: str, target: str, target_id: int, message: str) -> Operation:
        """Something that the provider did by itself: DONE at once."""
        operation = self.create(kind, scope, target, user=SYSTEM, target_id=target_id)
        operation.body["statusMessage"] = message
        operation.finish(self._state.now())
        return operation

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """A task that the cloud owns."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures += 1
            log.error("a task of the fake cloud failed", exc_info=error)

    async def _run(self, operation: Operation, work: Work, method: str) -> None:
        await asyncio.sleep(self._pace.pending)
        operation.body.update(status="RUNNING", startTime=self._state.now())
        fault = self._faults.of_operation(method, operation.scope, last(operation.body["targetLink"]))
        if fault is not None and fault.kind == "stuck":
            return
        planned = None
        if fault is not None:
            planned = OperationError(
                fault.reason, fault.message or f"the fault that was asked for: {fault.reason}", fault.status
            )
        error: OperationError | None = None
        if planned is None or (fault is not None and fault.effect):
            try:
                await work(operation)
            except OperationFailed as failed:
                error = failed.error
        operation.finish(self._state.now(), planned or error)

    def get(self, scope: str, name: str) -> Operation:
        """One operation.

        Raises:
            ApiError: 404.
        """
        found = self._all.get((scope, name))
        if found is None:
            raise not_found(f"projects/{self._state.project}/{scope}/operations/{name}")
        return found

    async def wait(self, scope: str, name: str) -> Operation:
        """The same once it is DONE, or after two minutes whatever it is."""
        operation = self.get(scope, name)
        try:
            async with asyncio.timeout(self._pace.wait):
                await operation.done.wait()
        except TimeoutError:
            log.debug("operation %s is not done yet", name)
        return operation

    def forget(self, scope: str, name: str) -> None:
        """Past its retention: nobody finds it any more."""
        self._all.pop((scope, name), None)

    def of(self, scope: str) -> list[JSON]:
        """Those of one scope, the newest first."""
        return [one.body for (where, _), one in reversed(self._all.items()) if where == scope]

    def everything(self) -> list[tuple[str, JSON]]:
        """(scope, operation), the newest first."""
        return [(where, one.body) for (where, _), one in reversed(self._all.items())]

    def replayed(self, request_id: str, request: JSON) -> Operation | None:
        """The operation that an earlier request of this id began.

        Args:
            request: all that must be the same again.

        Raises:
            ApiError: the id is no UUID, or it was used for another request.
        """
        if not _good(request_id):
            raise invalid("requestId", request_id, "Must be a UUID that is not zero.")
        known = self._requests.get(request_id)
        if known is None:
            return None
        if known[0] != _frozen(request):
            raise ApiError(
                400, "invalid", f"Invalid value for field 'requestId': '{request_id}'. It was used for another request."
            )
        return known[1]

    def remember(self, request_id: str, request: JSON, operation: Operation) -> None:
        """What a repeat of this request gets."""
        self._requests[request_id] = (_frozen(request), operation)
        operation.body["clientOperationId"] = request_id

    async def stop(self) -> None:
        """Nothing goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _good(request_id: str) -> bool:
    try:
        return uuid.UUID(request_id).int != 0
    except ValueError:
        return False


def _frozen(request: JSON) -> str:
    return json.dumps(request, sort_keys=True)
