"""The platform's keys: operator, accounts, and one scoped signing key for each role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys

from incl_shared.auth import jwt
from incl_shared.auth.borders import borders
from incl_shared.auth.files import private_dir, read_private, write_private
from incl_shared.auth.names import EDGE, Role
from incl_shared.auth.roles import SCOPES
from incl_shared.clock import Clock, SystemClock
from incl_shared.errors import InvalidInput, NotFoundError

_ROOTS = {"operator": jwt.OPERATOR, "system": jwt.ACCOUNT, "core": jwt.ACCOUNT, "edge": jwt.ACCOUNT}
_ACCOUNTS = ("core", "edge")


@dataclass(frozen=True)
class SigningKeys:
    """What a signer holds: the public keys of the two accounts, and the signing keys of some roles."""

    core: str
    edge: str
    roles: Mapping[Role, jwt.Key]

    @classmethod
    def load(cls, directory: Path, roles: Iterable[Role]) -> SigningKeys:
        """Only the signing keys of these roles, from the directory of the platform's keys.

        Raises:
            NotFoundError, DeniedError, InvalidInput: when a file is missing, not private, or no key.
        """
        core, edge = (read_private(directory / f"{name}.pub").decode("ascii").strip() for name in _ACCOUNTS)
        return cls(core, edge, {role: _read(_signing(directory, role)) for role in roles})

    def account(self, role: Role) -> str:
        """The public key of the account in which a role lives."""
        return self.edge if role in EDGE else self.core


@dataclass(frozen=True)
class PlatformKeys:
    """All keys of a platform. Whoever holds this may do anything on its bus."""

    operator: jwt.Key
    system: jwt.Key
    core: jwt.Key
    edge: jwt.Key
    signing: Mapping[Role, jwt.Key]

    @classmethod
    def create(cls, directory: Path) -> PlatformKeys:
        """Make what is missing (all of it, the first time; a new role's key, after an upgrade) and load the rest.

        Idempotent: a key that exists is never replaced. Every file 0600, the directories 0700.
        """
        private_dir(directory)
        private_dir(directory / "signing")
        for name, kind in _ROOTS.items():
            _make(directory / f"{name}.seed", kind)
        for role in Role:
            _make(_signing(directory, role), jwt.ACCOUNT)
        for name in _ACCOUNTS:
            public = f"{_read(directory / f'{name}.seed').public}\n".encode()
            if not (directory / f"{name}.pub").exists():
                write_private(directory / f"{name}.pub", public)
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> PlatformKeys:
        """The keys in a directory.

        Raises:
            NotFoundError: when one is missing.
            DeniedError: when others could read one.
            InvalidInput: when a file holds no key.
        """
        roots = {name: _read(directory / f"{name}.seed") for name in _ROOTS}
        signing = {role: _read(_signing(directory, role)) for role in Role}
        return cls(**roots, signing=signing)

    def signers(self) -> SigningKeys:
        """The part that mints credentials."""
        return SigningKeys(self.core.public, self.edge.public, self.signing)

    def operator_jwt(self, clock: Clock | None = None) -> str:
        """The operator, signed by itself: it names the system account."""
        now = (clock or SystemClock()).now()
        claims = {"type": "operator", "system_account": self.system.public}
        return jwt.encode(self.operator, self.operator.public, "INCL", claims, issued=now)

    def account_jwts(self, clock: Clock | None = None, *, refuse: bool = False) -> dict[str, str]:
        """Public key -> JWT of the accounts, with the permission table of this version of the platform.

        refuse: nothing more is stored; what is published is refused at once.
        """
        now = (clock or SystemClock()).now()
        exports, imports = borders(self.core.public)
        accounts = (
            (self.system, "SYS", jwt.account_claims((), jetstream=False)),
            (self.core, "CORE", self._core_claims(exports, refuse=refuse)),
            (self.edge, "EDGE", jwt.account_claims(self._scopes(edge=True), jetstream=False, imports=imports)),
        )
        return {
            key.public: jwt.encode(self.operator, key.public, name, claims, issued=now)
            for key, name, claims in accounts
        }

    def _core_claims(self, exports: Sequence[Mapping[str, Any]], *, refuse: bool) -> dict[str, Any]:
        claims = jwt.account_claims(self._scopes(edge=False), jetstream=True, exports=exports)
        if refuse:
            claims["limits"]["disk_storage"] = 1
        return claims

    def _scopes(self, *, edge: bool) -> list[dict[str, object]]:
        return [
            {
                "kind": "user_scope",
                "key": self.signing[role].public,
                "role": str(role),
                "description": scope.about,
                "template": jwt.permissions(scope.publish, scope.subscribe),
            }
            for role, scope in SCOPES.items()
            if (role in EDGE) is edge
        ]


def _signing(directory: Path, role: Role) -> Path:
    return directory / "signing" / f"{role}.seed"


def _make(path: Path, kind: int) -> None:
    try:
        read_private(path)
    except NotFoundError:
        write_private(path, f"{jwt.Key.new(kind).seed}\n".encode())


def _read(path: Path) -> jwt.Key:
    text = read_private(path).decode("ascii", "replace").strip()
    try:
        return jwt.Key(text)
    except (nkeys.NkeysError, ValueError) as error:
        raise InvalidInput(f"{path} holds no key", cause=type(error).__name__, hint="restore it") from None
