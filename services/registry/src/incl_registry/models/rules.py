"""What may be a version, and of which files it is made. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from incl_registry.access import ARCHIVIST, job_of
from incl_registry.models.trail import canonical, digest
from incl_shared.archive import DIRECTORY_ENDING
from incl_shared.auth.names import Role
from incl_shared.errors import AmbiguousError, DeniedError, InvalidInput, NotFoundError
from incl_shared.ids import is_id
from incl_shared.queries.models import MOST_FILES, MOST_METADATA, MOST_TAGS, ModelFile, RegisterModel
from incl_shared.queries.registry import Entry
from incl_shared.subjects import Asker

FILE = "file"
KINDS = ("output", "checkpoint", "model")
"""Where a path is looked for when no kind is named."""
_LATEST = "latest"


def only_people(asker: Asker, what: str) -> None:
    """Refuse a job, and a service.

    Raises:
        DeniedError: it is none of a person.
    """
    if job_of(asker) is not None or asker.user in set(Role):
        raise DeniedError(f"only people {what}", hint="incl model --help, from your own command line")


def may_register(asker: Asker, experiment: str) -> None:
    """A person may, of any experiment of the project; a job, of its own.

    Raises:
        DeniedError: neither.
    """
    job = job_of(asker)
    if job is not None and job.experiment != experiment:
        raise DeniedError("a job may only register files of its own experiment")
    if asker.user == ARCHIVIST:
        raise DeniedError("only people and jobs register models")


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuse metadata that is too large, or no JSON.

    Raises:
        InvalidInput: it is.
    """
    try:
        size = len(json.dumps(metadata, allow_nan=False).encode())
    except (ValueError, RecursionError):
        raise InvalidInput("the metadata is no JSON", cause="NaN, an infinity, or nested too deeply") from None
    if size > MOST_METADATA:
        raise InvalidInput(
            f"the metadata is too large: {size:,} bytes, at most {MOST_METADATA:,}",
            hint="what is larger is an output: put it into a file, and register that with the model",
        )


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Each once, sorted.

    Raises:
        InvalidInput: they are too many.
    """
    found = tuple(sorted(set(tags)))
    if len(found) > MOST_TAGS:
        raise InvalidInput(f"{len(found)} tags are too many: at most {MOST_TAGS}")
    return found


def merged(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with some keys set; null takes one away (RFC 7396, for the keys of the first level)."""
    return {key: value for key, value in {**old, **changes}.items() if value is not None}


def check_name(model: str) -> None:
    """Refuse a name that has the form of an id: events are kept and replayed by the names of what they tell of.

    Raises:
        InvalidInput: it has.
    """
    if is_id(model):
        raise InvalidInput(f"{model} cannot be a model", cause="it has the form of an experiment's id", hint="a word")


def check_alias(alias: str) -> None:
    """Refuse an alias that looks like a number, or like what is no alias.

    Raises:
        InvalidInput: it is one.
    """
    if alias.isdigit() or alias == _LATEST:
        why = "it is a number" if alias.isdigit() else "a model without anything behind it is its latest version"
        raise InvalidInput(f"{alias!r} cannot be an alias", cause=why, hint="a word such as production or staging")


def clean_path(path: str) -> str:
    """A path inside an experiment's files.

    Raises:
        InvalidInput: it leads out.
    """
    trimmed = path.removeprefix("./").rstrip("/")
    parts = trimmed.split("/")
    if not trimmed or "\0" in path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise InvalidInput(
            f"{path[:200]!r} is not a path inside the experiment's files", hint="incl download EXPERIMENT --list"
        )
    return trimmed


def choose(query: RegisterModel, entries: Sequence[Entry], *, running: bool) -> tuple[int, tuple[ModelFile, ...]]:
    """The attempt, and the files of a version: of the newest attempt that has the path (and of its newest step).

    The name of a checkpoint finds the newest one of that name: they are listed as <step>/<name>.

    Raises:
        NotFoundError: no such file. AmbiguousError: several kinds or ranks have it. InvalidInput: too many files.
    """
    path = clean_path(query.path)
    wanted = [
        entry
        for entry in entries
        if entry.kind in ([query.kind] if query.kind else KINDS)
        and query.attempt in (None, entry.attempt)
        and query.rank in (None, entry.rank)
    ]
    fitting = [(under, entry) for entry in wanted if (under := _under(path, entry.path)) is not None] or [
        (under, entry)
        for entry in wanted
        if entry.kind == "checkpoint" and (under := _under(path, entry.path.partition("/")[2])) is not None
    ]
    if not fitting:
        raise _no_such(path, entries, running=running)
    kinds = sorted({entry.kind for _, entry in fitting})
    if len(kinds) > 1:
        raise AmbiguousError(f"{path!r} is there as {' and '.join(kinds)}", hint=f"--kind {kinds[0]}")
    newest = max((entry.attempt, entry.step or 0) for _, entry in fitting)
    files = [(under, entry) for under, entry in fitting if (entry.attempt, entry.step or 0) == newest]
    twice = [under for under, count in Counter(under for under, _ in files).items() if count > 1]
    if twice:
        ranks = sorted({entry.rank for under, entry in files if under == twice[0]})
        raise AmbiguousError(
            f"{path!r} was stored by the ranks {', '.join(map(str, ranks))}", hint=f"--rank {ranks[0]}"
        )
    if len(files) > MOST_FILES:
        raise InvalidInput(f"{len(files):,} files are too many for a version: at most {MOST_FILES:,}")
    return newest[0], tuple(
        ModelFile(kind=FILE, path=under, sha256=entry.sha256, size=entry.size, mode=entry.mode)
        for under, entry in sorted(files, key=lambda pair: pair[0])
    )


def _under(path: str, listed: str) -> str | None:
    """Where a listed file lies in the version that `path` makes; none: it does not belong to it."""
    name = path.rpartition("/")[2]
    if listed == path:
        return name
    if listed == path + DIRECTORY_ENDING:
        return name + DIRECTORY_ENDING
    return listed[len(path) + 1 :] if listed.startswith(f"{path}/") else None


def _no_such(path: str, entries: Sequence[Entry], *, running: bool) -> NotFoundError:
    known = sorted({entry.path for entry in entries if entry.kind in KINDS})
    cause = f"there are: {', '.join(known[:8])}{' …' if len(known) > 8 else ''}" if known else "it kept no files"
    hint = "incl download EXPERIMENT --list; links that lead out of the outputs are not kept"
    if running:
        cause += "; it still runs, and outputs are stored when it ends"
        hint = "wait for its end, or call incl.register_model in the script"
    return NotFoundError(f"the experiment has no file or folder {path[:200]!r}", cause=cause, hint=hint)


def manifest(files: Collection[ModelFile]) -> str:
    """The name of the content of a version: the sha256 of its list of files."""
    listed = sorted([file.path, file.sha256, file.size] for file in files if file.kind == FILE)
    return digest(canonical(listed))


def seal(text: str) -> str:
    """A text as the audit trail tells of it: by its sha256, so that it can be purged and not be changed unseen."""
    return digest(text)


def sealed(row: Mapping[str, Any]) -> dict[str, Any]:
    """What people say of a model or a version (columns as they are stored), as the audit trail tells of it."""
    return {"note": seal(row["note"]), "tags": json.loads(row["tags"]), "metadata": seal(row["metadata"])}
