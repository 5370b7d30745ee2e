"""Read-only disks of snapshots: one for each snapshot, zone and type, shared by all who read it, removed when unused.

    planned -> asked -> ready           it was wanted, and the provider made it
    any -> ending -> gone               unused for long, wanted no more, or it could not be made: `verdict` says why

A row is saved before what it says is done. A name is used once: a call that is received late can neither make what
counts as gone (nobody's disk is an orphan) nor delete what came after it. Pure, as `gangs` is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.gangs import DATA_PREFIX, Thing, View
from incl_provisioner.domain.cloud.names import escape

_NAME = re.compile(rf"{DATA_PREFIX}[0-9a-f]{{16}}-[1-9][0-9]{{0,5}}")
_HYPERDISK = "hyperdisk-ml"
_ATTACHED = ((256, 2500), (1024, 1500), (2048, 600), (16_384, 128))
_ATTACHED_MOST = 30
_PERSISTENT = 10
_RECENT_S = 60.0
"""A use is noted at most so often."""
_GONE = "disk_gone"
_GOING = ("DELETING",)


class Phase(StrEnum):
    """Where a disk is."""

    PLANNED = "planned"
    ASKED = "asked"
    READY = "ready"
    ENDING = "ending"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as the provider shows it. `gib`: of a disk of it; `stored`: bytes of its own, where that is said."""

    name: str
    id: int
    gib: int
    ready: bool = True
    stored: int = 0


@dataclass(frozen=True, slots=True)
class DataDisk:
    """A disk. Times: epoch seconds; `used`: when somebody was last seen to have or want it.

    `snapshot_id`, `gib`: 0 until the snapshot was looked up. `verdict`: why it could not be made, or ended.
    `operation`: of the call that makes it; empty while no answer is known.
    """

    name: str
    zone: str
    snapshot: str
    kind: str
    created: float
    phase: Phase = Phase.PLANNED
    since: float = 0.0
    used: float = 0.0
    snapshot_id: int = 0
    gib: int = 0
    asked: float = 0.0
    operation: str = ""
    verdict: Verdict | None = None

    @property
    def live(self) -> bool:
        """Whether something of it may be left."""
        return self.phase is not Phase.GONE


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. make_s: a disk that is not made by then is given up; idle_s: one that is unused for so long is removed.

    again_s: from one try of a call that had no answer to the next; call_s: the longest that a call lasts.
    """

    make_s: float = 1800.0
    idle_s: float = 6 * 3600.0
    again_s: float = 20.0
    call_s: float = 150.0


class Do(StrEnum):
    """What is to be done with a disk."""

    LOOK = "look"
    """Look its snapshot up."""
    ASK = "ask"
    POLL = "poll"
    DELETE = "delete"


def disk_name(platform: str, snapshot: str, zone: str, kind: str, number: int) -> str:
    """The name of the number-th disk of a snapshot in a zone: at most 63 of a-z, 0-9 and '-', used once."""
    digest = hashlib.sha256("\x1f".join((platform, snapshot, zone, kind)).encode()).hexdigest()
    return f"{DATA_PREFIX}{digest[:16]}-{number}"


def is_data_disk(name: str) -> bool:
    """Whether a disk of this name was made here."""
    return _NAME.fullmatch(name) is not None


def labels(platform: str, snapshot: str) -> dict[str, str]:
    """The labels of a disk: whose it is, and what is on it."""
    return {"incl-platform": escape(platform), "incl-data": "1", "incl-snapshot": escape(snapshot)}


def most_attached(kind: str, gib: int) -> int:
    """To how many machines at once the provider attaches a read-only disk; the larger a Hyperdisk ML, the fewer."""
    if kind != _HYPERDISK:
        return _PERSISTENT
    return next((most for size, most in _ATTACHED if gib <= size), _ATTACHED_MOST)


def hyperdisk(kind: str) -> bool:
    """Whether it must be told when it is made that many will read it."""
    return kind == _HYPERDISK


def decide(
    disk: DataDisk, view: View, held: bool, known: Snapshot | None, now: float, limits: Limits
) -> tuple[DataDisk, Do | None]:
    """(the row to save, what to do then). held: a gang has it or is about to; known: its snapshot, if looked up."""
    seen = next((one for one in view.data if (one.name, one.zone) == (disk.name, disk.zone)), None)
    if disk.phase is Phase.PLANNED:
        return _planned(disk, known, now)
    if disk.phase is Phase.ASKED:
        return _asked(disk, seen, now, limits)
    told = view.at > disk.since and disk.zone not in view.unreachable
    if disk.phase is Phase.READY:
        return _ready(disk, seen, held, told, now, limits)
    if disk.phase is Phase.ENDING:
        if seen is None:
            return (replace(disk, phase=Phase.GONE, since=now), None) if told else (disk, None)
        return disk, None if seen.used or seen.status in _GOING else Do.DELETE
    return disk, None


def _planned(disk: DataDisk, known: Snapshot | None, now: float) -> tuple[DataDisk, Do | None]:
    if known is None:
        return disk, Do.LOOK
    if not known.ready:
        return disk, None
    asked = replace(
        disk, phase=Phase.ASKED, since=now, asked=now, used=now, snapshot_id=known.id, gib=max(known.gib, 10)
    )
    return asked, Do.ASK


def _asked(disk: DataDisk, seen: Thing | None, now: float, limits: Limits) -> tuple[DataDisk, Do | None]:
    if now - disk.since > limits.make_s:
        return failed(disk, _timeout(disk), now), None
    if disk.operation:
        return disk, Do.POLL
    if seen is not None and seen.status == "READY":
        return made(disk, now), None
    if now - disk.asked < limits.again_s:
        return disk, None
    return replace(disk, asked=now), Do.ASK


def _ready(
    disk: DataDisk, seen: Thing | None, held: bool, told: bool, now: float, limits: Limits
) -> tuple[DataDisk, Do | None]:
    if seen is None and told:
        gone = _verdict(_GONE, f"the disk {disk.name} was deleted by somebody else", "another one is made")
        return replace(disk, phase=Phase.GONE, since=now, verdict=gone), None
    if held or (seen is not None and seen.used):
        return (replace(disk, used=now) if now - disk.used > _RECENT_S else disk), None
    if now - disk.used > limits.idle_s and told:
        return ended(disk, now), None
    return disk, None


def _timeout(disk: DataDisk) -> Verdict:
    what = f"the disk of {disk.snapshot} was not made in time in {disk.zone}"
    return _verdict("disk_timeout", what, "another zone is tried")


def _verdict(reason: str, message: str, hint: str) -> Verdict:
    return Verdict(Meaning.NEXT_ZONE, Scope.ZONE, 300.0, reason, message, hint)


def made(disk: DataDisk, now: float) -> DataDisk:
    """The provider has made it."""
    if disk.phase is not Phase.ASKED:
        return disk
    return replace(disk, phase=Phase.READY, since=now, used=now, operation="", verdict=None)


def failed(disk: DataDisk, verdict: Verdict, now: float) -> DataDisk:
    """It could not be made: whatever there is of it is removed."""
    return replace(disk, phase=Phase.ENDING, since=now, verdict=verdict) if disk.phase is Phase.ASKED else disk


def ended(disk: DataDisk, now: float) -> DataDisk:
    """It is wanted no more; nobody may have it."""
    if disk.phase is Phase.PLANNED:
        return replace(disk, phase=Phase.GONE, since=now)
    return replace(disk, phase=Phase.ENDING, since=now) if disk.phase in (Phase.ASKED, Phase.READY) else disk


def missing(snapshot: str) -> Verdict:
    """There is no such snapshot."""
    return Verdict(
        Meaning.BAD_REQUEST, Scope.EVERYWHERE, 0.0, "no_snapshot", f"there is no snapshot {snapshot!r}",
        "`incl data ls` lists those that there are; is it in the platform's own project, and READY?",
    )  # fmt: skip


def orphans(view: View, live: Iterable[DataDisk]) -> list[tuple[str, str]]:
    """(zone, name) of disks of ours that belong to no row. live: read after the view was taken."""
    known = {(each.zone, each.name) for each in live}
    return [
        (one.zone, one.name)
        for one in view.data
        if (one.zone, one.name) not in known and not one.used and one.status not in _GOING
    ]


# -- who may have which --


@dataclass(frozen=True, slots=True)
class Stand:
    """What there is of a snapshot in a zone, for machines that need a type of disk. `disk`: one with room for all."""

    disk: DataDisk | None = None
    making: bool = False
    cooling: Verdict | None = None


def stand(
    disks: Iterable[DataDisk], load: Mapping[str, int], snapshot: Snapshot, zone: str, kind: str, nodes: int, now: float
) -> Stand:
    """What there is for so many machines. load: machines that have, or are about to have, each disk by its name."""
    mine = [
        each
        for each in disks
        if (each.snapshot, each.zone, each.kind) == (snapshot.name, zone, kind) and each.snapshot_id in (0, snapshot.id)
    ]
    free = [each for each in mine if load.get(each.name, 0) + nodes <= most_attached(kind, each.gib or snapshot.gib)]
    ready = [each for each in free if each.phase is Phase.READY]
    if ready:
        return Stand(max(ready, key=lambda each: (load.get(each.name, 0), each.name)))
    if any(each.phase in (Phase.PLANNED, Phase.ASKED) for each in free):
        return Stand(making=True)
    last = max(mine, key=lambda each: each.created, default=None)
    verdict = last.verdict if last is not None else None
    if last is None or verdict is None or verdict.reason == _GONE:
        return Stand()
    if now < last.since + max(verdict.ttl_s, _RECENT_S):
        return Stand(cooling=verdict)
    return Stand()
