"""Where the platform is, and as whom we speak to it: ~/.config/incl/context.json.

`incl up` and `incl login` write it; INCL_CONTEXT_FILE names another file. It holds no secret itself: `creds` is the
path of the bus credential, which only its owner may read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from incl_cli.places import context_file

_PROJECT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")


@dataclass(frozen=True)
class Context:
    """A platform. urls: of the bus; creds: path of a NATS .creds file; data_dir: of a platform on this machine."""

    urls: tuple[str, ...]
    creds: str | None
    project: str
    user: str
    gateway_url: str | None = None
    data_dir: str | None = None
    inbox_prefix: str | None = None
    registry: str | None = None

    @property
    def inbox(self) -> str:
        """Where answers come, by the name of the person unless told otherwise."""
        return self.inbox_prefix or f"_INBOX.person.{self.user}"


def save_context(context: Context, path: Path | None = None) -> Path:
    """Write the context, for its owner's eyes only, in one step; the path.

    Raises:
        InvalidInput: the place cannot be written.
    """
    target = path or context_file()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(asdict(context), stream, indent=2)
            stream.write("\n")
        partial.replace(target)
    except OSError as error:
        from incl_shared.errors import InvalidInput

        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise InvalidInput(
            f"cannot write {target}", cause=error.strerror or str(error), hint="set INCL_CONTEXT_FILE to another place"
        ) from error
    return target


def load_context(path: Path | None = None, *, project: str | None = None) -> Context:
    """The context in use. INCL_PROJECT, or `project`, takes the place of its project.

    Raises:
        UnavailableError: there is none: no platform was started or logged in to.
        InvalidInput: the file is damaged, or the project is no name.
    """
    from incl_shared.errors import InvalidInput, UnavailableError

    target = path or context_file()
    try:
        values: Any = json.loads(target.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnavailableError(
            "no platform is known here",
            cause=f"there is no {target}",
            hint="incl up (on this machine), or incl login URL (elsewhere)",
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"cannot read {target}", cause=str(error), hint="incl up writes it again, and so does incl login"
        ) from error
    try:
        known = {name: values[name] for name in Context.__dataclass_fields__ if name in values}
        context = Context(**{**known, "urls": tuple(str(url) for url in known["urls"])})
        _check(context)
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidInput(
            f"{target} is not a context", cause=str(error), hint="incl up writes it again, and so does incl login"
        ) from error
    return _in_project(context, project or os.environ.get("INCL_PROJECT"))


def _check(context: Context) -> None:
    if not context.urls or not isinstance(context.project, str) or not isinstance(context.user, str):
        raise ValueError("urls, project and user are needed")


def _in_project(context: Context, project: str | None) -> Context:
    if project is None:
        return context
    if not _PROJECT.fullmatch(project):
        from incl_shared.errors import InvalidInput

        raise InvalidInput(f"{project[:80]!r} is not a project name", hint="letters, digits, - and _, at most 63")
    return Context(**{**asdict(context), "urls": context.urls, "project": project})


def exposed(context: Context, path: Path | None = None) -> list[str]:
    """Complaints about files that others can read or write, each with the command that mends it."""
    found = []
    for file in (path or context_file(), Path(context.creds) if context.creds else None):
        if file is None:
            continue
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except OSError:
            continue
        if mode & 0o077:
            found.append(f"others can read {file} (mode {mode:o}): chmod 600 {file}")
    return found
