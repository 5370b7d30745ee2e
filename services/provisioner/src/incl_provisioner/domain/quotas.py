"""The door for quotas: what a user or a project may have running at once."""

from __future__ import annotations

from typing import Protocol

from incl_provisioner.domain.placement import Demand


class Quotas(Protocol):
    """Asked before an attempt is placed."""

    def refusal(self, user: str, project: str, demand: Demand) -> str | None:
        """Why it must wait although there may be room; None when it need not."""
        ...

    def started(self, user: str, project: str, demand: Demand) -> None:
        """An attempt was placed."""
        ...

    def ended(self, user: str, project: str, demand: Demand) -> None:
        """An attempt ended."""
        ...


class NoQuotas:
    """Nobody is limited."""

    def refusal(self, user: str, project: str, demand: Demand) -> str | None:
        """Never."""
        return None

    def started(self, user: str, project: str, demand: Demand) -> None:
        """Nothing is counted."""

    def ended(self, user: str, project: str, demand: Demand) -> None:
        """Nothing is counted."""
