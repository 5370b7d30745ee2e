"""One connection to NATS, with nats-py's traps closed. Both `BusClient` and the services' broker stand on it.

What is different from `nats.connect` (each has a regression test in shared/tests/bus/test_hardening.py):

- an error line of the server (expired or not yet known credential, too many connections) leads to a reconnect;
  nats-py closes the client for good;
- it never gives up, and waits between attempts with jitter;
- the first connection has a time limit, and its failure says what to do;
- a connection that the server refused is closed before the next attempt (nats-py leaks its socket);
- `flush` waits for what is still in nats-py's buffer too (nats-py's PING overtakes it);
- a task of its own that is cancelled at the end does not cancel whoever closes;
- a credential that cannot be read at a reconnect is an error of that attempt, not the silent end of the task.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client, Server

from incl_shared.errors import DeniedError, InclError, UnavailableError
from incl_shared.settings import BusSettings
from incl_shared.tasks import end_all

CONNECT_TIMEOUT_S = 2.0
_REFUSED_S = 0.6
_MAX_DELAY_S = 2.0
_TURNS = 3
UNREADABLE = "the credential cannot be read"

Credentials = Callable[[], tuple[str, str]]
"""Gives (JWT, seed); asked at every (re)connect, so that a refreshed credential is used."""
Callback = Callable[[], Awaitable[None]]
ErrorCallback = Callable[[Exception], Awaitable[None]]


@dataclass(frozen=True)
class Callbacks:
    """What the owner of a connection wants to hear."""

    error: ErrorCallback | None = None
    disconnected: Callback | None = None
    reconnected: Callback | None = None
    closed: Callback | None = None


class HardenedClient(Client):
    """nats-py's client, that never closes by itself."""

    async def _connect_to_server(self, s: Any) -> None:
        transport: Any = self._transport
        if transport is not None:
            with contextlib.suppress(OSError, AttributeError):
                transport.close()
                await transport.wait_closed()
        await super()._connect_to_server(s)

    async def close(self) -> None:
        """Close, whatever state it is in.

        nats-py's own tasks wait for the end of the same socket; one that is cancelled meanwhile cancels that wait for
        all, and the closer would be told that it was cancelled itself.
        """
        try:
            await super().close()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        for _ in range(_TURNS):  # the loop closes the socket in a turn of its own
            await asyncio.sleep(0)

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109
        """Wait until the server has processed everything that was sent before.

        nats-py writes its PING past its own buffer: a subscription made before may reach the server after the answer.
        """
        if self.is_connected:
            try:
                await asyncio.wait_for(self._flush_pending(force_flush=True), timeout)
            except TimeoutError:
                raise nats.errors.FlushTimeoutError from None
        await super().flush(timeout)

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip().strip("'")
        if "permissions violation" in text.lower():
            await self._error_cb(nats.errors.Error(f"nats: {text}"))
            return
        error = nats.errors.Error(f"nats: {text}")
        self._err = error
        await self._error_cb(error)
        await self._process_op_err(error)


def is_auth_error(error: BaseException) -> bool:
    """Whether the server refused the credential."""
    text = str(error).lower()
    return any(mark in text for mark in ("authorization violation", "authentication", "authorization error"))


def read_creds(text: str) -> tuple[str, str]:
    """(JWT, seed) of the text of a .creds file.

    Raises:
        ValueError: when it is none.
    """
    lines = [line.strip() for line in text.splitlines()]
    found: dict[str, str] = {}
    for mark, key in (("BEGIN NATS USER JWT", "jwt"), ("BEGIN USER NKEY SEED", "seed")):
        for index, line in enumerate(lines[:-1]):
            if mark in line:
                found[key] = lines[index + 1]
    if len(found) != 2:
        raise ValueError("not a NATS credentials file")
    return found["jwt"], found["seed"]


def credentials_of(settings: BusSettings) -> Credentials | None:
    """The credential that the settings name, or none."""
    if settings.creds is not None:
        path = settings.creds
        return lambda: read_creds(path.read_text())
    if settings.jwt is not None and settings.seed is not None:
        jwt, seed = settings.jwt, settings.seed
        return lambda: (jwt.get_secret_value(), seed.get_secret_value())
    return None


def connect_options(
    settings: BusSettings, callbacks: Callbacks, credentials: Credentials | None = None
) -> dict[str, Any]:
    """The arguments of `Client.connect`."""
    options: dict[str, Any] = {
        "servers": list(settings.urls),
        "name": settings.name,
        "inbox_prefix": settings.inbox_prefix,
        "error_cb": callbacks.error,
        "disconnected_cb": callbacks.disconnected,
        "reconnected_cb": callbacks.reconnected,
        "closed_cb": callbacks.closed,
        "connect_timeout": 2,
        "reconnect_time_wait": 0.1,
        "max_reconnect_attempts": -1,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
        "reconnect_to_server_handler": _next_server,
        "pending_size": 8 << 20,
    }
    source = credentials or credentials_of(settings)
    if source is not None:
        options |= _signing(source)
    return options


def _next_server(servers: list[Server], _: dict[str, Any]) -> tuple[Server, float]:
    chosen = random.choice(servers)  # noqa: S311
    delay = min(_MAX_DELAY_S, 0.05 * 2.0 ** min(chosen.reconnects, 10)) if chosen.reconnects else 0.0
    return chosen, delay * random.uniform(0.5, 1.0)  # noqa: S311


def _signing(source: Credentials) -> dict[str, Any]:
    """nats-py signs first, then asks for the JWT: both must be of one credential, also while it is refreshed."""
    signed: list[str] = []

    def sign(nonce: str) -> bytes:
        import nkeys

        try:
            jwt, seed = source()
            pair = nkeys.from_seed(bytearray(seed.encode()))
        except (OSError, ValueError, nkeys.NkeysError) as error:
            text = f"nats: authentication: {UNREADABLE}: {type(error).__name__}"
            raise nats.errors.Error(text) from error
        signed[:] = [jwt]
        return base64.b64encode(pair.sign(nonce.encode()))

    return {"user_jwt_cb": lambda: bytearray(signed[0].encode()), "signature_cb": sign}


async def open_connection(
    settings: BusSettings,
    callbacks: Callbacks | None = None,
    *,
    credentials: Credentials | None = None,
    timeout: float = CONNECT_TIMEOUT_S,  # noqa: ASYNC109
    patient: bool = False,
) -> HardenedClient:
    """A connection that lives until it is closed.

    timeout: the most seconds for the first connection. patient: go on after refused connections until then (a
    service waits for its server; a person wants to know at once).

    Raises:
        UnavailableError: nobody answers.
        DeniedError: the server refused the credential.
    """
    wanted, client, attempt = callbacks or Callbacks(), HardenedClient(), _FirstAttempt()

    async def on_error(error: Exception) -> None:
        attempt.note(error)
        if wanted.error is not None:
            await wanted.error(error)

    options = connect_options(
        settings, Callbacks(on_error, wanted.disconnected, wanted.reconnected, wanted.closed), credentials
    )
    task: asyncio.Task[None] = asyncio.create_task(client.connect(**options))
    try:
        await _settle(task, attempt, timeout, patient=patient)
    finally:
        attempt.over = True
        succeeded = task.done() and not task.cancelled() and task.exception() is None
        if not succeeded:
            await end_all([task])
            with contextlib.suppress(OSError, nats.errors.Error):
                await client.close()
    if not succeeded:
        raise attempt.reason(settings)
    return client


async def _settle(task: asyncio.Task[None], attempt: _FirstAttempt, seconds: float, *, patient: bool) -> None:
    first = seconds if patient else min(seconds, _REFUSED_S)
    waiting: set[asyncio.Future[Any]] = {task, attempt.denied}
    await asyncio.wait(waiting, timeout=first, return_when=asyncio.FIRST_COMPLETED)
    if not task.done() and not attempt.hopeless(patient=patient) and seconds > first:
        await asyncio.wait(waiting, timeout=seconds - first, return_when=asyncio.FIRST_COMPLETED)


class _FirstAttempt:
    """What went wrong so far with a first connection."""

    def __init__(self) -> None:
        self.last: Exception | None = None
        self.refused = False
        self.over = False
        self.denied: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def note(self, error: Exception) -> None:
        if self.over:
            return
        self.last = error
        self.refused = isinstance(error, OSError)
        if is_auth_error(error) and not self.denied.done():
            self.denied.set_result(error)

    def hopeless(self, *, patient: bool) -> bool:
        return self.denied.done() or (self.refused and not patient)

    def reason(self, settings: BusSettings) -> InclError:
        cause = str(self.last or "no answer")
        where = ", ".join(url.rpartition("@")[2] for url in settings.urls)
        if UNREADABLE in cause:
            return DeniedError("the credential for the bus cannot be read", cause=cause, hint="see: incl doctor")
        if self.denied.done():
            return DeniedError(
                f"the bus at {where} refused the credential", cause=cause, hint="see what is wrong: incl doctor"
            )
        return UnavailableError(
            f"the platform does not answer at {where}", cause=cause,
            hint="start it with: incl up   or see what is wrong: incl doctor",
        )  # fmt: skip
