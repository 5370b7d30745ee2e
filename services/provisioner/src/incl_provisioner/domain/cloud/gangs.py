"""The life of the VMs of one attempt, as a table: what a row becomes, and what is to be done, after what was seen.

    planned -> asked -> made            it was wanted, and the provider made all of it
    asked -> cleaning -> planned        a try failed: what it may have left is removed, then the next place
    any -> ending -> gone               it is wanted no more: removed, and the provider has said so
    cleaning -> failed                  no place will ever do

The attempt after one that lost a machine takes the others over: they keep their names, and only the missing ones are
asked for, in the same zone. Where that fails, all are removed, and made anew as for any attempt.

A row is saved before what it says is done, so that whoever takes up after a crash repeats the same call with the same
request id. Nothing here does anything: `decide` and the functions beside it are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.names import Place, machine_name, parse_name

ENDED = frozenset({"TERMINATED", "STOPPED", "SUSPENDED"})
DATA_PREFIX = "incl-data-"
NO_ANSWER = "no_answer"
"""The reason of a verdict on a call that is still under way."""
GOING = frozenset({"STOPPING", "DEPROVISIONING", "PENDING_STOP"})


class Phase(StrEnum):
    """Where a gang is."""

    PLANNED = "planned"
    ASKED = "asked"
    MADE = "made"
    CLEANING = "cleaning"
    ENDING = "ending"
    GONE = "gone"
    FAILED = "failed"


LAST = frozenset({Phase.GONE, Phase.FAILED})


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds.

    Attributes:
        settle_s: after so long a try that had no answer has no effect any more.
        call_s: the longest that a call lasts with all its tries; the last of them may be sent at its end.
        make_s: an operation that is not over by then is given up, and what it makes is removed.
        again_s: from one try of a call that had no answer to the next; from one delete of a thing to the next.
        round_s: how long a round waits for the calls of single gangs.
        quiet_s: a call that has no answer for so long is told of, long before it is given up.
        at_once: gangs that are being made; the provider refuses more than ten bulk operations at once.
        poll_s: from one look at an operation to the next. hold_s: after so long another gang is begun all the same.
    """

    settle_s: float = 180.0
    call_s: float = 150.0
    make_s: float = 900.0
    again_s: float = 20.0
    round_s: float = 5.0
    at_once: int = 10
    poll_s: float = 2.0
    hold_s: float = 60.0
    quiet_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Gang:
    """The VMs of one attempt. `since`, `asked`: epoch seconds; `asked`: when the call was last made, or about to be.

    Attributes:
        turn: of the request id; one for each place that was tried.
        region, zones: of the last try. tried: every zone in which something may be left.
        operation: of the last try; empty while no answer of the call is known.
        open: the last try may still make something.
        asking: a call of the last try was made, or was about to be, and what came of it is not in the row.
        unsure: an earlier call of the last try had no answer, or nobody knows whether it had: it may be received late.
        verdict: why the last try failed.
        machine, spot: what the last try asked for. zone: where it was made, as far as that was seen.
        breaks: how often it was made and did not come to work.
        origins: by rank, the attempt that its machine is named after; empty: this one.
        given: ranks whose machines the next attempt has taken over: they are this one's no more.
        spent: seconds of its life that a machine had behind it at most when it was taken over.
        disks: read-only disks of data that the last try's machines have, in the order of the experiment's snapshots.
    """

    experiment: str
    attempt: int
    nodes: int
    phase: Phase = Phase.PLANNED
    since: float = 0.0
    wanted: bool = True
    turn: int = 0
    region: str = ""
    zones: tuple[str, ...] = ()
    tried: frozenset[str] = frozenset()
    operation: str = ""
    open: bool = False
    asking: bool = False
    unsure: bool = False
    asked: float = 0.0
    verdict: Verdict | None = None
    machine: str = ""
    spot: bool = False
    zone: str = ""
    breaks: int = 0
    origins: tuple[int, ...] = ()
    given: frozenset[int] = frozenset()
    spent: float = 0.0
    disks: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of its VMs, by rank."""
        origins = self.origins or (self.attempt,) * self.nodes
        return [machine_name(Place(self.experiment, origin, rank)) for rank, origin in enumerate(origins)]

    @property
    def kept(self) -> frozenset[int]:
        """Ranks whose machines it took over."""
        return frozenset(rank for rank, origin in enumerate(self.origins) if origin != self.attempt)

    @property
    def asks(self) -> list[str]:
        """Names of the VMs that are made for it."""
        return [name for rank, name in enumerate(self.names) if rank not in self.kept]

    @property
    def owned(self) -> list[str]:
        """Names of the VMs that it answers for."""
        return [name for rank, name in enumerate(self.names) if rank not in self.given]

    @property
    def key(self) -> tuple[str, int]:
        """What it is known by."""
        return self.experiment, self.attempt


@dataclass(frozen=True, slots=True)
class Thing:
    """A VM or a disk that the provider shows. `used`: a disk that a VM has."""

    name: str
    zone: str
    status: str = ""
    disk: bool = False
    used: bool = False


@dataclass(frozen=True)
class View:
    """Lists of everything of the platform. `at`: when they were asked for; `unreachable`: zones that did not answer.

    `data`: disks that belong to no gang.
    """

    at: float
    things: Mapping[tuple[str, int], Sequence[Thing]] = field(default_factory=dict)
    unreachable: frozenset[str] = frozenset()
    data: Sequence[Thing] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """The next place: a region and the zones of it that are asked, for which machine, with which disks of data."""

    region: str
    zones: tuple[str, ...]
    machine: str = ""
    spot: bool = False
    disks: tuple[str, ...] = ()


class Do(StrEnum):
    """What is to be done."""

    ASK = "ask"
    """Make the call with this turn's request id; again if it was made before."""
    POLL = "poll"
    """Look at the operation."""
    FIND = "find"
    """Look whether an operation of this turn's request id is there."""
    DELETE = "delete"
    DELETE_DISK = "delete_disk"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. zone, name: of what is deleted."""

    do: Do
    zone: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """Ranks whose machines are gone, or have ended; ranks whose machines are going."""

    gone: tuple[int, ...] = ()
    going: tuple[int, ...] = ()


def taken_over(gang: Gang, healthy: Iterable[int], now: float, spent: float) -> tuple[Gang, Gang]:
    """(the gang, the one of the next attempt that has its healthy ranks); both are to be saved at once, or none."""
    ranks = frozenset(healthy)
    attempt = gang.attempt + 1
    origins = gang.origins or (gang.attempt,) * gang.nodes
    after = Gang(
        gang.experiment, attempt, gang.nodes, since=now, region=gang.region, zones=(gang.zone,),
        tried=frozenset({gang.zone}), machine=gang.machine, spot=gang.spot, zone=gang.zone,
        origins=tuple(origin if rank in ranks else attempt for rank, origin in enumerate(origins)), spent=spent,
        disks=gang.disks,
    )  # fmt: skip
    return replace(gang, given=gang.given | ranks), after


def given_back(gang: Gang, before: Gang) -> tuple[Gang, Gang]:
    """(the gang without what it took over, the one of the attempt before that has it again): saved at once.

    What that attempt said is not all stored yet perhaps, so its machines stay as long as they would have.
    """
    return replace(gang, origins=(), spent=0.0), replace(before, given=before.given - gang.kept)


def things_of(gang: Gang, view: View) -> Sequence[Thing]:
    """What the provider shows of a gang: what bears its name but was not given away, and what it took over."""
    own = view.things.get(gang.key, ())
    if not gang.given and not gang.origins:
        return own
    kept = gang.kept - gang.given
    found = [one for one in own if _rank(one) not in gang.given]
    for origin in sorted({gang.origins[rank] for rank in kept}):
        things = view.things.get((gang.experiment, origin), ())
        found += [one for one in things if (rank := _rank(one)) in kept and gang.origins[rank] == origin]
    return found


def _rank(thing: Thing) -> int:
    parsed = parse_name(thing.name)
    return parsed[0].rank if parsed is not None else -1


def view_of(at: float, things: Iterable[Thing], unreachable: Iterable[str]) -> View:
    """A view from lists; what has no name of ours is left out."""
    by_gang: dict[tuple[str, int], list[Thing]] = {}
    data = []
    for thing in things:
        parsed = parse_name(thing.name)
        if parsed is not None:
            by_gang.setdefault((parsed[0].experiment, parsed[0].attempt), []).append(thing)
        elif thing.disk and thing.name.startswith(DATA_PREFIX):
            data.append(thing)
    return View(at, by_gang, frozenset(unreachable), tuple(data))


def decide(gang: Gang, view: View, where: Where | None, now: float, limits: Limits) -> tuple[Gang, list[Action]]:
    """(the row to save, what to do then).

    where: the next place, for a gang that is planned; None: wait, and what was taken over is not kept for that.
    """
    if gang.phase in LAST:
        return gang, []
    if not gang.wanted and gang.phase in (Phase.PLANNED, Phase.MADE, Phase.CLEANING):
        gang = replace(gang, phase=Phase.ENDING, since=now)
    if gang.phase is Phase.PLANNED:
        return _planned(gang, where, now)
    if gang.phase is Phase.ASKED:
        return _asked(gang, view, now, limits)
    if gang.phase in (Phase.CLEANING, Phase.ENDING):
        return _removing(gang, view, now, limits)
    return _seen(gang, view), []


def adopted(gang: Gang, now: float) -> Gang:
    """A row that somebody else has written, whose clock may have been any: what is waited for, is waited for anew."""
    if gang.phase in (*LAST, Phase.PLANNED):
        return gang
    return replace(gang, since=now, asked=now)


def _seen(gang: Gang, view: View) -> Gang:
    """The zone in which it was made."""
    zones = {one.zone for one in things_of(gang, view) if not one.disk}
    return replace(gang, zone=zones.pop()) if not gang.zone and len(zones) == 1 else gang


def _planned(gang: Gang, where: Where | None, now: float) -> tuple[Gang, list[Action]]:
    if where is None:
        return (replace(gang, phase=Phase.CLEANING, since=now), []) if gang.origins else (gang, [])
    asked = replace(
        gang, phase=Phase.ASKED, since=now, asked=now, turn=gang.turn + 1, region=where.region, zones=where.zones,
        tried=gang.tried | set(where.zones), operation="", open=True, asking=True, unsure=False, verdict=None,
        machine=where.machine, spot=where.spot, zone="", disks=where.disks,
    )  # fmt: skip
    return asked, [Action(Do.ASK)]


def _asked(gang: Gang, view: View, now: float, limits: Limits) -> tuple[Gang, list[Action]]:
    if now - gang.since > limits.make_s:
        return _give_up(gang, now), []
    if gang.operation:
        return gang, [Action(Do.POLL)]
    if not gang.wanted and not gang.asking and not gang.unsure:
        return replace(gang, phase=Phase.ENDING, since=now, open=False), []
    if not gang.wanted:
        # Asking again would make what nobody wants. Whether it was received can be found out without that.
        if now - gang.asked > limits.call_s + limits.settle_s:
            return replace(gang, phase=Phase.ENDING, since=now, open=False), []
        return gang, [Action(Do.FIND)]
    if now - gang.asked < limits.again_s:
        # Nothing is known of it: whoever made the call is gone. Its answer may be there.
        return gang, [Action(Do.FIND)] if gang.asking else []
    return replace(gang, asked=now, asking=True, unsure=gang.unsure or gang.asking), [Action(Do.ASK)]


def _give_up(gang: Gang, now: float) -> Gang:
    verdict = _verdict("MAKE_TIMEOUT", "the provider did not make the machines in time", "other zones are tried")
    return replace(gang, phase=Phase.CLEANING, since=now, verdict=verdict)


def _verdict(code: str, message: str, hint: str) -> Verdict:
    return Verdict(Meaning.NEXT_ZONE, Scope.ZONE, 300.0, code.lower(), message, hint)


def _removing(gang: Gang, view: View, now: float, limits: Limits) -> tuple[Gang, list[Action]]:
    """Delete what is there; over when a whole view that is new enough shows nothing, and nothing more can come."""
    actions = [Action(Do.POLL)] if gang.open and gang.operation else []
    if gang.open and not gang.operation:
        actions.append(Action(Do.FIND))
    if view.at < gang.since:
        return gang, actions
    things = things_of(gang, view)
    actions += [Action(Do.DELETE, one.zone, one.name) for one in things if not one.disk and one.status not in GOING]
    actions += [Action(Do.DELETE_DISK, one.zone, one.name) for one in things if one.disk and not one.used]
    late = gang.open and now - max(gang.asked, gang.since) <= (limits.make_s if gang.operation else limits.settle_s)
    if things or late or view.unreachable & gang.tried:
        return gang, actions
    return _removed(gang, now), []


def _removed(gang: Gang, now: float) -> Gang:
    clean = replace(gang, since=now, operation="", open=False, asking=False, disks=())
    if gang.phase is Phase.ENDING or not gang.wanted:
        return replace(clean, phase=Phase.GONE)
    hopeless = gang.verdict is not None and not gang.verdict.waits and gang.verdict.meaning is not Meaning.CREDENTIALS
    if hopeless:
        return replace(clean, phase=Phase.FAILED)
    return replace(clean, phase=Phase.PLANNED, origins=(), spent=0.0)


def doomed(gang: Gang, verdict: Verdict, now: float) -> Gang:
    """It was not asked for yet, and never will be."""
    return replace(gang, phase=Phase.FAILED, since=now, verdict=verdict) if gang.phase is Phase.PLANNED else gang


# -- what came of it --


def answered(gang: Gang, operation: str) -> Gang:
    """The call was received: this is its operation."""
    heard = gang.phase is Phase.ASKED
    verdict = None if heard else gang.verdict
    return replace(gang, operation=operation, open=True, asking=False, verdict=verdict)


def waited(gang: Gang, verdict: Verdict | None) -> Gang:
    """A call of its try has no answer yet, or its operation could not be looked at; none: it is heard of again."""
    return replace(gang, verdict=verdict) if gang.phase is Phase.ASKED else gang


def unseen(gang: Gang, verdict: Verdict, now: float) -> Gang:
    """Its operation could not be looked at. Where that will never be allowed, it is of no use: it is removed."""
    if gang.phase is Phase.ASKED and verdict.meaning is Meaning.PERMISSION:
        return replace(gang, phase=Phase.CLEANING, since=now, verdict=verdict)
    return waited(gang, verdict)


def refused(gang: Gang, verdict: Verdict, now: float, *, unsure: bool) -> Gang:
    """The call failed, after the retries that make sense. unsure: one of them had no answer."""
    if gang.phase is not Phase.ASKED:
        return gang
    unsure = unsure or gang.unsure or verdict.meaning in (Meaning.TRANSIENT, Meaning.CLEAN_UP)
    if verdict.meaning in (Meaning.TRANSIENT, Meaning.BACK_OFF, Meaning.CREDENTIALS):
        return replace(gang, verdict=verdict, asking=False, unsure=unsure)
    return replace(gang, phase=Phase.CLEANING, since=now, verdict=verdict, asking=False, unsure=unsure, open=unsure)


def polled(gang: Gang, *, done: bool, verdict: Verdict | None, now: float) -> Gang:
    """The operation as it was seen."""
    if not done:
        return waited(gang, None)
    closed = replace(gang, open=False)
    if gang.phase is not Phase.ASKED:
        return closed
    closed = waited(closed, None)
    if verdict is None:
        return replace(closed, phase=Phase.MADE, since=now)
    return replace(closed, phase=Phase.CLEANING, since=now, verdict=verdict)


def broken(gang: Gang, verdict: Verdict, now: float, *, counts: int, most: int) -> Gang:
    """It was made, and does not come to work: removed, then the next place; after `most` that count none will do."""
    if gang.phase is not Phase.MADE:
        return gang
    breaks = gang.breaks + counts
    said = replace(verdict, meaning=Meaning.BAD_REQUEST) if breaks >= most else verdict
    return replace(gang, phase=Phase.CLEANING, since=now, verdict=said, breaks=breaks)


def forgotten(gang: Gang, now: float) -> Gang:
    """The provider does not know the operation any more: whatever it made is removed."""
    if gang.phase is not Phase.ASKED:
        return replace(gang, open=False)
    verdict = _verdict("OPERATION_LOST", "the provider has forgotten the call", "what may be left is removed first")
    return replace(gang, phase=Phase.CLEANING, since=now, verdict=verdict, open=False)


def lost(gang: Gang, view: View, *, going: bool = True) -> list[int]:
    """Ranks of a gang that was made whose VM is not there any more, or has ended; none while that is not known.

    going: whether one that is going down counts: what runs there still may be at storing what it made.
    """
    if not _known(gang, view):
        return []
    over = ENDED | GOING if going else ENDED
    alive = {one.name for one in things_of(gang, view) if not one.disk and one.status not in over}
    return [rank for rank, name in enumerate(gang.names) if name not in alive and rank not in gang.given]


def _known(gang: Gang, view: View) -> bool:
    """Whether a view shows all that there is of a gang that was made."""
    return gang.phase is Phase.MADE and view.at >= gang.since and not view.unreachable & gang.tried


def absent(gang: Gang, view: View) -> Absent | None:
    """What the provider shows no more of a gang that was made, or is deleting; None while that is not known."""
    if not _known(gang, view):
        return None
    gone, both = lost(gang, view, going=False), lost(gang, view)
    return Absent(tuple(gone), tuple(rank for rank in both if rank not in gone))


def orphans(view: View, gangs: Mapping[tuple[str, int], Gang]) -> list[Action]:
    """What belongs to no gang that is alive: to be deleted. gangs: read after the view was taken."""
    alive = [gang for gang in gangs.values() if gang.phase not in LAST]
    kept = {(*gang.key, rank): gang.origins[rank] for gang in alive for rank in gang.kept - gang.given}
    held = {(experiment, origin, rank) for (experiment, _, rank), origin in kept.items()}
    actions = []
    for key, all_things in view.things.items():
        things, gang = all_things, gangs.get(key)
        if gang is not None and gang.phase not in LAST:
            if not gang.given:
                continue
            things = [one for one in things if _rank(one) in gang.given]
        if held:
            things = [one for one in things if (*key, _rank(one)) not in held]
        actions += [Action(Do.DELETE, one.zone, one.name) for one in things if not one.disk and one.status not in GOING]
        actions += [Action(Do.DELETE_DISK, one.zone, one.name) for one in things if one.disk and not one.used]
    return actions
