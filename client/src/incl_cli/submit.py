"""Submitting: pack, check, upload, publish. What can go on at once does.

The id is made here and told before anything is published: a lost connection leaves something to look for, and a second
submission with the same id is the same experiment.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.provenance import GitState, PythonState, command_line, git_state, python_state, tools
from incl_cli.text import duration, plural, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incl_cli.output import Output
    from incl_cli.platform import Blob, Platform
    from incl_shared.archive.pack import PackResult
    from incl_shared.events import CodeRef, ExperimentSubmitted
    from incl_shared.spec import ExperimentSpec

CODE_PATH, DIFF_PATH, PACKAGES_PATH = "code.tar.zst", "uncommitted.diff", "packages.txt"


class Preparation:
    """The work that needs no platform, in threads of its own; begun before the heavy imports."""

    def __init__(self) -> None:
        self.started = time.time()
        self._pool = ThreadPoolExecutor(3, "incl-prepare")
        self._folder = tempfile.TemporaryDirectory(prefix="incl-", ignore_cleanup_errors=True)
        self._python: Future[PythonState] = self._pool.submit(python_state)
        self._git: Future[GitState] | None = None
        self._pack: Future[tuple[PackResult, float]] | None = None

    def use(self, workdir: Path) -> None:
        """Begin to look at the working directory."""
        self._git = self._pool.submit(git_state, workdir)
        self._pack = self._pool.submit(self._packed, workdir)

    def _packed(self, workdir: Path) -> tuple[PackResult, float]:
        from incl_shared.archive.pack import pack

        return pack(workdir, Path(self._folder.name) / CODE_PATH), time.time()

    async def result(self) -> tuple[PackResult, float, GitState, PythonState]:
        """The archive, when it was ready, git and Python.

        Raises:
            InvalidInput: the working directory cannot be packed.
        """
        if self._pack is None or self._git is None:
            raise RuntimeError("use() comes first")
        packed, at = await asyncio.wrap_future(self._pack)
        return packed, at, await asyncio.wrap_future(self._git), await asyncio.wrap_future(self._python)

    def close(self) -> None:
        """Remove the archive."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._folder.cleanup()


@dataclass
class Plan:
    """Everything that makes a submission."""

    experiment: str
    spec: ExperimentSpec
    words: Sequence[str]
    rerun_of: str | None = None
    code: CodeRef | None = None
    blobs: list[tuple[str, str, Blob]] = field(default_factory=list)
    """(kind, path, bytes) to store."""
    times: tuple[float, float, float] = (0.0, 0.0, 0.0)
    provenance: dict[str, Any] = field(default_factory=dict)
    event: ExperimentSubmitted | None = None
    """What was published, to be published again should the bus lose it."""


async def prepare(plan: Plan, preparation: Preparation, out: Output) -> None:
    """Fill a plan with the working directory's archive and where it comes from."""
    from incl_cli.platform import Blob
    from incl_shared.events import CodeRef

    packed, packed_at, git, python = await preparation.result()
    plan.code = CodeRef(sha256=packed.sha256, size=packed.size, files=packed.files)
    plan.blobs.append(("code", CODE_PATH, Blob(packed.sha256, packed.size, packed.path)))
    for path, content in ((DIFF_PATH, git.diff), (PACKAGES_PATH, python.packages)):
        if content:
            plan.blobs.append(("provenance", path, Blob(hashlib.sha256(content).hexdigest(), len(content), content)))
    kept = {path: blob.sha256 for _, path, blob in plan.blobs}
    plan.times = (preparation.started, packed_at, packed_at)
    plan.provenance = {
        "command_line": command_line(plan.words),
        "git_commit": git.commit,
        "git_branch": git.branch,
        "git_remote": git.remote,
        "git_dirty": git.dirty,
        "diff_sha256": kept.get(DIFF_PATH),
        "packages_sha256": kept.get(PACKAGES_PATH),
        "python": python.version,
        "rerun_of": plan.rerun_of,
    }
    took = duration(packed_at - preparation.started)
    out.note(f"packed {plural(packed.files, 'file')}, {size(packed.bytes)} → {size(packed.size)} in {took}", "dim")
    for warning in (*packed.warnings, git.note):
        if warning:
            out.note(f"warning: {warning}", "yellow")


async def check(platform: Platform, spec: ExperimentSpec) -> None:
    """Refuse what cannot be honoured, before anything is sent.

    Raises:
        UnsupportedError: by the provisioner, with the reason.
        NotFoundError: secrets that do not exist.
    """
    from incl_shared.queries.provisioner import CheckFeasible

    await asyncio.gather(
        platform.ask(CheckFeasible(spec=spec.model_dump(mode="json"))), _check_secrets(platform, spec.read_secrets)
    )


async def _check_secrets(platform: Platform, wanted: Sequence[str]) -> None:
    if not wanted:
        return
    from incl_cli.arguments import did_you_mean
    from incl_shared.errors import NotFoundError
    from incl_shared.queries.gateway import ListSecrets

    known = (await platform.ask(ListSecrets())).names
    missing = [name for name in wanted if name not in known]
    if missing:
        raise NotFoundError(
            f"there is no secret {', '.join(missing)} in project {platform.context.project}",
            hint=did_you_mean(missing[0], known) or f"incl secret set {missing[0]}",
        )


async def send(platform: Platform, plan: Plan, out: Output) -> None:
    """Upload and publish. What is stored already is not sent again.

    Raises:
        UnavailableError: the connection was lost; the hint says how to see whether the experiment arrived.
    """
    from incl_shared.events import ClientTimes, ExperimentSubmitted, Provenance, Submitter
    from incl_shared.ids import short
    from incl_shared.machine import machine_hash

    began = time.time()
    await store(platform, plan, out)
    started, packed, _ = plan.times
    event = ExperimentSubmitted(
        experiment=plan.experiment,
        spec=plan.spec,
        code=plan.code,
        provenance=Provenance(**plan.provenance),
        submitter=Submitter(machine=machine_hash(), environment=tools()),
        times=ClientTimes(started=started or began, packed=packed or began, uploaded=time.time()),
    )
    _check_size(event)
    plan.event = event
    out.note(f"submitting {plan.experiment}", "dim")
    await _publish(platform, event, short(plan.experiment))


async def store(platform: Platform, plan: Plan, out: Output) -> None:
    """Upload what a plan has to store. What is there already is not sent again."""
    if not plan.blobs:
        return
    from incl_shared.queries.registry import CommitArtifacts, Entry

    new = await platform.upload(plan.experiment, [blob for _, _, blob in plan.blobs], lambda count: None)
    if not new:
        out.note("code unchanged: nothing to upload", "dim")
    entries = tuple(Entry(kind=kind, path=path, sha256=blob.sha256, size=blob.size) for kind, path, blob in plan.blobs)
    await platform.ask(CommitArtifacts(experiment=plan.experiment, entries=entries))


def _check_size(event: ExperimentSubmitted) -> None:
    from incl_shared.errors import InvalidInput

    limit = 700_000
    if len(event.model_dump_json()) > limit:
        raise InvalidInput(
            "the experiment's description is larger than 700 kB",
            cause="command, env and notes are part of it",
            hint="put long texts into files of the working directory",
        )


async def _publish(platform: Platform, event: ExperimentSubmitted, name: str) -> None:
    from incl_shared.bus.errors import BackPressure
    from incl_shared.errors import UnavailableError

    try:
        await platform.publish(event, identifier=event.experiment)
    except BackPressure:  # refused: it cannot have arrived
        raise
    except UnavailableError as error:
        raise UnavailableError(
            f"{error.message}; it may have arrived all the same",
            cause=error.cause,
            hint=f"incl show {name} tells; the same command with --id {event.experiment} never makes a second one",
        ) from error
