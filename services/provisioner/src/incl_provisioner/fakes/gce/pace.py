"""How long things take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Seconds of each phase, and how fast the time that a client names passes.

    Attributes:
        pending: an operation stays PENDING.
        create, delete, change: an operation stays RUNNING: for what makes, for what removes, for all others.
        staging: from PROVISIONING to RUNNING, the boot of the guest not counted.
        notice: from `instance/preempted` to the ACPI signal when the VM asked for no notice of its own.
        spot_grace, standard_grace: from the ACPI signal to the power cut.
        shown_running: how long a preempted VM that is dead already is still shown RUNNING.
        wait: the longest that `operations.wait` waits.
        speed: a second of `maxRunDuration` or `preemptionNoticeDuration` lasts 1/speed seconds.
    """

    pending: float = 0.0
    create: float = 0.01
    delete: float = 0.01
    change: float = 0.0
    staging: float = 0.0
    notice: float = 0.0
    spot_grace: float = 2.0
    standard_grace: float = 3.0
    shown_running: float = 0.1
    wait: float = 120.0
    speed: float = 1.0


QUICK = Pace()
REAL = Pace(
    pending=0.3, create=6.0, delete=20.0, change=1.0, staging=4.0,
    spot_grace=30.0, standard_grace=120.0, shown_running=60.0
)  # fmt: skip
"""About what the provider takes."""
