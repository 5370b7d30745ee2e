"""V4 signed URLs: an address at which anybody can read, or make, exactly one object, for minutes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from google.auth import credentials as auth_credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.iam import Signer

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud.storage import Blob

_log = logging.getLogger("incl.registry.gcs")
_REST_S: Final = 600.0
_TIMEOUT_S: Final = 5.0
PUBLIC: Final = "https://storage.googleapis.com"


class Links:
    """Signs, where the credentials can.

    Args:
        endpoint: where clients reach the provider.
        signer: the account for which IAM signs (signBlob); without one only a key of our own does.
        request: how IAM is asked; the provider's transport by default.
    """

    def __init__(
        self, found: Credentials, endpoint: str | None, signer: str | None, request: Callable[..., Any] | None = None
    ) -> None:
        self._endpoint = (endpoint or PUBLIC).rstrip("/")
        self._signing = _signing(found, signer, request)
        self._rests_until = 0.0

    @property
    def can(self) -> bool:
        """Whether there is a key, or somebody to ask."""
        return self._signing is not None

    @property
    def ready(self) -> bool:
        """Whether somebody signs now: after a refusal nobody is asked for some minutes."""
        return self._signing is not None and time.monotonic() >= self._rests_until

    def of(self, blob: Blob, seconds: float, file: str | None) -> str | None:
        """The address; None when nobody signs. After a refusal nobody is asked for some minutes.

        Args:
            file: the name under which a browser keeps it.
        """
        disposition = f"attachment; filename*=UTF-8''{quote(file, safe='')}" if file else None
        return self._signed(blob, "GET", seconds, response_disposition=disposition)

    def to_put(self, blob: Blob, seconds: float, size: int) -> tuple[str, dict[str, str]] | None:
        """The address at which exactly so many bytes can be stored, where there is nothing; and the headers to send."""
        headers = {"x-goog-if-generation-match": "0", "x-goog-content-length-range": f"{size},{size}"}
        address = self._signed(blob, "PUT", seconds, headers=headers)
        return None if address is None else (address, headers)

    def _signed(self, blob: Blob, method: str, seconds: float, **more: Any) -> str | None:
        if not self.ready:
            return None
        try:
            return str(
                blob.generate_signed_url(
                    version="v4", method=method, expiration=timedelta(seconds=seconds), credentials=self._signing,
                    api_access_endpoint=self._endpoint, **more,
                )
            )  # fmt: skip
        except (GoogleAuthError, OSError, ValueError) as error:
            self._rests_until = time.monotonic() + _REST_S
            _log.warning("no address can be signed; all bytes go through the store itself: %s", _short(error))
            return None


class _Iam(auth_credentials.Signing):
    """Signs by IAM's signBlob."""

    def __init__(self, found: Credentials, email: str, request: Callable[..., Any]) -> None:
        self._email = email
        self._signer = Signer(request, found, email)  # type: ignore[no-untyped-call]

    def sign_bytes(self, message: bytes) -> bytes:
        return cast("bytes", self._signer.sign(message))

    @property
    def signer_email(self) -> str:
        return self._email

    @property
    def signer(self) -> Signer:
        return self._signer


def _signing(
    found: Credentials, email: str | None, request: Callable[..., Any] | None
) -> auth_credentials.Signing | None:
    if email:
        return _Iam(found, email, request or _transport())
    return found if isinstance(found, auth_credentials.Signing) else None


def _transport() -> Callable[..., Any]:
    from google.auth.transport.requests import Request

    request = Request()

    def call(**given: Any) -> Any:
        return request(**{"timeout": _TIMEOUT_S, **given})

    return call


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
