"""Identity tokens of VMs: JWTs signed with a key of this cloud, which publishes the public half."""

from __future__ import annotations

import base64
import json
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from incl_provisioner.fakes.gce.model import Instance
from incl_provisioner.fakes.gce.problems import JSON

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

ISSUER = "https://accounts.google.com"
KEY_ID = "fake-cloud-1"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class Identity:
    """Signs with RS256, as the provider does; the key is made when it is first needed."""

    @cached_property
    def _key(self) -> RSAPrivateKey:
        from cryptography.hazmat.primitives.asymmetric import rsa

        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def certificates(self) -> JSON:
        """The JSON Web Key Set that says whose signature is good."""
        public = self._key.public_key().public_numbers()
        key = {
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": KEY_ID,
            "n": _number(public.n),
            "e": _number(public.e),
        }
        return {"keys": [key]}

    def token(self, vm: Instance, email: str, audience: str, *, full: bool) -> str:
        """A token for an hour; `full` says which VM it is."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER, "aud": audience, "azp": str(vm.id), "sub": str(vm.id), "email": email,
            "email_verified": True,
            "iat": now, "exp": now + 3600,
        }  # fmt: skip
        if full:
            claims["google"] = {
                "compute_engine": {
                    "instance_id": str(vm.id), "instance_name": vm.name, "project_id": vm.project,
                    "project_number": 100000000001, "zone": vm.zone, "instance_creation_timestamp": now,
                }
            }  # fmt: skip
        head = {"alg": "RS256", "kid": KEY_ID, "typ": "JWT"}
        signed = ".".join(_encode(json.dumps(part).encode()) for part in (head, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encode(signature)}"
