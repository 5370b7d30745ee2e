"""Who owns what among the trackers of one database: fenced leases, shared evenly, renewed in time.

Each tracker is a member (a lease of its own name) and every `ttl` / 3 seconds, in one transaction, renews what it
holds, sees who the others are, and takes what is free up to its share. What it holds beyond its share it gives up, once
what it does with it has ended. Nothing here protects the data: that is `Claim.guard`, within each writing transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from incl_shared import leases
from incl_shared.bus.tables import leases as table
from incl_shared.db import Database, DatabaseUnavailable, Transaction
from incl_shared.holders import is_gone, own_holder
from incl_shared.leases import Lease, LeaseLost
from incl_shared.recovery import Recovery
from incl_shared.tasks import end_all, within
from incl_tracker import counters

_log = logging.getLogger("incl.tracker")
T = TypeVar("T")
PREFIX = "tracker."
_MEMBER = f"{PREFIX}member."
_SEEK_S = 0.5
"""Between two looks of one that holds less than its share."""
_FORGET = 10.0
"""A member that was not heard of for so many times `ttl` is struck off."""


class Claim:
    """Something that one tracker owns at a time. lease: none while another one does, or nobody.

    inherited: it was another tracker's, and that one did not give it up itself.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lease: Lease | None = None
        self.until = 0.0
        self.inherited = False
        self.surplus = False

    @property
    def held(self) -> bool:
        """Whether it is this tracker's now, as far as it knows."""
        return self.lease is not None and time.monotonic() < self.until

    def guard(self, tx: Transaction, fence: int | None = None) -> None:
        """Let this transaction commit only if it is this tracker's, and has been since it got this fence.

        Raises:
            LeaseLost: it is not.
        """
        lease = self.lease
        if lease is None or fence not in (None, lease.fence):
            raise LeaseLost(f"{self.name} is not held by this tracker")
        leases.check(tx, lease)


class Sole:
    """A kind of work that one tracker does at a time."""

    def __init__(self, claim: Claim, database: Database) -> None:
        self._claim = claim
        self.database: Database = _Fenced(database, claim)
        """The same database; what is written through it is written only while the work is this tracker's."""

    @property
    def held(self) -> bool:
        """Whether it is this tracker's to do now."""
        return self._claim.held


class _Fenced(Database):
    def __init__(self, inner: Database, claim: Claim) -> None:
        super().__init__(inner.url, clock=inner.clock)
        self._inner = inner
        self._claim = claim

    async def write(self, function: Callable[[Transaction], T]) -> T:
        def fenced(tx: Transaction) -> T:
            self._claim.guard(tx)
            return function(tx)

        return await self._inner.write(fenced)

    async def read(self, function: Callable[[sa.Connection], T]) -> T:
        return await self._inner.read(function)


@dataclass(frozen=True)
class _Seen:
    """One round. kept: what is held, by name; inherited: what others had not given up; members: trackers that live."""

    kept: dict[str, Lease]
    inherited: frozenset[str]
    members: int
    share: int
    lacking: bool


class Ownership:
    """This tracker's part of everything. ttl: seconds after which the others take over what it does not renew.

    Claims are made before `start`. changed: called in the event loop after each round, and when the time of what is
    held ran out because the database was away.
    """

    def __init__(self, database: Database, *, ttl: float, holder: str = "", recovery: Recovery | None = None) -> None:
        self._recovery = recovery or Recovery("tracker", CollectorRegistry())
        self.holder = holder or own_holder()
        self.ttl = ttl
        self.members = 1
        self._database = database
        self._shared: list[Claim] = []
        self._sole: list[Claim] = []
        self._listeners: list[Callable[[], None]] = []
        self._turns = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._steady_since = float("-inf")
        self._last = float("inf")
        self._warned = False

    # --- before start

    def shared(self, names: Sequence[str]) -> list[Claim]:
        """Things of which each tracker owns its share."""
        claims = [Claim(PREFIX + name) for name in names]
        self._shared += claims
        return claims

    def sole(self, name: str) -> Sole:
        """Work that one tracker does."""
        claim = Claim(PREFIX + name)
        self._sole.append(claim)
        return Sole(claim, self._database)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call this in the event loop when `held` of something may have changed."""
        self._listeners.append(listener)

    # --- life

    async def start(self) -> None:
        """Take what is free, and go on from there."""
        delay = await self._round()
        self._task = asyncio.create_task(self._run(delay), name="tracker-ownership")

    async def stop(self) -> None:
        """Give up everything. What is done with it has to have ended."""
        await end_all([self._task])
        self._task = None
        held = [claim.lease for claim in (*self._shared, *self._sole) if claim.lease is not None]
        for claim in (*self._shared, *self._sole):
            claim.lease = None
            self._recovery.free(claim.name.removeprefix(PREFIX), lost=False)
        try:
            await self._database.write(lambda tx: self._leave(tx, held))
        except DatabaseUnavailable as error:
            _log.info("the leases will expire by themselves: %s", error.message)

    async def give_up(self, claim: Claim) -> None:
        """Let another one have it, once nothing is done with it any more."""
        async with self._turns:
            lease, claim.lease, claim.surplus = claim.lease, None, False
            if lease is not None:
                self._recovery.free(claim.name.removeprefix(PREFIX), lost=False)
                await self._database.write(lambda tx: leases.release(tx, lease))

    def look(self) -> None:
        """Look at once: something was lost."""
        self._wake.set()

    # --- the rounds

    async def _run(self, delay: float) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await within(delay, self._wake.wait())
            self._wake.clear()
            try:
                delay = await self._round()
            except sa.exc.SQLAlchemyError:
                counters.UPKEEP_FAILED.labels("ownership").inc()
                _log.exception("the leases could not be renewed; it is tried again")
                delay = _SEEK_S

    async def _round(self) -> float:
        """One round. Returns the seconds until the next one."""
        async with self._turns:
            seen = await self._renewal()
        self._tell()
        return _SEEK_S if seen is None or seen.lacking else self.ttl / 3

    async def _renewal(self) -> _Seen | None:
        """None: the database is away. Meanwhile time runs out as it must."""
        began = time.monotonic()
        writing = asyncio.ensure_future(self._database.write(self._renew))
        try:
            while not writing.done():
                left = min((c.until - time.monotonic() for c in self._claims() if c.held), default=None)
                await asyncio.wait({writing}, timeout=None if left is None else left + 0.01)
                if not writing.done():
                    self._tell()
            seen = writing.result()
        except DatabaseUnavailable as error:
            if not self._warned:
                _log.warning("the leases cannot be renewed: %s", error.cause or error.message)
            self._warned = True
            self._recovery.database.begin("leases")
            return None
        finally:
            writing.cancel()
        self._warned = False
        self._recovery.database.end("leases")
        self._note(seen, began)
        return seen

    def _claims(self) -> list[Claim]:
        return [*self._shared, *self._sole]

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _note(self, seen: _Seen, began: float) -> None:
        self.members = seen.members
        self._last = time.monotonic()
        for claim in self._claims():
            lease = seen.kept.get(claim.name)
            shown = claim.name.removeprefix(PREFIX)
            if claim.lease is not None and lease is None:
                _log.warning("%s was taken by another tracker", claim.name)
                self._recovery.free(shown, lost=True)
            if lease is not None and (claim.lease is None or claim.lease.fence != lease.fence):
                claim.inherited = claim.name in seen.inherited
                self._recovery.held(lease, shown)
            claim.lease, claim.until = lease, began + self.ttl
        held = [claim for claim in self._shared if claim.lease is not None]
        for number, claim in enumerate(held):
            claim.surplus = number >= seen.share

    def _renew(self, tx: Transaction) -> _Seen:
        """In the writer thread: word of this tracker, renewal, and what is free up to its share."""
        now = time.monotonic()
        if now - self._last > self.ttl / 2:
            self._steady_since = now
        leases.acquire(tx, _MEMBER + self.holder, self.holder, self.ttl)
        query = sa.select(table.c.name, table.c.holder, table.c.expires).where(table.c.name.startswith(PREFIX))
        rows = {name: (holder, expires) for name, holder, expires in tx.connection.execute(query)}
        for name, (_, expires) in rows.items():
            leases.cut(tx, name, expires, self.ttl)
        members = self._members(tx, rows)
        share = _share(len(self._shared), members.index(self.holder), len(members))
        kept = {lease.name: lease for lease in (self._renewed(tx, c.lease) for c in self._claims()) if lease}
        lacking = share - sum(claim.name in kept for claim in self._shared)
        inherited: set[str] = set()
        for number, claim in enumerate(self._claims()):
            one_of_many = number < len(self._shared)
            holder, expires = rows.get(claim.name, ("", 0.0))
            if claim.name in kept or (one_of_many and lacking <= 0):
                continue
            if not self._may_take(holder, expires - tx.clock.now()):
                continue
            lease = leases.acquire(tx, claim.name, self.holder, self.ttl, gone=is_gone)
            if lease is not None:
                kept[claim.name] = lease
                lacking -= one_of_many
                inherited |= {claim.name} if holder else set()
        return _Seen(kept, frozenset(inherited), len(members), share, lacking > 0)

    def _may_take(self, holder: str, left: float) -> bool:
        """Whether a thing may be taken of which this is the holder, for so many seconds.

        After an outage of the database everything has expired: those who hold it get the time to renew it first.
        """
        if not holder or is_gone(holder):
            return True
        return left <= 0 and time.monotonic() - self._steady_since >= self.ttl

    def _renewed(self, tx: Transaction, lease: Lease | None) -> Lease | None:
        if lease is None:
            return None
        try:
            return leases.renew(tx, lease, self.ttl)
        except LeaseLost:
            return None

    def _members(self, tx: Transaction, rows: Mapping[str, tuple[str, float]]) -> list[str]:
        """The holders that live, this one among them. Those that are long gone are struck off."""
        now = tx.clock.now()
        living = {self.holder}
        for name, (holder, expires) in rows.items():
            if not name.startswith(_MEMBER):
                continue
            if expires > now and not is_gone(holder):
                living.add(holder)
            elif holder != self.holder and expires < now - _FORGET * self.ttl:
                tx.connection.execute(sa.delete(table).where(table.c.name == name, table.c.expires == expires))
        return sorted(living)

    def _leave(self, tx: Transaction, held: Sequence[Lease]) -> None:
        for lease in held:
            leases.release(tx, lease)
        tx.connection.execute(sa.delete(table).where(table.c.name == _MEMBER + self.holder))


def _share(things: int, place: int, members: int) -> int:
    """How many of the things the member at a place of the list owns: the shares of all make up all things."""
    return things // members + (place < things % members)
