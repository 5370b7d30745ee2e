"""The SQL of what keeps a cloud from being used."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from incl_provisioner.domain.cloud.errors import Meaning, Verdict
from incl_provisioner.tables import cloud_trouble

_MOST = 600
_REASON_MOST = 128


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps all machines of a cloud from being looked after. reason: a name for it; message, hint: for people."""

    reason: str
    message: str
    hint: str = ""

    @property
    def refused(self) -> bool:
        """Whether the provider does not accept the platform's account: somebody must act."""
        return self.reason in (Meaning.CREDENTIALS.value, Meaning.PERMISSION.value)


def of(verdict: Verdict | None) -> Trouble | None:
    """What a verdict is for those who wait; the provider's own words with it."""
    if verdict is None:
        return None
    said = f" ({verdict.said[:_MOST]})" if verdict.said else ""
    refused = verdict.meaning in (Meaning.CREDENTIALS, Meaning.PERMISSION)
    reason = verdict.meaning.value if refused else verdict.reason[:_REASON_MOST]
    return Trouble(reason, verdict.message + said, verdict.hint)


def load(connection: sa.Connection, provider: str) -> tuple[Trouble, float] | None:
    """(it, since when in epoch seconds) of a cloud; None: it can be used, as far as anybody knows."""
    row = connection.execute(sa.select(cloud_trouble).where(cloud_trouble.c.provider == provider)).first()
    return None if row is None else (Trouble(row.reason, row.message, row.hint), row.since)


def save(connection: sa.Connection, provider: str, trouble: Trouble | None, now: float) -> None:
    """What it is now; it began when one of the same reason did."""
    before = load(connection, provider)
    connection.execute(sa.delete(cloud_trouble).where(cloud_trouble.c.provider == provider))
    if trouble is None:
        return
    since = before[1] if before is not None and before[0].reason == trouble.reason else now
    values = {"reason": trouble.reason, "message": trouble.message, "hint": trouble.hint}
    connection.execute(sa.insert(cloud_trouble), {"provider": provider, "since": since, **values})
