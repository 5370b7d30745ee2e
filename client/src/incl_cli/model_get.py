"""incl model get: the files of a version, into a folder or into the cache."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from incl_cli import model_names
from incl_cli.arguments import UsageProblem

if TYPE_CHECKING:
    from incl_cli.running import Session


async def get(args: argparse.Namespace, session: Session) -> int:
    """Fetch what is not there already with the same bytes."""
    from incl_cli.commands.download import fetch
    from incl_shared.queries.models import ModelGrant
    from incl_shared.queries.registry import Entry

    if args.cache and (args.output or args.force):
        raise UsageProblem("--cache takes neither --output nor --force: the cache has a place of its own")
    reference = model_names.parse(args.reference)
    platform = await session.platform(args.project)
    view = await model_names.version(platform, reference)
    files = await model_names.files(platform, view)
    if args.cache:
        from incl_cli import model_cache

        folder, fetched = await model_cache.local(platform, view, files, lambda _: None)
        path = model_cache.path_in(folder, files)
        if args.json:
            session.out.json({"model": view.model, "number": view.number, "path": str(path), "fetched": fetched})
        else:
            session.out.line(str(path))
        return 0
    entries = [
        Entry(kind="output", path=file.path, sha256=file.sha256, size=file.size, mode=file.mode) for file in files
    ]
    root = Path(args.output) if args.output else Path(f"{view.model}-{view.number}")
    called = f"{view.model}:{view.number}"
    session.out.note(called if str(reference) == called else f"{reference} is {called}", "dim")
    grant = ModelGrant(model=view.model, number=view.number)
    await fetch(args, session.out, platform, grant, entries, root, called)
    return 0
