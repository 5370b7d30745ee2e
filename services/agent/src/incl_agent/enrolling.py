"""How a machine of a cloud gets its credential: its own key, and a token that is traded once."""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any

from incl_shared.auth import jwt
from incl_shared.auth.creds import write_creds
from incl_shared.auth.files import write_private
from incl_shared.errors import UnavailableError
from incl_shared.protocol import PROTOCOL

_log = logging.getLogger("incl.agent")
_TIMEOUT_S = 20.0
_PATIENCE_S = 300.0
_FIRST_S, _LONGEST_S = 0.5, 10.0
_MOST = 65_536
_FINAL = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY}
)


class Refused(Exception):  # noqa: N818
    """The platform does not let this machine in, and will not."""


def enroll(url: str, token: Path, creds: Path, node: str, patience_s: float = _PATIENCE_S) -> None:
    """Have a credential in the file `creds`; the token is traded for it once, and its file removed. Blocks.

    The key is made first and kept, so that an answer that got lost is given again. The seed never leaves the machine.

    Raises:
        Refused: the platform says no; or there is neither a credential nor a token.
        UnavailableError: the platform did not answer in time.
    """
    if creds.exists():
        token.unlink(missing_ok=True)
        return
    if not token.exists():
        raise Refused("it has no token")
    key = _key(creds.with_name("node.seed"))
    secret = token.read_text("ascii").strip()
    deadline = time.monotonic() + patience_s
    pause = _FIRST_S
    while True:
        try:
            text = _trade(url, secret, node, key.public)
            break
        except OSError as error:
            _log.warning("the platform does not answer yet: %s", error)
            if time.monotonic() + pause > deadline:
                raise UnavailableError("the platform did not let this machine in", cause=str(error)) from error
        time.sleep(pause)
        pause = min(_LONGEST_S, pause * 2)
    write_creds(creds, text, key.seed)
    token.unlink(missing_ok=True)
    creds.with_name("node.seed").unlink(missing_ok=True)


def _key(path: Path) -> jwt.Key:
    if path.exists():
        return jwt.Key(path.read_text("ascii").strip())
    made = jwt.Key.new(jwt.USER)
    write_private(path, made.seed.encode())
    return made


def _trade(url: str, secret: str, node: str, key: str) -> str:
    """The JWT.

    Raises:
        Refused: the platform said no.
        OSError: no answer, or one that may be another one later.
    """
    body = json.dumps({"node": node, "key": key, "protocol": PROTOCOL}).encode()
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - checked by the startup script
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            said = _read(answer.read(_MOST))
    except urllib.error.HTTPError as error:
        with error:
            said = _read(error.read(_MOST))
        if error.code in _FINAL:
            raise Refused(str(said.get("title") or error.reason)[:300]) from None
        raise OSError(f"{error.code}: {str(said.get('title') or error.reason)[:300]}") from None
    text = said.get("jwt")
    if not isinstance(text, str) or not text:
        raise OSError("the answer makes no sense")
    return text


def _read(raw: bytes) -> dict[str, Any]:
    try:
        said = json.loads(raw)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
