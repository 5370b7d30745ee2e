"""Encryption of secrets at rest: XChaCha20-Poly1305 (libsodium), bound to project and name.

A row that is copied to another project or name does not open there.
"""

from __future__ import annotations

from pathlib import Path

import nacl.exceptions
import nacl.secret
import nacl.utils

from incl_shared.auth.files import read_private, write_private
from incl_shared.errors import IntegrityError, NotFoundError


class Vault:
    """Seals and opens the values of secrets."""

    def __init__(self, key: bytes) -> None:
        self._box = nacl.secret.Aead(key)

    @classmethod
    def open(cls, path: Path, *, make: bool) -> Vault:
        """The vault of a key file. `make`: write a new key when there is none (nothing is encrypted yet).

        Raises:
            NotFoundError: when there is no key and `make` is false.
            DeniedError: when others may read the key.
            IntegrityError: when the file holds no key.
        """
        try:
            key = read_private(path)
        except NotFoundError:
            if not make:
                raise NotFoundError(
                    f"the key of the stored secrets, {path}, is gone", hint="restore it from a backup"
                ) from None
            key = nacl.utils.random(nacl.secret.Aead.KEY_SIZE)
            write_private(path, key)
        if len(key) != nacl.secret.Aead.KEY_SIZE:
            raise IntegrityError(f"{path} holds no key of {nacl.secret.Aead.KEY_SIZE} bytes", hint="restore it")
        return cls(key)

    def seal(self, project: str, name: str, value: str) -> bytes:
        """The encrypted value, with its nonce."""
        return bytes(self._box.encrypt(value.encode(), _place(project, name)))

    def unseal(self, project: str, name: str, box: bytes) -> str:
        """The value.

        Raises:
            IntegrityError: when it was sealed with another key, for another place, or was changed.
        """
        try:
            return self._box.decrypt(box, _place(project, name)).decode()
        except nacl.exceptions.CryptoError:
            raise IntegrityError(
                f"the stored secret {name} cannot be opened", cause="another key, or a changed row", hint="set it again"
            ) from None


def _place(project: str, name: str) -> bytes:
    return f"{project}\x00{name}".encode()
