"""incl model register|set|alias|rm|restore: what is changed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli import model_names
from incl_cli.arguments import UsageProblem
from incl_cli.look import find
from incl_cli.model_approvals import check_reason, waits
from incl_cli.text import plain, plural, size
from incl_shared.errors import ConflictError, InvalidInput
from incl_shared.ids import new_id
from incl_shared.queries.models import (
    MOST_METADATA,
    MOST_NOTE,
    AliasView,
    ChangeModel,
    ListVersions,
    MoveAlias,
    RegisterModel,
    RestoreModel,
    TrashModel,
    VersionView,
)

if TYPE_CHECKING:
    from incl_cli.platform import Platform
    from incl_cli.running import Session


async def register(args: argparse.Namespace, session: Session) -> int:
    """incl model register."""
    from pydantic import ValidationError

    name, words = model_names.name(args.name), _words(args)
    platform = await session.platform(args.project)
    view = await find(platform, args.experiment)
    try:
        query = RegisterModel(
            registration=new_id(), model=name, experiment=view.row.id, path=args.path, kind=args.kind,
            attempt=args.attempt, rank=args.rank, note=words["note"] or "", tags=args.tag, metadata=words["metadata"],
        )  # fmt: skip
    except ValidationError as error:
        raise _wrong(error) from None
    made = await platform.ask(query, timeout=30.0)
    if args.json:
        session.out.json(made)
        return 0
    session.out.line(f"{made.model}:{made.number}")
    session.out.note(f"{plural(made.files, 'file')}, {size(made.size)}, of {view.row.name} ({view.row.id})")
    tell_missing(session, made)
    return 0


def tell_missing(session: Session, made: VersionView) -> None:
    """What is not known of how it was made."""
    missing = made.lineage.missing if made.lineage else ()
    if missing:
        names = ", ".join(text.partition(":")[0] for text in missing)
        session.out.note(f"not known of it: {names} (incl model show {made.model}:{made.number})", "dim")


def _wrong(error: Any) -> InvalidInput:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return InvalidInput(f"{where}: {first['msg']}", hint="incl model register --help")


def _words(args: argparse.Namespace) -> dict[str, Any]:
    note = args.note
    if note is not None and note.startswith("@"):
        note = _read(note[1:], 4 * MOST_NOTE)
    if note is not None and len(note) > MOST_NOTE:
        raise InvalidInput(f"the note is too long: {len(note):,} characters, at most {MOST_NOTE:,}")
    metadata: dict[str, Any] = {}
    for text in args.metadata:
        metadata |= _object(text)
    return {"note": note, "metadata": metadata}


def _object(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        try:
            found = json.loads(_read(text[1:], 4 * MOST_METADATA))
        except ValueError as error:
            raise InvalidInput(f"{text[1:]} is no JSON", cause=str(error)) from None
        if not isinstance(found, dict):
            raise InvalidInput(f"{text[1:]} is no JSON object", hint='{"dice": 0.91}')
        return found
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageProblem(f"--metadata cannot be {text[:60]!r}", hint="--metadata dice=0.91")
    try:
        return {key: json.loads(value)}
    except ValueError:
        return {key: value}


def _read(name: str, most: int) -> str:
    try:
        with Path(name).open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {name}", cause=error.strerror or str(error)) from None
    if len(data) > most:
        raise InvalidInput(f"{name} is too large: at most {most:,} bytes are read")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is no text in UTF-8") from None


async def change(args: argparse.Namespace, session: Session) -> int:
    """incl model set."""
    from pydantic import ValidationError

    reference, words = model_names.parse(args.reference), _words(args)
    if words["note"] is None and not (words["metadata"] or args.tag or args.untag):
        raise UsageProblem("there is nothing to set", hint="--note, --tag, --untag, --metadata K=V")
    platform = await session.platform(args.project)
    number = await model_names.numbered(platform, reference)
    try:
        query = ChangeModel(
            model=reference.model, number=number, note=words["note"], add_tags=args.tag, remove_tags=args.untag,
            metadata=words["metadata"],
        )  # fmt: skip
    except ValidationError as error:
        raise _wrong(error) from None
    await platform.ask(query)
    named = model_names.Reference(reference.model, number)
    if args.json:
        session.out.json({"model": reference.model, "number": number})
    session.out.note(f"{named} is changed")
    return 0


async def alias(args: argparse.Namespace, session: Session) -> int:
    """incl model alias."""
    model, name = model_names.name(args.model), model_names.name(args.alias)
    if args.remove == (args.version is not None):
        raise UsageProblem("name a version, or say --remove", hint=f"incl model alias {model} {name} 3")
    platform = await session.platform(args.project)
    number = None if args.remove else await _number(platform, model, args.version)
    now = await _alias(platform, model, name)
    _expect(args.expect, model, name, now)
    revision, reason = now.revision if now else 0, check_reason(args.reason)
    query = MoveAlias(model=model, alias=name, number=number, revision=revision, reason=reason)
    moved = await platform.ask(query)
    if args.json:
        session.out.json({"model": model, "previous": now.number if now else None, **moved.model_dump(mode="json")})
        return 0
    if moved.request is not None:
        waits(session.out, model, name, moved.request)
        return 0
    before = f" (it was {model}:{now.number})" if now and now.number and now.number != number else ""
    where = f"points at {model}:{number}" if number else "is taken away"
    session.out.note(f"{name} {where}{before}" if not now or now.number != number else f"{name} {where} already")
    return 0


async def _number(platform: Platform, model: str, text: str) -> int:
    if text.startswith("@"):
        return (await model_names.version(platform, model_names.parse(model + text))).number
    if not text.isdecimal() or not text.isascii() or not 0 < int(text[:12]) < 2**31:
        raise UsageProblem(f"{text[:40]!r} is no version of {model}", hint=f"a number: incl model show {model}")
    return int(text)


async def _alias(platform: Platform, model: str, name: str) -> AliasView | None:
    """Where an alias points now, also one that was taken away."""
    page = await platform.ask(ListVersions(model=model, limit=1))
    return next((one for one in page.every_alias if one.alias == name), None)


def _expect(expected: str | None, model: str, name: str, now: AliasView | None) -> None:
    points = now.number if now else None
    if expected is None or str(points or "none") == expected.lower():
        return
    where = f"points at {model}:{points}" if points else "points at no version"
    raise ConflictError(f"{name} {where}, not at {expected}", hint=f"incl model history {model} --alias {name}")


async def trash(args: argparse.Namespace, session: Session) -> int:
    """incl model rm, and incl model restore."""
    reference = model_names.parse(args.reference)
    platform = await session.platform(args.project)
    number = await model_names.numbered(platform, reference)
    kind = TrashModel if args.action == "rm" else RestoreModel
    await platform.ask(kind(model=reference.model, number=number))
    named = model_names.Reference(reference.model, number)
    if args.json:
        session.out.json({"model": reference.model, "number": number, "trashed": args.action == "rm"})
    if args.action == "rm":
        session.out.note(f"{named} is in the trash")
        session.out.note(f"bring it back: incl model restore {named}", "dim")
    else:
        session.out.note(f"{plain(str(named))} is out of the trash")
    return 0
