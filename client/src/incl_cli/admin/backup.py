"""incl admin backup: one machine's platform, running or stopped, into a folder or a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.admin.machine import data_argument, layout, local
from incl_cli.arguments import UsageProblem, common

if TYPE_CHECKING:
    import argparse

    from incl_cli.running import Session

SUMMARY = "Back this machine's platform up, while it runs or when it is stopped"
EXAMPLES = """  incl admin backup /mnt/backups            a folder of backups that share their artifacts
  incl admin backup before-upgrade.tar      one file
  incl admin backup --verify /mnt/backups   compare the newest one with its checksums"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("place", type=Path, metavar="DIR|FILE.tar", help="where to")
    parser.add_argument("--no-artifacts", action="store_true", help="leave outputs, checkpoints and code out")
    parser.add_argument("--no-secrets", action="store_true", help="leave keys out: keep them elsewhere")
    parser.add_argument("--verify", action="store_true", help="make none; compare one that is there")
    data_argument(parser)
    common(parser)


def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    if args.verify and (args.no_artifacts or args.no_secrets or args.data):
        raise UsageProblem("--verify makes no backup, and takes no other option")
    return _verify(args, session) if args.verify else _create(args, session)


def _create(args: argparse.Namespace, session: Session) -> int:
    from incl_cli.text import duration, plural, size

    create, out = local("backup.create"), session.out
    options = create.Options(secrets=not args.no_secrets, artifacts=not args.no_artifacts)
    made = create.create(layout(args), args.place.expanduser().absolute(), options, lambda text: out.note(text, "dim"))
    said = made.manifest
    if args.json:
        out.json({"backup": str(made.place), "seconds": round(made.seconds, 3), "held_s": round(made.held_s, 4),
                  **about(said)})  # fmt: skip
    else:
        out.line(str(made.place))
    blobs = f", {plural(said.blobs, 'artifact')} of {size(said.blob_bytes)}" if said.artifacts else ""
    out.note(f"{plural(len(said.members), 'file')}{blobs}, in {duration(made.seconds)}")
    if said.secrets:
        out.note("it has the platform's keys: whoever can read it is everybody", "yellow")
    if said.missing:
        out.note(f"{plural(len(said.missing), 'artifact')} could not be had: incl doctor", "red")
        return 1
    return 0


def about(manifest: Any) -> dict[str, Any]:
    """What --json says of a backup."""
    return {
        "created": manifest.created,
        "incl": manifest.incl,
        "running": manifest.running,
        "secrets": manifest.secrets,
        "artifacts": manifest.artifacts,
        "files": len(manifest.members),
        "bytes": sum(member.size for member in manifest.members),
        "blobs": manifest.blobs,
        "blob_bytes": manifest.blob_bytes,
        "missing": list(manifest.missing),
    }


def _verify(args: argparse.Namespace, session: Session) -> int:
    from incl_cli.text import moment, size

    sources, out = local("backup.sources"), session.out
    with sources.opened(args.place.expanduser().absolute()) as source:
        read = sources.verify(source)
        if args.json:
            out.json({"backup": str(source.place), "read": read, **about(source.manifest)})
        else:
            out.line(str(source.place))
        out.note(f"of {moment(source.manifest.created)}, by INCL {source.manifest.incl}: all {size(read)} are right")
    return 0
