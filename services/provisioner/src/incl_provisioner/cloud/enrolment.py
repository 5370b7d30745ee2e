"""Who may come in: a machine that was made, with the token of its try, once."""

from __future__ import annotations

import logging

from incl_provisioner import protocols, store, store_gangs
from incl_provisioner.cloud.tokens import same, token
from incl_provisioner.domain.cloud.gangs import Phase
from incl_provisioner.domain.cloud.names import rank_of
from incl_provisioner.domain.cloud.plan import longest
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.planner import CatalogPlanner
from incl_provisioner.settings import CloudOptions
from incl_provisioner.store_gangs import Enrolled
from incl_provisioner.work import Change
from incl_shared.auth.names import Role
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction
from incl_shared.errors import DeniedError
from incl_shared.events.experiments import ExperimentSubmitted
from incl_shared.queries.provisioner import EnrollNode, NodeAdmitted
from incl_shared.subjects import NODES_PROJECT, Asker

_log = logging.getLogger("incl.provisioner")
_ASKER = Asker(NODES_PROJECT, str(Role.GATEWAY))
_UP = (Phase.ASKED, Phase.MADE)
_TRY_AGAIN = "the machine is deleted; a new one is made where it is still wanted"


class Enrolment:
    """Answers the gateway."""

    def __init__(
        self, database: Database, options: CloudOptions | None, planner: CatalogPlanner | None,
        metrics: ProvisionerMetrics, clock: Clock,
    ) -> None:  # fmt: skip
        self._metrics, self._clock = metrics, clock
        self._database, self._options, self._planner = database, options, planner

    async def enroll(self, asker: Asker, query: EnrollNode) -> NodeAdmitted:
        """Let a machine in. The same machine with the same key may ask again: its answer may have been lost.

        Raises:
            DeniedError: the token is not the one of this machine's try, was used by another one, or is over.
        """
        if asker != _ASKER:
            raise DeniedError("only the gateway enrols machines")
        try:
            return await self._database.write(lambda tx: self._enroll(tx, query))
        except DeniedError as error:
            _log.warning("%s may not enrol: %s", query.node, error)
            raise

    def _enroll(self, tx: Transaction, query: EnrollNode) -> NodeAdmitted:
        with self._metrics.own_time("cloud"):
            return self._admit(tx, query)

    def _admit(self, tx: Transaction, query: EnrollNode) -> NodeAdmitted:
        place = rank_of(query.node)
        row = store_gangs.load(tx.connection, place.experiment, place.attempt) if place is not None else None
        options, planner = self._options, self._planner
        if place is None or row is None or options is None or planner is None or place.rank >= row.gang.nodes:
            raise DeniedError(f"no machine {query.node} was ever asked for", hint=_TRY_AGAIN)
        gang, now = row.gang, self._clock.now()
        _, key = store_gangs.known_by(tx)
        if not same(query.token, token(key, gang.experiment, gang.attempt, gang.turn)):
            raise DeniedError(f"the token is not that of {query.node}", hint=_TRY_AGAIN)
        if too_old := protocols.refusal(query.node, query.protocol):
            raise DeniedError(too_old, hint=protocols.remedy(query.node))
        if not row.live or not gang.wanted or gang.phase not in _UP:
            raise DeniedError(f"{query.node} is wanted no more", hint=_TRY_AGAIN)
        if now - (row.made or row.asked or now) > options.boot_s:
            raise DeniedError(f"the token of {query.node} has expired", hint=_TRY_AGAIN)
        before = store_gangs.enrolled(tx.connection, gang.experiment, gang.attempt).get(place.rank)
        if before is not None and before.turn == gang.turn:
            if before.key != query.key:
                raise DeniedError(f"the token of {query.node} was used before, by another machine", hint=_TRY_AGAIN)
        else:
            enrolled = Enrolled(gang.turn, query.key, now)
            store_gangs.put_enrolled(tx.connection, gang.experiment, gang.attempt, place.rank, enrolled)
            store_gangs.stranger(tx.connection, query.node)
            store.changed(tx.connection, Change.NODE, query.node)
        request = store.requests(tx.connection, [gang.experiment])[gang.experiment]
        spec = ExperimentSubmitted.model_validate_json(request).spec
        return NodeAdmitted(ttl_s=float(longest(spec, planner.settings)) + options.margin_s)
