"""The way of an attempt: what nodes report, what is concluded of it, and how it ends."""

from __future__ import annotations

import logging
from collections import Counter

from incl_provisioner import images, store, store_gangs
from incl_provisioner.domain.attempt import (
    AttemptFact,
    End,
    RankFact,
    RankState,
    advance_attempt,
    advance_rank,
    all_ready,
    is_failure,
    summary,
    verdict,
)
from incl_provisioner.domain.experiment import ExperimentFact, advance, conclusion
from incl_provisioner.domain.retry import backoff_s, retries
from incl_provisioner.store import Execution, RankRow
from incl_provisioner.work import Change, Finish, Timer, Work
from incl_shared.events.experiments import AttemptEnded, AttemptStarted, ExperimentFinished, RankEnd, RankTimes
from incl_shared.ids import short
from incl_shared.spec import Retry
from incl_shared.states import AttemptState, EndReason, ExperimentState

_log = logging.getLogger("incl.provisioner")
_TEXT_MOST = 4_000


def rank_reported(
    work: Work,
    node: str,
    key: tuple[str, int, int],
    fact: RankFact,
    times: RankTimes,
    *,
    finish: Finish | None = None,
    port: int | None = None,
    seq: int = 0,
) -> None:
    """A node said something about a rank. What is late, of an older attempt or of another's rank changes nothing.

    seq: the number of the report in the node's journal.
    """
    found = store.load_rank(work.connection, *key)
    if found is None or not found[1].live:
        return
    execution, row = found
    if row.node != node:
        _log.warning("node %s speaks of %s-%d-%d, which is on %s", node, *key, row.node)
        return
    row.times, row.said = times.model_dump_json(), max(row.said, seq)
    if port is not None and row.rank == 0 and row.state in (RankState.ASSIGNED, RankState.PREPARING):
        execution.port = port
    _advance(work, execution, row, fact, finish)


def give_up(work: Work, row: RankRow, reason: EndReason, message: str, at: float) -> None:
    """A rank that will not report its end any more. at: when it ended, the best estimate."""
    execution = store.load(work.connection, row.experiment)
    if execution is None or execution.attempt != row.attempt or not row.live:
        return
    _advance(work, execution, row, RankFact.GIVEN_UP, Finish(reason=reason, message=message, at=at))


def _advance(work: Work, execution: Execution, row: RankRow, fact: RankFact, finish: Finish | None) -> None:
    state = advance_rank(row.state, fact)
    if state is None:
        return
    row.state = state
    if state is RankState.ENDED and finish is not None:
        row.live = False
        told = bool(execution.attempt_stopping) and finish.reason is EndReason.STOPPED
        row.finish = finish.model_copy(update={"induced": told}).model_dump_json()
    store.save_rank(work.connection, row)
    counts = _counts(work, execution, row)
    changed = _attempt_advanced(work, execution, row, counts)
    if state is RankState.ENDED:
        work.touch(Change.EXPERIMENT, execution.id)
        others = execution.attempt_state not in (None, AttemptState.ENDED)
        if others and finish is not None and is_failure(finish.reason):
            begin_stop(work, execution)
            changed = True
    elif execution.demand.nodes > 1 and state is RankState.READY and all_ready(+counts):
        work.touch(Change.EXPERIMENT, execution.id)
        if _one_image(work, execution):
            return
    if changed or state is RankState.READY:
        store.save(work.connection, execution)


def _one_image(work: Work, execution: Execution) -> bool:
    """All ranks of a gang run the same image, or the attempt ends before it begins; whether it does."""
    digest, others = images.strays(store.load_ranks(work.connection, execution.id, execution.attempt))
    for row in others[:1]:
        store.save(work.connection, execution)
        found = images.image_of(row) or ""
        text = f"the tag of the image moved while the nodes pulled it: {found}, and {digest} on rank 0"
        give_up(work, row, EndReason.INFRA, text, work.now)
    return bool(others)


def _counts(work: Work, execution: Execution, row: RankRow) -> Counter[RankState]:
    if execution.demand.nodes == 1:
        return Counter({row.state: 1})
    return store.rank_counts(work.connection, execution.id, execution.attempt)


def _attempt_advanced(work: Work, execution: Execution, row: RankRow, counts: Counter[RankState]) -> bool:
    fact = summary(counts)
    if fact is None or execution.attempt_state is None:
        return False
    if fact is AttemptFact.STARTED and execution.attempt_stopping:
        return False
    state = advance_attempt(execution.attempt_state, fact)
    if state is None:
        return False
    if state is AttemptState.RUNNING:
        execution.attempt_state = state
        _started(work, execution, row)
    elif state is AttemptState.ENDED:
        execution.attempt_state = state
        _conclude(work, execution, row)
    return state in (AttemptState.RUNNING, AttemptState.ENDED)


def _started(work: Work, execution: Execution, row: RankRow) -> None:
    state = advance(execution.state, ExperimentFact.STARTED)
    if state is not None:
        execution.state = state
    ranks = tuple(RankTimes.model_validate_json(each.times) for each in _all(work, execution, row))
    work.emit(execution, AttemptStarted(experiment=execution.id, attempt=execution.attempt, ranks=ranks))
    if execution.attempt > 1:
        _recovered(work, execution)


def _recovered(work: Work, execution: Execution) -> None:
    """How long nothing of it ran: since the end of the attempt before, a lost machine's last word."""
    before = store.load_ranks(work.connection, execution.id, execution.attempt - 1)
    ends = [Finish.model_validate_json(rank.finish).at for rank in before if rank.finish]
    if ends:
        seconds = work.now - max(ends)
        work.tx.after_commit(lambda: work.metrics.recovery.observe("attempt", seconds))


def begin_stop(work: Work, execution: Execution) -> None:
    """Every rank is told to stop, with a time after which what has not ended is given up. The caller saves."""
    if execution.attempt_stopping:
        return
    execution.attempt_stopping = True
    due = work.now + execution.grace + work.settings.stop_margin_s
    store.arm(work.connection, Timer.STOP, f"{execution.id}:{execution.attempt}", due)
    work.touch(Change.EXPERIMENT, execution.id)


def stop_overdue(work: Work, key: str) -> None:
    """An attempt was told to stop long ago: give up the ranks that have not ended."""
    store.disarm(work.connection, Timer.STOP, key)
    experiment, _, attempt = key.partition(":")
    for row in store.load_ranks(work.connection, experiment, int(attempt)):
        if row.live:
            give_up(work, row, EndReason.LOST, "it did not end after it was told to stop", work.now)


def _all(work: Work, execution: Execution, row: RankRow) -> list[RankRow]:
    """Every rank of the attempt that this one belongs to."""
    return [row] if execution.demand.nodes == 1 else store.load_ranks(work.connection, execution.id, execution.attempt)


def _conclude(work: Work, execution: Execution, row: RankRow) -> None:
    """Every rank ended: say so, and decide what follows."""
    rows = _all(work, execution, row)
    finishes = [(row, Finish.model_validate_json(row.finish or "")) for row in rows]
    ends = [End(row.rank, end.reason, end.message, end.hint, end.at, end.induced) for row, end in finishes]
    last = verdict(ends, _taken(work, execution))
    reason, message = last.reason, _message(last, len(rows))
    stopping = execution.state is ExperimentState.STOPPING
    again = retries(reason, execution.attempt, Retry.model_validate_json(execution.retry), stopping=stopping)
    work.emit(
        execution,
        AttemptEnded(
            experiment=execution.id, attempt=execution.attempt, reason=reason, message=message, retry=again,
            ranks=tuple(_rank_end(row, end) for row, end in finishes),
        ),
    )  # fmt: skip
    if execution.attempt_stopping:
        store.disarm(work.connection, Timer.STOP, f"{execution.id}:{execution.attempt}")
    if execution.cloud:
        _drain(work, execution)
    state = advance(execution.state, conclusion(reason, retry=again))
    if state is None:
        _log.error("experiment %s is %s and cannot end with %s", execution.id, execution.state, reason)
    elif state is ExperimentState.QUEUED:
        execution.state = state
        execution.not_before = work.now + backoff_s(reason, execution.attempt, work.settings.retry_pause_s)
        execution.attempt_state, execution.attempt_stopping, execution.port = None, False, None
        execution.waiting, execution.blocked_since = "", None
        work.touch(Change.EXPERIMENT, execution.id)
    else:
        finish(work, execution, state, reason, message, last.hint)


def _taken(work: Work, execution: Execution) -> float | None:
    """When the provider first said that it takes a machine of this attempt back; not one of an earlier try to boot."""
    gang = store_gangs.load(work.connection, execution.id, execution.attempt) if execution.cloud else None
    if gang is None or gang.preempted is None or gang.preempted < (gang.made or 0.0):
        return None
    return gang.preempted


def _drain(work: Work, execution: Execution) -> None:
    """Its machines stay until the tracker has all that it said, or that takes too long."""
    cloud = work.settings.cloud
    due = work.now + (cloud.drain_s if cloud is not None else 0.0)
    store.arm(work.connection, Timer.DRAIN, f"{execution.id}:{execution.attempt}", due)
    work.touch(Change.EXPERIMENT, execution.id)


def _message(end: End, ranks: int) -> str:
    text = end.message
    return f"rank {end.rank}: {text}" if text and ranks > 1 else text


def _rank_end(row: RankRow, end: Finish) -> RankEnd:
    return RankEnd(
        rank=row.rank, node=row.node, reason=end.reason, exit_code=end.exit_code, signal=end.signal,
        message=end.message[:_TEXT_MOST], writers=end.writers, times=RankTimes.model_validate_json(row.times),
    )  # fmt: skip


def finish(
    work: Work, execution: Execution, state: ExperimentState, reason: EndReason, message: str, hint: str
) -> None:
    """The final state. The caller saves."""
    execution.state, execution.live = state, False
    execution.reason, execution.ended = reason, work.now
    if execution.cloud and store_gangs.unwant(work.connection, execution.id, execution.attempt):
        work.touch(Change.GANG, execution.id)
    if not hint and state is ExperimentState.FAILED and execution.attempt:
        hint = f"incl logs {short(execution.id)}"
    work.emit(
        execution,
        ExperimentFinished(
            experiment=execution.id, state=state, reason=reason, message=message[:_TEXT_MOST],
            hint=hint[:_TEXT_MOST], attempts=execution.attempt,
        ),
    )  # fmt: skip
    work.touch(Change.EXPERIMENT, execution.id)
    work.tx.after_commit(work.metrics.finished.labels(state.value).inc)
