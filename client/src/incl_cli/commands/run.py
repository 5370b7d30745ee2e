"""incl run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem, common
from incl_cli.spec_options import add_spec_options

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_cli.submit import Plan, Preparation
    from incl_shared.spec import ExperimentSpec

TAKES_COMMAND = True
EXAMPLES = """  incl run train.yaml
  incl run train.yaml --env LR=0.1 --set resources.cpu=2
  incl run -- python train.py --epochs 10
  incl run --nodes 2 --env LR=0.1 --metric val_acc:max -- python train.py
  incl run train.yaml --sweep sweep.yaml     search its parameters, as incl sweep run does
  id=$(incl run --detach train.yaml)

Ctrl-C detaches: the experiment goes on (exit 130, as its outcome is not known yet).
Exit code 3: the experiment failed or was stopped."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.usage = "incl run [FILE] [options] [-- COMMAND ...]"
    parser.add_argument("file", nargs="?", metavar="FILE", help="an experiment file (docs/experiment-file.md)")
    parser.add_argument("--workdir", metavar="DIR", help="the folder to pack (that of FILE, or this one)")
    parser.add_argument("-d", "--detach", action="store_true", help="do not follow; print the id")
    parser.add_argument("--dry-run", action="store_true", help="check, pack and plan, but submit nothing")
    parser.add_argument("--follow", action="store_true", help="with --json: a line for each thing that happens")
    parser.add_argument("--sweep", metavar="FILE", help="search its parameters: a sweep file (docs/sweeps.md)")
    parser.add_argument("--id", metavar="ID", help="submit under this id: the same one twice is one experiment")
    add_spec_options(parser)
    common(parser)


def run(args: argparse.Namespace, session: Session) -> int:
    """Submit and follow. Not a coroutine: the threads begin before asyncio and the bus are imported."""
    _check(args)
    if args.sweep is not None:
        from incl_cli.run_sweep import submit

        return submit(args, session)
    from incl_cli.submit import Preparation

    preparation = Preparation()
    try:
        spec, workdir = read(args, Path.cwd())
        preparation.use(workdir)
        return session.run(_submit(args, session, spec, preparation))
    finally:
        preparation.close()


def _check(args: argparse.Namespace) -> None:
    if args.after is not None and not args.after:
        raise UsageProblem("there is no command after --", hint="incl run -- python train.py")
    if args.file is None and not args.after and args.sweep is None:
        raise UsageProblem("there is nothing to run", hint="incl run train.yaml, or incl run -- python train.py")
    if args.follow and args.detach:
        raise UsageProblem("--follow and --detach exclude each other")
    if args.image and args.no_image:
        raise UsageProblem("--image and --no-image exclude each other")
    if args.file is not None and not args.after and not args.file.endswith((".yaml", ".yml", ".json")):
        path = Path(args.file)
        if not path.exists() or path.suffix in (".py", ".sh") or path.stat().st_mode & 0o111:
            program = f"python {args.file}" if path.suffix == ".py" else args.file
            raise UsageProblem(
                f"{args.file[:80]!r} is not an experiment file", hint=f"to run a command: incl run -- {program}"
            )


def read(args: argparse.Namespace, here: Path) -> tuple[ExperimentSpec, Path]:
    """The spec of file and options, and the folder to pack.

    Raises:
        InvalidInput, NotFoundError: with file, line and what was meant.
    """
    from incl_cli.spec_options import absolute_data, overrides
    from incl_shared.specfile import Override, SpecDocument, load_document, override, validate

    base = (here / args.file).parent if args.file else here
    document = load_document(here / args.file) if args.file else SpecDocument("incl run", {})
    absolute_data(document, base)
    changes = overrides(args, document, here)
    if args.after:
        changes.append(Override(("command",), args.after, "the command after --"))
    if "project" not in document.values and args.project is None:
        changes.append(Override(("project",), usual_project(), "the context"))
    spec = validate(override(document, changes))
    if args.workdir is not None:
        return spec, here / Path(args.workdir).expanduser()
    return spec, base / spec.workdir if spec.workdir else base


def usual_project() -> str:
    """The project that the context names."""
    import os

    from incl_cli.context import load_context
    from incl_shared.errors import InclError

    try:
        return load_context().project
    except InclError:
        return os.environ.get("INCL_PROJECT", "default")


async def _submit(args: argparse.Namespace, session: Session, spec: ExperimentSpec, preparation: Preparation) -> int:
    import asyncio

    from incl_cli.submit import Plan, prepare, send
    from incl_shared.ids import new_id

    plan = Plan(_identifier(args.id) or new_id(), spec, ("run", *session.words))
    if args.dry_run:
        return await _dry_run(session, plan, preparation)
    if args.id is not None and await _there_already(args, session, plan):
        return await end(args, session, await session.platform(spec.project), plan)
    works = [
        asyncio.ensure_future(_checked(session, spec)),
        asyncio.ensure_future(prepare(plan, preparation, session.out)),
    ]
    try:
        platform, _ = await asyncio.gather(*works)
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
    await send(platform, plan, session.out)
    return await end(args, session, platform, plan)


async def _checked(session: Session, spec: ExperimentSpec) -> Any:
    from incl_cli.submit import check

    platform = await session.platform(spec.project)
    await check(platform, spec)
    return platform


async def _there_already(args: argparse.Namespace, session: Session, plan: Plan) -> bool:
    """Whether this very experiment was submitted before.

    Raises:
        ConflictError: another one has the id.
    """
    from incl_shared.errors import ConflictError, NotFoundError
    from incl_shared.ids import short
    from incl_shared.queries.tracker import GetExperiment

    platform = await session.platform(plan.spec.project)
    try:
        view = await platform.ask(GetExperiment(ref=plan.experiment))
    except NotFoundError:
        return False
    wanted = plan.spec.model_copy(update={"project": view.row.project}).model_dump(mode="json")
    there = view.spec.model_dump(mode="json") if view.spec is not None else None
    if wanted != there:
        differing = sorted(name for name in wanted if wanted[name] != there[name]) if there else []
        raise ConflictError(
            f"there is already another experiment with the id {plan.experiment}",
            cause=f"its {', '.join(differing)} differ{'s' if len(differing) == 1 else ''}"
            if differing
            else "it was run outside the platform",
            hint=f"leave out --id to submit a new one; incl show {short(plan.experiment)} shows the one that is there",
        )
    session.out.note(f"{plan.experiment} is already submitted" + ("" if args.detach else "; following it"), "dim")
    return True


def _identifier(given: str | None) -> str | None:
    from incl_shared.ids import is_id

    if given is not None and not is_id(given):
        raise UsageProblem(f"--id {given[:60]!r} is not an id", hint="26 letters and digits, as `incl run` prints them")
    return given


async def _dry_run(session: Session, plan: Any, preparation: Preparation) -> int:
    from incl_cli.planned import ask_plan, plan_lines
    from incl_cli.submit import prepare
    from incl_shared.errors import UnavailableError

    out = session.out
    await prepare(plan, preparation, out)
    checked, cloud = True, None
    try:
        platform = await _checked(session, plan.spec)
        cloud = await ask_plan(platform, plan.spec) if plan.spec.instance is not None else None
    except UnavailableError as error:
        checked = False
        out.note(f"warning: {error.message}: not checked whether it can run", "yellow")
    if out.as_json:
        spec = plan.spec.model_dump(mode="json", exclude_defaults=True)
        out.json({"spec": spec, "code": plan.code, "checked": checked, "plan": cloud})
        return 0
    from incl_shared.specfile import spec_text

    out.line(spec_text(plan.spec).rstrip())
    if cloud is not None:
        for line in plan_lines(out, cloud):
            out.note(line)
    out.note("nothing was submitted (--dry-run)" + ("; it can run here" if checked and cloud is None else ""), "dim")
    return 0


async def end(args: argparse.Namespace, session: Session, platform: Any, plan: Any) -> int:
    """After the submission: follow it, or print the id."""
    out = session.out
    if args.detach:
        if args.json:
            out.json({"id": plan.experiment, "name": plan.spec.name, "state": "submitted"})
        else:
            out.line(plan.experiment)
        return 0
    from incl_cli.follow import follow_to_end

    async def again() -> None:
        if plan.event is not None:
            await platform.publish(plan.event, identifier=plan.experiment)

    return await follow_to_end(platform, plan.experiment, out, events=args.follow and args.json, again=again)
