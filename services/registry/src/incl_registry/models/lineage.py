"""What made a version: collected when it is registered, and what of it is not known. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping

from incl_shared.queries.models import Hardware, Lineage, Measured, ModelFile
from incl_shared.queries.registry import Entry
from incl_shared.queries.tracker import SYSTEM_PREFIX, AttemptView, ExperimentView, MetricSummary
from incl_shared.spec import DataMount

_SEEDS = ("seed", "random_seed", "pl_global_seed", "pythonhashseed")
"""Names of a seed, cases folded, the most telling first."""
_MOST_METRICS = 100
_NEEDED = ("code", "provenance")


def collect(view: ExperimentView, attempt: int, kept: Iterable[Entry]) -> tuple[Lineage, tuple[ModelFile, ...]]:
    """The lineage of files that an attempt stored, and the files that it names.

    Args:
        view: the experiment, as the tracker knows it.
        kept: its files; those of its code and provenance stay as long as the version does.
    """
    needed = {entry.sha256: entry for entry in kept if entry.kind in _NEEDED}
    ran = next((one for one in view.attempts if one.attempt == attempt), view.attempts[-1] if view.attempts else None)
    spec, source = view.spec, view.provenance
    stored = {
        name: sha256 if sha256 in needed else None
        for name, sha256 in (
            ("code", view.code.sha256 if view.code else None),
            ("diff", source.diff_sha256),
            ("packages", source.packages_sha256),
        )
    }
    environment = dict(spec.env) if spec else {}
    lineage = Lineage(
        experiment=view.row.id, name=view.row.name, user=view.row.user, attempt=attempt,
        command=shlex.join(spec.command) if spec else source.command_line, outside=view.outside,
        submitted=view.row.created, code=stored["code"], git_commit=source.git_commit, git_branch=source.git_branch,
        git_remote=source.git_remote, git_dirty=source.git_dirty, diff=stored["diff"], packages=stored["packages"],
        python=source.python, image=spec.image if spec else None, image_digests=ran.images if ran else (),
        data=tuple(f"{mount.kind}={mount.text}" for mount in spec.data) if spec else (), environment=environment,
        config=dict(view.config), seed=_seed(environment, view.config), hardware=tuple(_hardware(ran)),
        metrics=dict(_measured(view.metrics)), spec=spec,
        code_files=view.code.files if view.code else 0,
    )  # fmt: skip
    named = {sha256 for sha256 in stored.values() if sha256 is not None}
    files = tuple(
        ModelFile(kind=entry.kind, path=entry.path, sha256=entry.sha256, size=entry.size, mode=entry.mode)
        for entry in sorted(needed.values(), key=lambda entry: (entry.kind, entry.path))
        if entry.sha256 in named
    )
    return lineage.model_copy(update={"missing": tuple(_missing(lineage, view))}), files


def _seed(*places: Mapping[str, str]) -> str | None:
    for name in _SEEDS:
        for place in places:
            for key, value in place.items():
                if key.rpartition(".")[2].casefold() == name:
                    return value
    return None


def _hardware(ran: AttemptView | None) -> Iterator[Hardware]:
    made = ran.machines if ran else None
    for place in ran.placements if ran else ():
        yield Hardware(
            rank=place.rank, node=place.node, gpus=len(place.gpus), machine=made.machine if made else "",
            zone=made.zone if made else "", spot=made.spot if made else False,
        )  # fmt: skip


def _measured(metrics: Iterable[MetricSummary]) -> Iterator[tuple[str, Measured]]:
    """The declared ones first. What is no number (NaN, infinite) is not kept: JSON has no word for it."""
    own = sorted((one for one in metrics if not one.name.startswith(SYSTEM_PREFIX)), key=lambda one: one.goal is None)
    for one in [one for one in own if math.isfinite(one.last)][:_MOST_METRICS]:
        best = one.best if one.best is not None and math.isfinite(one.best) else None
        yield one.name, Measured(last=one.last, best=best, goal=one.goal)


def _missing(lineage: Lineage, view: ExperimentView) -> Iterator[str]:
    """What somebody who wants to make it again has to find out otherwise."""
    if lineage.code is None:
        why = "ran outside the platform" if view.outside else "came without a working directory"
        yield f"code: the experiment {why}" if view.code is None else "code: its archive is not stored any more"
    if lineage.git_commit is None:
        yield "git commit: the working directory was in no repository"
    elif lineage.git_dirty and lineage.diff is None:
        yield "git diff: there were changes that were not committed, and they were not kept"
    if lineage.packages is None and lineage.image is None:
        yield "packages: no list of them was kept"
    if lineage.image is not None and not lineage.image_digests:
        yield f"image digest: which {lineage.image} it was is not known"
    yield from _data(view.spec.data if view.spec else ())
    if lineage.seed is None:
        yield "seed: none is among its environment or incl.config (seed, SEED)"
    if not lineage.hardware:
        yield "hardware: no machine is known"
    elif not all(one.machine for one in lineage.hardware):
        yield "hardware: of a node that joined only its name and its GPUs are known"


def _data(mounts: tuple[DataMount, ...]) -> Iterator[str]:
    """A snapshot of a disk never changes; whatever else is read has no version that could be kept."""
    read = [mount for mount in mounts if mount.scratch is None]
    if not read:
        yield "data: the experiment declares none (data: in its file)"
    for mount in read:
        if mount.snapshot is None:
            yield f"data version: {mount.text[:200]} may have changed since"
