"""Healthy machines of a gang that lost one: the next attempt takes them over."""

from __future__ import annotations

from collections.abc import Mapping

from incl_provisioner import store, store_gangs
from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.gangs import Gang, Phase
from incl_provisioner.store import Execution, NodeRow
from incl_provisioner.store_gangs import GangRow
from incl_provisioner.work import Finish, Work
from incl_shared.states import EndReason, ExperimentState

_WELL = frozenset({EndReason.COMPLETED, EndReason.STOPPED, EndReason.ERROR})
"""Ends that an agent said of a job and that blame no machine: nothing of it runs there, and what it made is stored."""
_PATIENCE_S = 5.0


def take_over(work: Work, execution: Execution, before: GangRow, made: Mapping[str, NodeRow]) -> Gang | None:
    """The gang of the next attempt, with the healthy machines of the last one, which are that one's no more.

    None: there is nothing to keep. Machines are kept when some of the gang are lost, not when all are well: what ended
    then was the job. The intent for the new gang is to be written in the same transaction.
    """
    gang = before.gang
    if gang.nodes == 1 or gang.phase is not Phase.MADE or not gang.zone or gang.given:
        return None
    names = gang.names
    healthy = set()
    for row in store.load_ranks(work.connection, gang.experiment, gang.attempt):
        node = made.get(row.node)
        end = Finish.model_validate_json(row.finish).reason if row.finish else None
        if end in _WELL and node is not None and node.alive and node.life and row.node == names[row.rank]:
            healthy.add(row.rank)
    if not 0 < len(healthy) < gang.nodes:
        return None
    since = before.created if gang.kept & healthy else before.asked or before.created
    spent = (gang.spent if gang.kept & healthy else 0.0) + max(0.0, work.now - since)
    left, taken = gangs.taken_over(gang, healthy, work.now, spent)
    return taken if store_gangs.save(work.connection, gang, left, work.now) else None


def awaited(work: Work, experiment: str, attempt: int) -> bool:
    """Whether the next attempt is about to take machines of this one over."""
    execution = store.load(work.connection, experiment)
    if execution is None or execution.state is not ExperimentState.QUEUED or execution.attempt != attempt:
        return False
    begun = store_gangs.load(work.connection, experiment, attempt + 1) is not None
    return execution.demand.nodes > 1 and not begun and work.now < execution.not_before + _PATIENCE_S
