"""What a backup says of itself: its members with their checksums, and nothing that is believed without them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from incl_shared.errors import IntegrityError, UnsupportedError

FORMAT, VERSION = "incl-backup", 1
NAME = "manifest.json"
BLOBS = "blobs.txt"
MAX_MANIFEST = 16 << 20
_MEMBER = re.compile(
    r"(?:db/[a-z]{1,32}\.db\.zst|streams/[A-Z]{1,16}\.zst|settings/[a-z]{1,32}\.json|blobs\.txt"
    r"|keys/(?:platform|bus|registry)/(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,80}/)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,80})"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Member:
    """One file. raw: its bytes once it is unpacked."""

    name: str
    size: int
    sha256: str
    raw: int


@dataclass(frozen=True)
class Manifest:
    """One backup. created: seconds since the epoch, when all databases were at the same moment."""

    incl: str
    created: float
    running: bool
    secrets: bool
    artifacts: bool
    members: tuple[Member, ...]
    blobs: int
    blob_bytes: int
    missing: tuple[str, ...] = ()
    """Blobs that the artifact store lists and did not have, or had damaged."""

    def text(self) -> bytes:
        """As the file."""
        said = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps({"backup": said, "sha256": _sum(said)}, indent=1).encode()


def read_manifest(data: bytes) -> Manifest:
    """A manifest from its file.

    Raises:
        IntegrityError: it is damaged, or names what no backup has.
        UnsupportedError: a newer INCL made it.
    """
    try:
        outer = json.loads(data)
        said: dict[str, Any] = dict(outer["backup"])
        sound = outer["sha256"] == _sum(said)
        kind, version = said.pop("format"), said.pop("version")
        if kind == FORMAT and version != VERSION:
            raise UnsupportedError(
                f"this backup has the form {version}; this INCL knows {VERSION}",
                cause=f"INCL {said.get('incl')} made it",
                hint="restore it with the version that made it, or a newer one",
            )
        members = tuple(Member(**member) for member in said.pop("members"))
        manifest = Manifest(**said | {"missing": tuple(said["missing"])}, members=members)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("the backup's manifest is damaged", cause=str(error), hint="use another backup") from error
    if kind != FORMAT or not sound:
        raise IntegrityError(
            "the backup's manifest is damaged", cause="its checksum is another", hint="use another backup"
        )
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    seen: set[str] = set()
    for member in manifest.members:
        if not is_member(member.name) or member.name in seen:
            raise IntegrityError("the backup's manifest is not one", cause=f"it names {member.name[:100]!r}")
        if not _SHA256.fullmatch(member.sha256) or member.size < 0 or member.raw < 0:
            raise IntegrityError("the backup's manifest is not one", cause=f"what it says of {member.name}")
        seen.add(member.name)


def is_member(name: str) -> bool:
    """Whether a backup may have a file of this name."""
    return _MEMBER.fullmatch(name) is not None


def is_blob(name: str) -> bool:
    """Whether it is the checksum of a blob."""
    return _SHA256.fullmatch(name) is not None


def read_blobs(path: Path) -> dict[str, int]:
    """sha256 -> bytes of the member `blobs.txt`.

    Raises:
        IntegrityError: it is no such list.
    """
    found: dict[str, int] = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        sha256, _, size = line.partition(" ")
        if not is_blob(sha256) or not size.isdigit():
            raise IntegrityError("the backup's list of artifacts is damaged", cause=line[:100])
        found[sha256] = int(size)
    return found


def sum_of(file: BinaryIO, limit: int | None = None) -> tuple[str, int]:
    """(sha256, bytes) of what is left of an open file. limit: it is known to be wrong beyond so many bytes."""
    digest, size = hashlib.sha256(), 0
    while (limit is None or size <= limit) and (block := file.read(_BLOCK)):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def _sum(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
