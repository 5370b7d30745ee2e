"""Faults put into the part of the product that makes machines: what the simulation of the cloud must find."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import incl_provisioner.cloud.asking
import incl_provisioner.cloud.enrolment
import incl_provisioner.machines
from incl_provisioner import store_gangs
from incl_provisioner.backends.gce.keeper import Keeper
from incl_provisioner.cloud.rows import GangRows
from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.gangs import Do, Gang, Phase, View
from incl_provisioner.domain.placement import Slot
from incl_shared.clock import SteadyClock

Change = tuple[Any, str, Any]


def _row_after_the_call() -> list[Change]:
    """What was decided is done first and written down then."""

    async def once(self: Any, gang: Gang, view: View) -> Gang | None:
        now = self._clock.now()
        where = await self._planner.where(gang, now) if gang.phase is Phase.PLANNED and gang.wanted else None
        after, actions = gangs.decide(gang, view, where, now, self._limits)
        for action in actions:
            after = await self._do(after, action)
        return after if after == gang or await self._rows.save(gang, after) else None

    return [(Keeper, "_once", once)]


def _request_id_not_repeated() -> list[Change]:
    return [(Keeper, "_request", lambda self, gang: str(uuid.uuid4()))]


def _delete_believed() -> list[Change]:
    """Nothing is left once the deletes were accepted."""
    decide = gangs.decide

    def believing(gang: Gang, view: View, where: Any, now: float, limits: Any) -> Any:
        after, actions = decide(gang, view, where, now, limits)
        if after.phase in (Phase.CLEANING, Phase.ENDING) and any(each.do is Do.DELETE for each in actions):
            return gangs._removed(after, now), actions
        return after, actions

    return [(gangs, "decide", believing)]


def _lost_insert_not_looked_for() -> list[Change]:
    """A call that had no answer is taken for one that was not received."""
    refused, asked = gangs.refused, gangs._asked

    def sure(gang: Gang, verdict: Any, now: float, *, unsure: bool) -> Gang:
        after = refused(gang, verdict, now, unsure=False)
        return replace(after, unsure=False, open=False) if after.phase is Phase.CLEANING else after

    def given_up(gang: Gang, view: View, now: float, limits: Any) -> Any:
        if not gang.operation and not gang.wanted:
            return replace(gang, phase=Phase.ENDING, since=now, open=False), []
        return asked(gang, view, now, limits)

    return [(gangs, "refused", sure), (gangs, "_asked", given_up)]


def _one_node_missing() -> list[Change]:
    """A gang begins when all but one of its machines are there."""
    ready = incl_provisioner.cloud.asking._ready

    def enough(model: Any, gang: Gang, enrolled: Any) -> list[Slot]:
        slots = ready(model, gang, enrolled)
        there = {slot.rank for slot in slots}
        missing = [rank for rank in range(gang.nodes) if rank not in there]
        if slots and len(missing) == 1:
            slots.append(Slot(missing[0], gang.names[missing[0]], "10.0.0.1", ()))
        return sorted(slots, key=lambda slot: slot.rank)

    return [(incl_provisioner.cloud.asking, "_ready", enough)]


class _Any(str):
    """A key that is like all."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def _token_reused() -> list[Change]:
    """A token lets in whoever shows it, however often."""
    enrolled = store_gangs.enrolled

    def unread(*given: Any) -> Mapping[int, Any]:
        return {rank: replace(one, key=_Any(one.key)) for rank, one in enrolled(*given).items()}

    return [(store_gangs, "enrolled", unread)]


def _token_of_another_try() -> list[Change]:
    return [(incl_provisioner.cloud.enrolment, "same", lambda given, expected: True)]


def _token_without_end() -> list[Change]:
    """A token is good when its machine is wanted no more."""
    load = store_gangs.load

    def alive(*given: Any) -> Any:
        row = load(*given)
        return row and replace(row, live=True, gang=replace(row.gang, wanted=True, phase=Phase.MADE))

    class Rows:
        """As store_gangs, for the enrolment alone."""

        load = staticmethod(alive)

        def __getattr__(self, name: str) -> Any:
            return getattr(store_gangs, name)

    return [(incl_provisioner.cloud.enrolment, "store_gangs", Rows())]


def _unreachable_is_empty() -> list[Change]:
    """A zone that does not answer has nothing."""
    view_of = gangs.view_of
    return [(gangs, "view_of", lambda at, things, unreachable: view_of(at, things, ()))]


def _old_view() -> list[Change]:
    """A view that was taken before the deletes is believed."""
    removing = gangs._removing

    def hasty(gang: Gang, view: View, now: float, limits: Any) -> Any:
        return removing(gang, replace(view, at=now + 1.0), now, limits)

    return [(gangs, "_removing", hasty)]


def _delete_with_the_same_id() -> list[Change]:
    """A delete has one request id for good: of a second VM of the name nothing is deleted."""

    async def delete(self: Any, action: gangs.Action) -> None:
        from incl_provisioner.backends.gce.port import CloudFailure

        same = str(uuid.uuid5(uuid.NAMESPACE_OID, action.name))
        call = self._compute.delete_vm if action.do is Do.DELETE else self._compute.delete_disk
        try:
            await call(action.zone, action.name, same)
        except CloudFailure as error:
            self._trouble("delete", error)

    return [(Keeper, "_delete", delete)]


def _begun_is_not_looked_at() -> list[Change]:
    """A gang that is slow to boot is removed though its attempt began meanwhile."""
    return [(GangRows, "_begun", staticmethod(lambda tx, gang: False))]


def _lost_machines_are_not_told() -> list[Change]:
    return [(gangs, "lost", lambda *given, **more: [])]


def _never_wanted_no_more() -> list[Change]:
    """The machines of an attempt that is over are kept."""
    return [(store_gangs, "unwant_one", lambda *given: False)]


def _disks_are_left() -> list[Change]:
    decide, orphans = gangs.decide, gangs.orphans

    def vms(actions: Sequence[gangs.Action]) -> list[gangs.Action]:
        return [each for each in actions if each.do is not Do.DELETE_DISK]

    def without(*given: Any) -> Any:
        after, actions = decide(*given)
        return after, vms(actions)

    return [(gangs, "decide", without), (gangs, "orphans", lambda *given: vms(orphans(*given)))]


def _times_of_the_wall_clock() -> list[Change]:
    """What machines wait for is counted by a clock that people set."""
    return [
        (SteadyClock, "now", lambda self: self._clock.now()),
        (gangs, "adopted", lambda gang, now: gang),
    ]


def _late_hello() -> list[Change]:
    """The hello of a machine that is gone makes it known again."""
    return [(incl_provisioner.machines, "_deleted", lambda work, node: False)]


CLOUD_MUTATIONS: dict[str, Callable[[], list[Change]]] = {
    "the row after the call": _row_after_the_call,
    "request id not repeated": _request_id_not_repeated,
    "delete believed when accepted": _delete_believed,
    "lost insert not looked for": _lost_insert_not_looked_for,
    "one node missing": _one_node_missing,
    "token reused": _token_reused,
    "token of another try": _token_of_another_try,
    "token without end": _token_without_end,
    "unreachable is empty": _unreachable_is_empty,
    "an old view": _old_view,
    "delete with the same id": _delete_with_the_same_id,
    "begun is not looked at": _begun_is_not_looked_at,
    "lost machines are not told": _lost_machines_are_not_told,
    "never wanted no more": _never_wanted_no_more,
    "disks are left": _disks_are_left,
    "times of the wall clock": _times_of_the_wall_clock,
    "a late hello": _late_hello,
}
CLOUD_FOUND_BY = {
    "delete believed when accepted": 1,
    "never wanted no more": 1,
    "delete with the same id": 3,
    "one node missing": 4,
    "token of another try": 20,
    "unreachable is empty": 23,
    "token without end": 113,
    "the row after the call": 31,
    "an old view": 33,
    "request id not repeated": 44,
    "token reused": 46,
    "disks are left": 661,
}
"""Mutation -> the first seed that shows it."""
