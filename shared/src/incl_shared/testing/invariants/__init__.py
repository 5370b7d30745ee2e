"""What must hold after any run, however it was disturbed: collect `Evidence`, then `assert_holds(evidence)`.

The checks are pure: a simulation, a unit test and the real platform hand in the same evidence. Who gathers it from a
running platform is in `incl_shared.testing.invariants.collect`.
"""

from incl_shared.testing.invariants.check import assert_holds, violations
from incl_shared.testing.invariants.evidence import (
    Dead,
    Evidence,
    Fact,
    Leftover,
    Logged,
    Ran,
    Stored,
    Submitted,
    Told,
    Violation,
    point,
)

__all__ = [
    "Dead",
    "Evidence",
    "Fact",
    "Leftover",
    "Logged",
    "Ran",
    "Stored",
    "Submitted",
    "Told",
    "Violation",
    "assert_holds",
    "point",
    "violations",
]
