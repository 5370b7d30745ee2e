"""Minting credentials: a JWT of one role, bound by name and tags, with an end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from incl_shared.auth import jwt
from incl_shared.auth.creds import creds_text, write_creds
from incl_shared.auth.keys import SigningKeys
from incl_shared.auth.names import SERVICES, Role, check_project, check_user, inbox_prefix, job_principal
from incl_shared.auth.roles import SCOPES
from incl_shared.clock import Clock, SystemClock
from incl_shared.errors import DeniedError, InvalidInput
from incl_shared.subjects import token

Tags = Mapping[str, str | int | tuple[str, ...]]


@dataclass(frozen=True)
class Credential:
    """A credential: whoever has jwt and seed is its principal until `expires` (seconds since the epoch)."""

    role: Role
    name: str
    expires: float | None
    jwt: str = field(repr=False)
    seed: str = field(repr=False)

    @property
    def inbox(self) -> str:
        """The only prefix under which it may listen for answers."""
        return inbox_prefix(self.role, self.name)

    @property
    def text(self) -> str:
        """As the text of a .creds file."""
        return creds_text(self.jwt, self.seed)

    def write(self, path: Path) -> Path:
        """As a .creds file, 0600."""
        return write_creds(path, self.jwt, self.seed)


class Minter:
    """Mints credentials of the roles whose signing keys it holds."""

    def __init__(self, keys: SigningKeys, clock: Clock | None = None) -> None:
        self._keys = keys
        self._clock = clock or SystemClock()

    def mint(self, role: Role, name: str, tags: Tags | None = None, ttl: float | None = None) -> Credential:
        """A credential of any role. `ttl` in seconds; none: for ever.

        Raises:
            InvalidInput: when the name or a tag is none, or a tag of the role is missing.
            DeniedError: when this minter does not hold the role's key.
        """
        key = self._key(role)
        filled = _tags(role, name, tags or {})
        now = self._clock.now()
        expires = None if ttl is None else float(int(now + ttl))
        user = jwt.Key.new(jwt.USER)
        return Credential(
            role, name, expires, self._signed(role, key, user.public, name, filled, now, expires), user.seed
        )

    def _signed(
        self, role: Role, key: jwt.Key, public: str, name: str, tags: list[str], now: float, expires: float | None
    ) -> str:
        claims = {"type": "user", "issuer_account": self._keys.account(role), "tags": tags}
        return jwt.encode(key, public, name, claims, issued=now, expires=expires)

    def node_of(self, node: str, public: str, ttl: float) -> tuple[str, float]:
        """(JWT, its end) of a node for a public key that it made: its seed never leaves it.

        Raises:
            InvalidInput: when the name is none.
            DeniedError: when this minter does not hold the key of nodes.
        """
        key = self._key(Role.NODE)
        now = self._clock.now()
        expires = float(int(now + ttl))
        return self._signed(Role.NODE, key, public, node, _tags(Role.NODE, node, {}), now, expires), expires

    def _key(self, role: Role) -> jwt.Key:
        key = self._keys.roles.get(role)
        if key is None:
            raise DeniedError(f"this signer may not mint credentials of the role {role}")
        return key

    def service(self, role: Role, ttl: float | None = None) -> Credential:
        """The credential of a service, or of the administrator."""
        if role not in SERVICES and role is not Role.ADMIN:
            raise InvalidInput(f"{role} is not a service")
        return self.mint(role, str(role), ttl=ttl)

    def person(self, user: str, projects: tuple[str, ...], ttl: float | None) -> Credential:
        """A person's credential: fixes user and projects in every subject."""
        return self.mint(Role.PERSON, user, {"project": projects}, ttl)

    def node(self, node: str, ttl: float | None = None) -> Credential:
        """A node's credential: control, reports, and asking for attempts' credentials."""
        return self.mint(Role.NODE, node, ttl=ttl)

    def attempt(self, project: str, experiment: str, attempt: int, rank: int, ttl: float) -> Credential:
        """The credential of one rank of one attempt."""
        tags: Tags = {"project": (project,), "experiment": experiment, "attempt": attempt, "rank": rank}
        return self.mint(Role.ATTEMPT, job_principal(experiment, attempt, rank), tags, ttl)

    def run(self, project: str, user: str, experiment: str, ttl: float) -> Credential:
        """The credential of a run outside the platform: attempt 1, rank 0."""
        tags: Tags = {"project": (project,), "user": user, "experiment": experiment, "attempt": 1, "rank": 0}
        return self.mint(Role.RUN, job_principal(experiment, 1, 0), tags, ttl)


def _tags(role: Role, name: str, tags: Tags) -> list[str]:
    """Checked, as the JWT carries them. A wildcard in a name or a tag would widen every subject that it fills."""
    token(name)
    if name.startswith("_"):
        raise InvalidInput(f"the name {name!r} is the platform's own")
    if role is Role.PERSON:
        check_user(name)
    if set(tags) != set(SCOPES[role].tags):
        raise InvalidInput(f"a credential of the role {role} needs the tags {', '.join(SCOPES[role].tags) or '(none)'}")
    filled = [f"role:{role}"]
    for key, value in tags.items():
        values = value if isinstance(value, tuple) else (str(value),)
        if not values:
            raise InvalidInput(f"the tag {key} is empty", hint="name a project" if key == "project" else "")
        filled += [f"{key}:{check_project(one)}" for one in values]
    return filled
