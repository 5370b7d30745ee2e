"""incl rerun."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from incl_cli.arguments import common
from incl_cli.spec_options import add_spec_options

if TYPE_CHECKING:
    from incl_cli.origin import Origin
    from incl_cli.running import Session
    from incl_shared.spec import ExperimentSpec

TAKES_COMMAND = True
EXAMPLES = """  incl rerun @last
  incl rerun 3f9k2x7q --env LR=0.01 --name lower-lr
  incl rerun 3f9k2x7q -- python train.py --epochs 20
  incl rerun chest-xray:3                     what made this version of a model, also when it is deleted

The code is the very same archive; the working directory is not looked at."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.usage = "incl rerun [EXPERIMENT] [options] [-- COMMAND ...]"
    parser.add_argument(
        "experiment", nargs="?", default="@last", help="id, the end of one, name, @last (default), chest-xray:3"
    )
    parser.add_argument("-d", "--detach", action="store_true", help="do not follow; print the id")
    parser.add_argument("--follow", action="store_true", help="with --json: a line for each thing that happens")
    add_spec_options(parser)
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Submit the same code with the same spec, but for what the options change."""
    from incl_cli import origin
    from incl_cli.arguments import UsageProblem
    from incl_cli.commands.run import end
    from incl_cli.platform import Blob
    from incl_cli.submit import Plan, check, send
    from incl_shared.ids import new_id

    if args.follow and args.detach:
        raise UsageProblem("--follow and --detach exclude each other")
    if args.after is not None and not args.after:
        raise UsageProblem("there is no command after --", hint="incl rerun @last -- python train.py")
    platform = await session.platform()
    source = await origin.of(platform, args.experiment)
    spec = _spec(args, source)
    plan = Plan(new_id(), spec, ("rerun", *session.words), rerun_of=source.experiment, code=source.code)
    if spec.project != platform.context.project:
        raise UsageProblem(
            f"{source.name} belongs to project {platform.context.project}",
            hint="its code is stored there; to run it elsewhere: incl download --kind code, then incl run --project",
        )
    await check(platform, spec)
    plan.blobs = [(kind, path, Blob(sha256, size, None)) for kind, path, sha256, size in source.kept]
    plan.provenance = source.provenance | {"rerun_of": source.experiment}
    session.out.note(f"again: {source.name} ({source.experiment})", "dim")
    await send(platform, plan, session.out)
    return await end(args, session, platform, plan)


def _spec(args: argparse.Namespace, source: Origin) -> ExperimentSpec:
    from incl_cli.spec_options import overrides
    from incl_shared.errors import ConflictError
    from incl_shared.specfile import Override, SpecDocument, override, validate

    if source.spec is None:
        raise ConflictError(
            f"{source.name} ran outside the platform: there is nothing to run again", hint="incl run -- COMMAND"
        )
    document = SpecDocument(source.name, source.spec.model_dump(mode="json", exclude_unset=True))
    changes = overrides(args, document, Path.cwd())
    if args.after:
        changes.append(Override(("command",), args.after, "the command after --"))
    return validate(override(document, changes))
