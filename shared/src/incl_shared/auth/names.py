"""Names of roles and principals, and their inboxes."""

from __future__ import annotations

import re
from enum import StrEnum

from incl_shared.errors import InvalidInput
from incl_shared.ids import TOKEN_PATTERN

JOB_PREFIX = "job_"
INBOXES = "_INBOX"
_TOKEN = re.compile(TOKEN_PATTERN)
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


class Role(StrEnum):
    """Who may connect to the bus. Each has a signing key of its own, whose scope the server enforces."""

    PROVISIONER = "provisioner"
    TRACKER = "tracker"
    REGISTRY = "registry"
    GATEWAY = "gateway"
    HPO = "hpo"
    ADMIN = "admin"
    PERSON = "person"
    NODE = "node"
    ATTEMPT = "attempt"
    RUN = "run"


EDGE = frozenset({Role.PERSON, Role.NODE, Role.ATTEMPT, Role.RUN})
"""Roles outside the platform: they live in an account of their own, which has no streams (see `borders`)."""
SERVICES = frozenset({Role.PROVISIONER, Role.TRACKER, Role.REGISTRY, Role.GATEWAY, Role.HPO})
"""Roles that are services: their credential's name is the role's."""


def inbox_prefix(role: Role | str, name: str) -> str:
    """Where answers to this principal go: nobody else may listen there."""
    return f"{INBOXES}.{Role(role)}.{name}"


def job_principal(experiment: str, attempt: int, rank: int) -> str:
    """The user token of a job in subjects: a rank of an attempt that asks for itself."""
    return f"{JOB_PREFIX}{experiment}-{attempt}-{rank}"


def is_job(user: str) -> bool:
    """Whether a user token is a job's."""
    return user.startswith(JOB_PREFIX)


def check_user(name: str) -> str:
    """A name that a person may have.

    Raises:
        InvalidInput: when it is no token, or one that services, nodes or jobs bear.
    """
    if _TOKEN.fullmatch(name) is None:
        raise InvalidInput(f"{name[:80]!r} is not a user name", hint="use letters, digits, - and _, at most 63")
    if is_job(name) or name in set(Role):
        raise InvalidInput(f"the user name {name!r} is the platform's own", hint="choose another name")
    return name


def check_project(name: str) -> str:
    """A name that a project may have.

    Raises:
        InvalidInput: when it is no token, or begins with an underscore as the platform's own do.
    """
    if _TOKEN.fullmatch(name) is None:
        raise InvalidInput(f"{name[:80]!r} is not a project name", hint="use letters, digits, - and _, at most 63")
    return name


def user_name_of(login: str) -> str:
    """The user name for a login of the operating system: what does not fit becomes '-'."""
    name = _UNFIT.sub("-", login).strip("-_")[:56] or "user"
    return f"u-{name}" if is_job(name) or name in set(Role) else name
