"""All SQL of the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterable

import sqlalchemy as sa

from incl_gateway.tables import grants, members, projects, secrets, tokens, users
from incl_gateway.tokens import Fresh
from incl_shared.db import Transaction, insert_ignore
from incl_shared.queries.gateway import TokenView

_USED_EVERY_S = 60.0
GRANTS_KEPT_S = 30 * 86_400.0
"""How long after its end a node may still ship the telemetry of a job that ran there."""


def bootstrap(tx: Transaction, user: str, names: Iterable[str]) -> None:
    """Make a user, projects, and the user a member of them. Idempotent."""
    now = tx.clock.now()
    tx.connection.execute(insert_ignore(tx.connection, users), {"name": user, "created": now})
    for name in names:
        tx.connection.execute(insert_ignore(tx.connection, projects), {"name": name, "created": now})
        row = {"project": name, "user": user, "since": now}
        tx.connection.execute(insert_ignore(tx.connection, members), row)


def is_member(connection: sa.Connection, project: str, user: str) -> bool:
    """Whether a user belongs to a project."""
    found = sa.select(members.c.user).where(members.c.project == project, members.c.user == user)
    return connection.execute(found).first() is not None


def projects_of(connection: sa.Connection, user: str) -> tuple[str, ...]:
    """A user's projects by name."""
    found = sa.select(members.c.project).where(members.c.user == user).order_by(members.c.project)
    return tuple(connection.execute(found).scalars())


# --- tokens


def add_token(tx: Transaction, identifier: str, user: str, label: str, fresh: Fresh, ttl: float | None) -> TokenView:
    """Store what is kept of a new token."""
    now = tx.clock.now()
    view = TokenView(
        id=identifier,
        label=label,
        prefix=fresh.prefix,
        created=now,
        expires=None if ttl is None else now + ttl,
    )
    tx.connection.execute(sa.insert(tokens), {**view.model_dump(), "user": user, "hash": fresh.hash})
    return view


def token_by_hash(connection: sa.Connection, digest: str) -> tuple[str, TokenView] | None:
    """(user, token) of a hash."""
    row = connection.execute(sa.select(tokens).where(tokens.c.hash == digest)).mappings().first()
    return None if row is None else (str(row["user"]), TokenView.model_validate(dict(row)))


def tokens_of(connection: sa.Connection, user: str) -> tuple[TokenView, ...]:
    """A user's tokens, newest first."""
    found = sa.select(tokens).where(tokens.c.user == user).order_by(tokens.c.created.desc(), tokens.c.id.desc())
    return tuple(TokenView.model_validate(dict(row)) for row in connection.execute(found).mappings())


def revoke(tx: Transaction, identifier: str) -> None:
    """From now on a token is worth nothing; the first time counts."""
    tx.connection.execute(
        sa.update(tokens).where(tokens.c.id == identifier, tokens.c.revoked.is_(None)).values(revoked=tx.clock.now())
    )


def touch_token(tx: Transaction, identifier: str) -> None:
    """Note that a token is used, once a minute at most."""
    now = tx.clock.now()
    stale = sa.or_(tokens.c.used.is_(None), tokens.c.used < now - _USED_EVERY_S)
    tx.connection.execute(sa.update(tokens).where(tokens.c.id == identifier, stale).values(used=now))


def needs_touch(view: TokenView, now: float) -> bool:
    """Whether `touch_token` would write."""
    return view.used is None or view.used < now - _USED_EVERY_S


# --- secrets


def put_secret(tx: Transaction, project: str, name: str, box: bytes, user: str) -> None:
    """Store or replace a secret."""
    values = {"box": box, "user": user, "updated": tx.clock.now()}
    tx.connection.execute(insert_ignore(tx.connection, secrets), {"project": project, "name": name, **values})
    where = sa.and_(secrets.c.project == project, secrets.c.name == name)
    tx.connection.execute(sa.update(secrets).where(where).values(values))


def secret_names(connection: sa.Connection, project: str) -> tuple[str, ...]:
    """The names of a project's secrets."""
    found = sa.select(secrets.c.name).where(secrets.c.project == project).order_by(secrets.c.name)
    return tuple(connection.execute(found).scalars())


def any_secret(connection: sa.Connection) -> bool:
    """Whether anything is encrypted with the vault's key."""
    return connection.execute(sa.select(secrets.c.name).limit(1)).first() is not None


def secret_boxes(connection: sa.Connection, project: str, names: Iterable[str]) -> dict[str, bytes]:
    """Name -> encrypted value of those that there are."""
    found = sa.select(secrets.c.name, secrets.c.box).where(
        secrets.c.project == project, secrets.c.name.in_(sorted(set(names)))
    )
    return {str(name): bytes(box) for name, box in connection.execute(found)}


def delete_secret(tx: Transaction, project: str, name: str) -> bool:
    """Forget a secret; whether there was one."""
    gone = tx.connection.execute(sa.delete(secrets).where(secrets.c.project == project, secrets.c.name == name))
    return bool(gone.rowcount)


# --- grants


def put_grant(tx: Transaction, job: str, project: str, node: str, names: Iterable[str], expires: float) -> None:
    """Note which secrets a job may read until then; grants that are long over go."""
    values = {"project": project, "node": node, "secrets": json.dumps(sorted(names)), "expires": expires}
    tx.connection.execute(sa.delete(grants).where(grants.c.expires < tx.clock.now() - GRANTS_KEPT_S))
    tx.connection.execute(insert_ignore(tx.connection, grants), {"job": job, **values})
    tx.connection.execute(sa.update(grants).where(grants.c.job == job).values(values))


def once_granted(connection: sa.Connection, job: str, node: str, now: float) -> str | None:
    """The project of a job that the signer made a credential for on this node not too long ago."""
    since = now - GRANTS_KEPT_S
    found = sa.select(grants.c.project).where(grants.c.job == job, grants.c.node == node, grants.c.expires > since)
    project: str | None = connection.execute(found).scalar()
    return project


def granted(connection: sa.Connection, job: str, project: str, now: float) -> frozenset[str] | None:
    """The names of secrets that a job may read, or none where the signer knows no such job in this project."""
    found = sa.select(grants.c.secrets).where(grants.c.job == job, grants.c.project == project, grants.c.expires > now)
    text = connection.execute(found).scalar()
    return None if text is None else frozenset(json.loads(text))
