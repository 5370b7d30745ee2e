"""Fenced leases in the database: what must be done by one holder at a time.

The clock decides only when somebody else may take over; what protects the data is the fence. It grows with every new
holder, and `check` looks at it (and locks its row) within the writing transaction itself: whoever lost the lease
cannot commit, however late he notices, and however wrong his clock is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from incl_shared.bus.tables import leases
from incl_shared.db import insert_ignore
from incl_shared.errors import ConflictError

if TYPE_CHECKING:
    from incl_shared.db import Transaction


_TOO_FAR = 2
_NAMED = leases.c.name == sa.bindparam("of_name")
_TAKE = sa.select(leases).where(_NAMED).with_for_update(skip_locked=True)
_CHECK = (
    sa.select(leases.c.fence).where(_NAMED, leases.c.holder == sa.bindparam("of_holder")).with_for_update(read=True)
)
_CUT = (
    sa.update(leases)
    .where(_NAMED, leases.c.expires == sa.bindparam("of_expires"))
    .values(expires=sa.bindparam("new_expires"))
)
_RELEASE = sa.update(leases).where(_NAMED, leases.c.fence == sa.bindparam("of_fence")).values(holder="", expires=0.0)
_STORE = (
    sa.update(leases)
    .where(_NAMED)
    .values({name: sa.bindparam(f"new_{name}") for name in ("holder", "fence", "expires")})
)


class LeaseLost(ConflictError):  # noqa: N818
    """Another one holds it now: nothing may be written in its name any more."""


@dataclass(frozen=True)
class Lease:
    """A lease that was held when it was made. expires: epoch s.

    idle: set where it was taken from one who did not give it up: seconds since he renewed it last.
    """

    name: str
    holder: str
    fence: int
    expires: float
    idle: float | None = None


def acquire(
    tx: Transaction, name: str, holder: str, ttl: float, *, gone: Callable[[str], bool] | None = None
) -> Lease | None:
    """Take a lease for `ttl` seconds, or none where another holder's has not expired. Taken again, it is renewed.

    A lease in whose name a transaction is under way is not waited for (the process may hang): there is none now.
    gone: says of a holder that it does not live any more; its leases need not expire.
    """
    now = tx.clock.now()
    start = {"name": name, "holder": "", "fence": 0, "expires": 0.0}
    tx.connection.execute(insert_ignore(tx.connection, leases), start)
    row = tx.connection.execute(_TAKE, {"of_name": name}).one_or_none()
    if row is None:
        return None
    if row.holder != holder and row.expires > now and not (gone is not None and gone(row.holder)):
        cut(tx, name, row.expires, ttl)
        return None
    own = row.holder == holder and row.expires > now
    idle = max(0.0, now - row.expires + ttl) if row.holder and not own else None
    lease = Lease(name, holder, row.fence if own else row.fence + 1, now + ttl, idle)
    _store(tx, lease)
    return lease


def cut(tx: Transaction, name: str, expires: float, ttl: float) -> None:
    """A lease that ends later than anybody could have asked for is from a clock that was wrong: it ends in `ttl` s.

    Its holder, should he live, renews it. Nothing happens where the end is a usual one.
    """
    if expires - tx.clock.now() > _TOO_FAR * ttl:
        values = {"of_name": name, "of_expires": expires, "new_expires": tx.clock.now() + ttl}
        tx.connection.execute(_CUT, values)


def renew(tx: Transaction, lease: Lease, ttl: float) -> Lease:
    """Hold it for `ttl` seconds from now.

    Raises:
        LeaseLost: when another one took it.
    """
    check(tx, lease)
    renewed = Lease(lease.name, lease.holder, lease.fence, tx.clock.now() + ttl)
    _store(tx, renewed)
    return renewed


def release(tx: Transaction, lease: Lease) -> None:
    """Let others have it at once. Nothing happens where it is lost already."""
    tx.connection.execute(_RELEASE, {"of_name": lease.name, "of_fence": lease.fence})


def check(tx: Transaction, lease: Lease) -> None:
    """Make this transaction one that only the holder can commit. Call it in every write done in the lease's name.

    Raises:
        LeaseLost: when another one took it.
    """
    fence = tx.connection.execute(_CHECK, {"of_name": lease.name, "of_holder": lease.holder}).scalar()
    if fence != lease.fence:
        raise LeaseLost(f"the lease {lease.name} was taken by another one", cause=f"fence {lease.fence} is old")


def _store(tx: Transaction, lease: Lease) -> None:
    values = {"new_holder": lease.holder, "new_fence": lease.fence, "new_expires": lease.expires}
    tx.connection.execute(_STORE, {"of_name": lease.name, **values})
