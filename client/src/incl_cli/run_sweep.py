"""incl run --sweep: what `incl run` would run, searched as a sweep file says; the same as incl sweep run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from incl_cli.arguments import UsageProblem

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_shared.sweep import SweepSpec


def submit(args: argparse.Namespace, session: Session) -> int:
    """The exit code, as of `incl sweep run`."""
    from incl_cli.sweep_submit import submit_as

    if args.id is not None or args.follow:
        name = "--id" if args.id is not None else "--follow"
        raise UsageProblem(f"{name} is of one experiment, not of a sweep", hint=f"leave {name} or --sweep out")
    return submit_as("run", args, session, read)


def read(args: argparse.Namespace, here: Path) -> tuple[SweepSpec, Path]:
    """The sweep of the sweep file, with the experiment of file, options and command; and the folder to pack.

    Raises:
        InvalidInput, NotFoundError: with file, line and what was meant.
    """
    from incl_cli.commands import run
    from incl_cli.spec_options import absolute_data, overrides
    from incl_cli.sweep_submit import finished
    from incl_shared.errors import InvalidInput
    from incl_shared.specfile import Override, SpecDocument
    from incl_shared.sweepfile import HINT, experiment_folder, load_sweep

    path = here / Path(args.sweep).expanduser()
    document = load_sweep(path)
    if args.file is None and not args.after:
        base = experiment_folder(path)
        inner = SpecDocument(document.source, document.values.get("experiment") or {})
        absolute_data(inner, base)
        changes = [
            Override(("experiment", *one.path), one.value, one.label)
            for one in overrides(args, inner, here)
            if one.path != ("name",)
        ]
        return finished(args, document, path, base, changes)
    if "experiment" in document.values:
        other = args.file or "the command after --"
        raise InvalidInput(
            f"{document.place(('experiment',))}: the sweep has an experiment of its own, and {other} is another",
            hint=f"leave one of them out; {HINT}",
        )
    spec, folder = run.read(args, here)
    values = spec.model_dump(mode="json", exclude_defaults=True)
    changes = [Override(("experiment",), values, args.file or "incl run")]
    if "project" not in document.values:
        changes.append(Override(("project",), spec.project, "the experiment's project"))
    sweep, _ = finished(args, document, path, here, changes)
    return sweep, folder
