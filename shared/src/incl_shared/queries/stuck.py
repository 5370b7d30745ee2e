"""What does not move, and why: every service is asked the same question, and answers for itself. Operators only.

A finding's kind is <what>.<how>; docs/runbooks/operating.md says of each what it means and what to do.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from incl_shared.queries.base import Answer, Query

MOST = 50
"""Findings of one kind that a service tells of; the rest is counted."""


class Finding(Answer):
    """One thing that does not move. note: it is worth knowing, and nothing has to be done."""

    kind: str = Field(description="Such as outbox.waiting.")
    severity: Literal["note", "warning", "error"]
    subject: str = Field(description="What it is about: an experiment, a durable, a node …")
    since_s: float | None = Field(None, description="Seconds; none where nobody knows.")
    reason: str
    hint: str = Field("", description="The next step: a command, or a word.")


class Findings(Answer):
    """All that a service found. more: those left out, by kind."""

    findings: tuple[Finding, ...]
    more: dict[str, int] = Field(default_factory=dict)


class _Stuck(Query[Findings]):
    operators: ClassVar[bool] = True

    after_s: float | None = Field(
        None, ge=0, description="What has stood still for less is left out; none: as long as is usual for each kind."
    )

    def patience(self, usual_s: float) -> float:
        """Seconds before a thing is told of."""
        return usual_s if self.after_s is None else self.after_s


class ProvisionerStuck(_Stuck):
    """What the provisioner waits for: experiments, attempts, machines, the scheduler."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "stuck"
    answer: ClassVar[type[Answer]] = Findings


class TrackerStuck(_Stuck):
    """What the tracker waits for: settlements, partitions, upkeep."""

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "stuck"
    answer: ClassVar[type[Answer]] = Findings


class RegistryStuck(_Stuck):
    """What the registry waits for: room, its upkeep."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "stuck"
    answer: ClassVar[type[Answer]] = Findings


class GatewayStuck(_Stuck):
    """What the gateway waits for."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "stuck"
    answer: ClassVar[type[Answer]] = Findings


class HpoStuck(_Stuck):
    """What the service of sweeps waits for: values of trials, proposals."""

    service: ClassVar[str] = "hpo"
    name: ClassVar[str] = "stuck"
    answer: ClassVar[type[Answer]] = Findings


STUCK: tuple[type[_Stuck], ...] = (ProvisionerStuck, TrackerStuck, RegistryStuck, GatewayStuck, HpoStuck)
"""The question to each service."""
