"""Who may do what with an experiment's files. Pure: the one place where this is decided, for the bus and for HTTP."""

from __future__ import annotations

import re
from dataclasses import dataclass

from incl_registry.grants import Verb
from incl_shared.auth.names import JOB_PREFIX, Role, is_job
from incl_shared.errors import DeniedError, InvalidInput, NotFoundError, UnavailableError
from incl_shared.ids import parse_job_id
from incl_shared.queries.registry import Entry
from incl_shared.subjects import Asker

ARCHIVIST = Role.TRACKER.value
"""The tracker archives points and lines as a file of the experiment. No person can have this name."""
HIDDEN_KINDS = frozenset({"code", "provenance", "archive"})
"""Kinds that are kept for an experiment but are no results: no event tells of them."""

_KIND = re.compile(r"^[a-z][a-z0-9_-]{0,31}$")


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose experiment it is; user is none as long as only its jobs were heard of."""

    project: str
    user: str | None
    purged: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A job principal, taken apart."""

    experiment: str
    attempt: int
    rank: int


def job_of(asker: Asker) -> Job | None:
    """The job that asks, or none when a person does.

    Raises:
        DeniedError: it says that it is a job, and is none.
    """
    if not is_job(asker.user):
        return None
    try:
        return Job(*parse_job_id(asker.user.removeprefix(JOB_PREFIX)))
    except ValueError:
        raise DeniedError(f"{asker.user!r} is not the name of a job") from None


def check(asker: Asker, experiment: str, verb: Verb, claim: Claim | None) -> None:
    """Let this asker use the experiment's files, or not.

    A job: its own experiment alone. A person: get, all of its project's; put, its own. The tracker: all.

    Raises:
        DeniedError: not allowed.
        NotFoundError: nobody has stored anything for this experiment yet (get), or it is purged.
        UnavailableError: a job asks before the event that its experiment is queued has come here.
    """
    job = job_of(asker)
    if job is not None and job.experiment != experiment:
        raise DeniedError("a job may only use the files of its own experiment")
    if claim is None:
        if verb is Verb.GET and job is not None:
            raise UnavailableError(
                f"the registry has not heard of experiment {experiment} yet", hint="it does soon: try again"
            )
        if verb is Verb.GET:
            raise NotFoundError(f"no files are known of experiment {experiment}", hint="incl ls")
        return
    if claim.project != asker.project:
        raise DeniedError(f"experiment {experiment} is not one of project {asker.project}")
    if claim.purged:
        raise NotFoundError(f"experiment {experiment} was purged", hint="incl ls")
    if verb is Verb.PUT and job is None and claim.user not in (None, asker.user) and asker.user != ARCHIVIST:
        raise DeniedError(f"experiment {experiment} belongs to another user", hint="only its owner can add files")


def check_entries(asker: Asker, entries: tuple[Entry, ...]) -> None:
    """Refuse entries that no client could keep safely, and those that a job may not speak for.

    Raises:
        InvalidInput: a path that leaves its tree, a broken kind.
        DeniedError: a job lists files of another attempt or rank.
    """
    job = job_of(asker)
    for entry in entries:
        parts = entry.path.split("/")
        if entry.path.startswith("/") or "\0" in entry.path or any(part in ("", ".", "..") for part in parts):
            raise InvalidInput(f"{entry.path[:200]!r} is not a path inside the experiment's files")
        if not _KIND.fullmatch(entry.kind):
            raise InvalidInput(f"{entry.kind!r} is not a kind of file")
        if (entry.medium is not None) > (entry.kind == "media"):
            raise InvalidInput(f"a file of kind {entry.kind} is no medium")
        if job is not None and (entry.attempt, entry.rank) != (job.attempt, job.rank):
            raise DeniedError(
                f"attempt {job.attempt}, rank {job.rank} cannot list files of "
                f"attempt {entry.attempt}, rank {entry.rank}"
            )
