"""Evidence of a real platform: it is there, it is right, and what is left over is seen."""

from __future__ import annotations

import asyncio
from pathlib import Path

from incl_local.aftermath import gather
from incl_local.layout import Layout
from incl_local.running import find
from incl_local.testing import Home
from incl_shared.states import ExperimentState
from incl_shared.testing.invariants import violations


def test_what_is_left_of_an_experiment_is_seen(home: Home, project: Path) -> None:
    (project / "t.py").write_text("import incl\nincl.log({'x': 1})\nprint('hello')\n")
    assert home.incl("run", "--name", "aftermath", "--", "python", "t.py", cwd=project).code == 0
    experiment, place = home.show("aftermath")["row"]["id"], find(Layout(home.data)).place
    evidence = asyncio.run(gather(place, {experiment}))
    assert violations(evidence) == []
    kinds = [type(fact.event).__name__ for fact in evidence.facts]
    assert kinds[0] == "ExperimentQueued"
    assert {"AttemptAssigned", "AttemptStarted", "AttemptEnded", "AttemptSettled", "ExperimentFinished"} <= {*kinds}
    assert [(told.state, told.settled, told.lost) for told in evidence.told] == [(ExperimentState.FINISHED, True, {})]
    left = place.layout.agent / "jobs" / f"{experiment}-9-0"
    stray = place.layout.root / "stray.creds"
    left.mkdir()
    stray.touch()
    try:
        found = violations(asyncio.run(gather(place, {experiment}, quiet_s=0.5)))
    finally:
        left.rmdir()
        stray.unlink()
    assert [(violation.rule, violation.text) for violation in found] == [
        ("no folder left", left.name),
        ("no credential left", "stray.creds"),
    ]
