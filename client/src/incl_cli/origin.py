"""What is run again: an experiment, or what made a version of a model, also when its experiment is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incl_cli.model_names import Reference
    from incl_cli.platform import Platform
    from incl_shared.events import CodeRef
    from incl_shared.queries.models import Lineage
    from incl_shared.spec import ExperimentSpec


@dataclass(frozen=True)
class Origin:
    """kept: (kind, path, sha256, size) of its code and provenance, which the artifact store has."""

    name: str
    experiment: str
    spec: ExperimentSpec | None
    code: CodeRef | None
    provenance: dict[str, Any]
    kept: list[tuple[str, str, str, int]]


async def of(platform: Platform, reference: str) -> Origin:
    """By an experiment's id or name, or a version of a model: chest-xray:3, chest-xray@production.

    Raises:
        NotFoundError: there is none.
    """
    from incl_cli import model_names

    if model_names.is_version(reference):
        return await _of_version(platform, model_names.parse(reference))
    from incl_cli.artifacts import every
    from incl_cli.look import find

    view = await find(platform, reference)
    entries = [entry for entry in await every(platform, view.row.id) if entry.kind in ("code", "provenance")]
    kept = [(entry.kind, entry.path, entry.sha256, entry.size) for entry in entries]
    return Origin(view.row.name, view.row.id, view.spec, view.code, view.provenance.model_dump(), kept)


async def _of_version(platform: Platform, reference: Reference) -> Origin:
    from incl_cli import model_names
    from incl_shared.errors import ConflictError
    from incl_shared.events import CodeRef

    view = await model_names.version(platform, reference)
    made = view.lineage
    if made is None or made.spec is None:
        outside = "its experiment ran outside the platform" if made and made.outside else "its record has no spec"
        raise ConflictError(
            f"{view.model}:{view.number} cannot be run again", cause=outside, hint="incl run -- COMMAND"
        )
    files = await model_names.files(platform, view, kinds=("code", "provenance"))
    kept = [(file.kind, file.path, file.sha256, file.size) for file in files]
    sizes = {file.sha256: file.size for file in files}
    code = None
    if made.code is not None and made.code in sizes:
        code = CodeRef(sha256=made.code, size=sizes[made.code], files=made.code_files)
    name = made.name or view.model
    return Origin(name, view.experiment, made.spec, code, _provenance(made), kept)


def _provenance(made: Lineage) -> dict[str, Any]:
    return {
        "git_commit": made.git_commit, "git_branch": made.git_branch, "git_remote": made.git_remote,
        "git_dirty": made.git_dirty, "diff_sha256": made.diff, "packages_sha256": made.packages, "python": made.python,
    }  # fmt: skip
