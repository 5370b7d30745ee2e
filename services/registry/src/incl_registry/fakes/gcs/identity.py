"""Who may ask: one service account, its key, tokens for it, and V4 signatures that are really verified."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from incl_registry.fakes.gcs.problems import JSON, ApiError

EMAIL: Final = "incl-registry@fake-project.iam.gserviceaccount.com"
MOST_SECONDS: Final = 604_800


class Identity:
    """One service account.

    Args:
        clock: the server's; seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tokens: dict[str, float] = {}
        self.may_sign = True
        """Whether the account may let the provider sign for it (IAM signBlob)."""

    @functools.cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65_537, key_size=2048)

    def key_file(self, url: str) -> str:
        """The account's key, as the provider hands it out; tokens are had at `url`."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": "fake-project",
                "private_key_id": "1",
                "private_key": pem.decode(),
                "client_email": EMAIL,
                "client_id": "1",
                "token_uri": f"{url}/token",
            }
        )

    def token(self, seconds: float = 3600.0) -> str:
        """A new access token."""
        token = f"ya29.{secrets.token_urlsafe(16)}"
        self._tokens[token] = self._clock() + seconds
        return token

    def forget_tokens(self) -> None:
        """All access tokens are expired."""
        self._tokens.clear()

    def exchange(self, assertion: str) -> JSON:
        """A token for a JWT that the account signed (RFC 7523)."""
        signed, _, signature = assertion.rpartition(".")
        if not self._signed(_decode(signature), signed.encode()):
            raise ApiError(400, "invalid_grant", "Invalid JWT Signature.")
        claims = json.loads(_decode(signed.partition(".")[2]))
        if not claims["iat"] - 300 <= self._clock() < claims["exp"]:
            raise ApiError(
                400, "invalid_grant", "Invalid JWT: Token must be a short-lived token, in a reasonable time."
            )
        return {"access_token": self.token(), "expires_in": 3600, "token_type": "Bearer"}

    def admit(self, authorization: str) -> None:
        """Raises 401 unless it is one of the account's tokens."""
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or self._tokens.get(token, 0.0) <= self._clock():
            raise ApiError(401, "authError", "Invalid Credentials", "AuthenticationRequired")

    def sign_blob(self, payload: str) -> JSON:
        """What IAM's signBlob answers."""
        if not self.may_sign:
            message = "Permission 'iam.serviceAccounts.signBlob' denied on resource (or it may not exist)."
            raise ApiError(403, "forbidden", message)
        signature = self._key.sign(base64.b64decode(payload), padding.PKCS1v15(), hashes.SHA256())
        return {"keyId": "1", "signedBlob": base64.b64encode(signature).decode()}

    def verify(self, method: str, path: str, query: str, headers: Callable[[str], str | None]) -> None:
        """A V4 signed URL, as the provider documents it.

        Raises:
            ApiError: 400 when it is expired, 403 when it is signed by another or for something else.
        """
        fields = dict(parse_qsl(query, keep_blank_values=True))
        try:
            signature = bytes.fromhex(fields.pop("X-Goog-Signature"))
            email, _, scope = fields["X-Goog-Credential"].partition("/")
            moment, life = fields["X-Goog-Date"], int(fields["X-Goog-Expires"])
            begun = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        except (KeyError, ValueError) as error:
            raise ApiError(400, "invalid", f"Not a signed URL: {error}", "AuthorizationQueryParametersError") from error
        names = fields.get("X-Goog-SignedHeaders", "").split(";")
        lines = [f"{name}:{' '.join((headers(name) or '').split())}\n" for name in names]
        ordered = sorted((quote(key, safe="~"), quote(value, safe="~")) for key, value in fields.items())
        canonical = "\n".join(
            [method, path, "&".join(f"{key}={value}" for key, value in ordered), "".join(lines), ";".join(names),
             "UNSIGNED-PAYLOAD"]
        )  # fmt: skip
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"GOOG4-RSA-SHA256\n{moment}\n{scope}\n{digest}"
        if email != EMAIL or not self._signed(signature, text.encode()):
            message = "Access denied. The request signature we calculated does not match."
            raise ApiError(403, "forbidden", message, "SignatureDoesNotMatch")
        if life > MOST_SECONDS or not begun - 900 <= self._clock() < begun + life:
            raise ApiError(400, "invalid", "The provided token has expired.", "ExpiredToken")

    def _signed(self, signature: bytes, text: bytes) -> bool:
        try:
            self._key.public_key().verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
