"""incl sweep run: read the file, pack, check, upload, publish; then follow."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_cli.submit import Plan, Preparation
    from incl_shared.events import SweepSubmitted
    from incl_shared.specfile import Override, SpecDocument
    from incl_shared.sweep import SweepSpec

    Reader = Callable[[argparse.Namespace, Path], tuple[SweepSpec, Path]]

_CHECK_S = 60.0
"""The first question after a start waits until Optuna is imported."""
_OPTIONS = {
    "trials": ("budget", "trials"),
    "hours": ("budget", "hours"),
    "money": ("budget", "money"),
    "parallel": ("parallel",),
    "seed": ("seed",),
}


def submit(args: argparse.Namespace, session: Session) -> int:
    """The exit code: 0 it found something, 3 it failed or was stopped, 130 detached."""
    return submit_as("sweep", args, session, read)


def submit_as(command: str, args: argparse.Namespace, session: Session, reader: Reader) -> int:
    """The same, for the command that was given; reader: gives the sweep and the folder to pack."""
    from incl_cli.submit import Preparation

    preparation = Preparation()
    try:
        spec, workdir = reader(args, Path.cwd())
        preparation.use(workdir)
        return session.run(_submit(args, session, spec, preparation, command))
    finally:
        preparation.close()


def read(args: argparse.Namespace, here: Path) -> tuple[SweepSpec, Path]:
    """The sweep of file and options, and the folder to pack.

    Raises:
        InvalidInput, NotFoundError: with file, line and what was meant.
    """
    from incl_cli.spec_options import absolute_data, plain
    from incl_shared.specfile import Override, SpecDocument
    from incl_shared.sweepfile import experiment_folder, load_sweep

    path = here / Path(args.file).expanduser()
    document = load_sweep(path)
    base = experiment_folder(path)
    experiment = document.values.get("experiment")
    if isinstance(experiment, dict):
        absolute_data(SpecDocument(document.source, experiment), base)
    changes = [
        Override(at, plain(value), f"--{option}")
        for option, at in _OPTIONS.items()
        if (value := getattr(args, option)) is not None
    ]
    if args.algorithm is not None:  # its options are none of another one's
        document.values["algorithm"] = {"name": args.algorithm}
        document.places[("algorithm",)] = "--algorithm"
    elif isinstance(document.values.get("algorithm"), str):
        document.values["algorithm"] = {"name": document.values["algorithm"]}
    return finished(args, document, path, base, changes + _sets(args))


def finished(
    args: argparse.Namespace, document: SpecDocument, path: Path, base: Path, changes: list[Override]
) -> tuple[SweepSpec, Path]:
    """The sweep with its name and project, and the folder to pack. base: what relative paths start from."""
    from incl_cli.commands.run import usual_project
    from incl_shared.specfile import Override
    from incl_shared.sweepfile import validate_sweep

    changes = [*changes, *_project(document.values, args.project, usual_project)]
    if args.name is not None:
        changes.append(Override(("name",), args.name, "--name"))
    elif "name" not in document.values:
        changes.append(Override(("name",), path.stem, "the file's name"))
    spec = validate_sweep(document, changes)
    if args.workdir is not None:
        return spec, Path.cwd() / Path(args.workdir).expanduser()
    return spec, base / spec.experiment.workdir if spec.experiment.workdir else base


def _sets(args: argparse.Namespace) -> list[Override]:
    from incl_cli.spec_options import set_override

    return [set_override(item, ("experiment", "env")) for item in args.set or ()]


def _project(values: dict[str, Any], given: str | None, usual: Any) -> list[Override]:
    """The project of the sweep and of its experiment, where neither the file nor an option says it."""
    from incl_shared.specfile import Override

    experiment = values.get("experiment")
    inner = experiment.get("project") if isinstance(experiment, dict) else None
    if given is not None:
        label = "--project"
        return [Override(("project",), given, label), Override(("experiment", "project"), given, label)]
    if "project" in values:
        return []
    return [
        Override(at, inner or usual(), "the context") for at in (("project",), ("experiment", "project"))
        if at == ("project",) or isinstance(experiment, dict)
    ]  # fmt: skip


async def _submit(
    args: argparse.Namespace, session: Session, spec: SweepSpec, preparation: Preparation, command: str
) -> int:
    from incl_cli.submit import Plan, prepare, store
    from incl_shared.ids import new_id

    out = session.out
    plan = Plan(new_id(), spec.experiment, (command, *session.words))
    spec = await _with_earlier(args, session, spec)
    works = [
        asyncio.ensure_future(_checked(session, spec)),
        asyncio.ensure_future(prepare(plan, preparation, out)),
    ]
    try:
        platform, _ = await asyncio.gather(*works)
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
    if args.dry_run:
        return _dry_run(session, spec)
    await store(platform, plan, out)
    await _publish(session, platform, _event(plan, spec))
    return await _end(args, session, platform, plan.experiment, spec)


async def _with_earlier(args: argparse.Namespace, session: Session, spec: SweepSpec) -> SweepSpec:
    """The sweeps that it begins with by their ids.

    Raises:
        NotFoundError: there is no such sweep.
        ConflictError: it was about something else.
    """
    from incl_shared.errors import ConflictError
    from incl_shared.queries.hpo import GetSweep

    refs = (*spec.warm_start, *(getattr(args, "warm_start", None) or ()))
    if not refs:
        return spec
    platform = await session.platform(spec.project)
    views = [await platform.ask(GetSweep(ref=ref)) for ref in refs]
    for view in views:
        if view.spec.objective != spec.objective:
            raise ConflictError(
                f"sweep {view.row.name} had another objective: what it taught says nothing here",
                hint="leave it out of warm_start",
            )
    return spec.model_copy(update={"warm_start": tuple(view.row.id for view in views)})


async def _checked(session: Session, spec: SweepSpec) -> Any:
    from incl_cli.submit import check

    platform = await session.platform(spec.project)
    await check(platform, spec.experiment)
    await _check_algorithm(platform, spec)
    await _check_price(session, platform, spec)
    await _warn_of_room(session, platform, spec)
    return platform


async def _check_algorithm(platform: Any, spec: SweepSpec) -> None:
    """Optuna's samplers need not be there, and only Optuna knows their options.

    Raises:
        UnsupportedError: it cannot be used.
    """
    from incl_shared.queries.hpo import CheckAlgorithm

    if spec.algorithm.of_optuna:
        objectives, constraints = len(spec.objective), len(spec.constraints)
        query = CheckAlgorithm(
            algorithm=spec.algorithm, parameters=spec.parameters, objectives=objectives, constraints=constraints
        )
        await platform.ask(query, timeout=_CHECK_S)


async def _check_price(session: Session, platform: Any, spec: SweepSpec) -> None:
    """Money can be kept to only where it is known what machines cost.

    Raises:
        UnsupportedError: it is not.
    """
    from incl_shared.errors import UnsupportedError
    from incl_shared.queries.provisioner import PlanExperiment

    money = spec.budget.money
    if money is None:
        return
    plan = await platform.ask(PlanExperiment(spec=spec.experiment.model_dump(mode="json")))
    price = plan.price_spot if plan.spot else plan.price_on_demand
    if not plan.cloud or price is None:
        why = f"the price of {plan.machine} is not in the list" if plan.cloud else "no cloud is configured"
        raise UnsupportedError(
            "budget: money: it is not known what an hour of the machines costs",
            cause=why,
            hint="give trials or hours; an operator names prices by INCL_PROVISIONER_PRICES",
        )
    session.out.note(
        f"{money:g} {plan.currency} is {money / price:.3g} h of {plan.nodes} x {plan.machine} at {price:.3g} an hour",
        "dim",
    )


async def _warn_of_room(session: Session, platform: Any, spec: SweepSpec) -> None:
    """More trials at once than machines have room for wait in the queue: said, as it is seldom meant."""
    from incl_shared.queries.provisioner import GetCluster

    if spec.experiment.instance is not None:
        return
    nodes = [node for node in (await platform.ask(GetCluster())).nodes if node.alive]
    wanted = spec.experiment.resources
    fitting = sum(
        min(
            int(node.cpu / wanted.cpu + 1e-9),
            int(node.memory // wanted.memory) if wanted.memory else 10**6,
            node.gpus // wanted.gpu if wanted.gpu else 10**6,
        )
        for node in nodes
    )
    at_once = fitting // spec.experiment.nodes
    if nodes and at_once < spec.parallel:
        session.out.note(
            f"warning: parallel is {spec.parallel}, but the machines have room for {at_once} at once: the others wait "
            "in the queue",
            "yellow",
        )


def _dry_run(session: Session, spec: SweepSpec) -> int:
    from incl_shared.sweepfile import sweep_text

    out = session.out
    if out.as_json:
        out.json({"spec": spec.model_dump(mode="json", exclude_defaults=True)})
    else:
        out.line(sweep_text(spec).rstrip())
        out.note("nothing was submitted (--dry-run)", "dim")
    return 0


def _event(plan: Plan, spec: SweepSpec) -> SweepSubmitted:
    from incl_cli.provenance import tools
    from incl_shared.errors import InvalidInput
    from incl_shared.events import Provenance, Submitter, SweepSubmitted
    from incl_shared.machine import machine_hash

    event = SweepSubmitted(
        sweep=plan.experiment,
        spec=spec,
        code=plan.code,
        provenance=Provenance(**plan.provenance),
        submitter=Submitter(machine=machine_hash(), environment=tools()),
    )
    if len(event.model_dump_json()) > 500_000:
        raise InvalidInput(
            "the sweep's description is larger than 500 kB",
            cause="the experiment, the parameters and the initial points are part of it",
            hint="put long texts into files of the working directory",
        )
    return event


async def _publish(session: Session, platform: Any, event: SweepSubmitted) -> None:
    from incl_shared.bus.errors import BackPressure
    from incl_shared.errors import UnavailableError

    session.out.note(f"submitting sweep {event.sweep}", "dim")
    try:
        await platform.publish(event, identifier=event.sweep)
    except BackPressure:
        raise
    except UnavailableError as error:
        raise UnavailableError(
            f"{error.message}; it may have arrived all the same",
            cause=error.cause,
            hint=f"incl sweep show {event.sweep[-8:]} tells",
        ) from error


async def _end(args: argparse.Namespace, session: Session, platform: Any, identifier: str, spec: SweepSpec) -> int:
    if args.detach:
        if args.json:
            session.out.json({"id": identifier, "name": spec.name, "state": "submitted"})
        else:
            session.out.line(identifier)
        return 0
    from incl_cli.sweep_follow import follow

    return await follow(platform, identifier, session.out)
