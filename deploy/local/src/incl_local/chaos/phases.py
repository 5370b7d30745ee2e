"""Experiments that are held at a phase of their life, for real, until they are let go.

| phase | what holds it |
|---|---|
| packing | its command line stands (SIGSTOP) where it asks to upload its code; nothing is submitted yet |
| queued | another experiment fills the node |
| unpacking | the fetch of its code waits at the gate |
| running | it goes on until a file is there |
| checkpointing | the upload of a large checkpoint waits at the gate; it runs meanwhile |
| uploading | it has ended, the upload of an output waits at the gate |
| ending | it was told to stop, and takes its time |

`filler` is the experiment that fills the node, an eighth phase that is only looked at as what it is: running.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incl_local.chaos import job, ledger
from incl_local.chaos.gates import Gate, Hold
from incl_local.chaos.victims import Chaos
from incl_local.processes import Identity
from incl_local.testing import wait
from incl_shared.archive.pack import pack
from incl_shared.ids import new_id
from incl_shared.states import ExperimentState

PHASES = ("packing", "queued", "unpacking", "running", "checkpointing", "uploading", "ending")
WITH_PROCESS = ("running", "checkpointing", "ending")
"""Phases in which a shim and a job live."""
CORES = 16.0
"""What the node offers, whatever it has: INCL_AGENT_CPU."""
_HALF = 10.0
SEEN_S = 60.0
_ANSWERED_S = 20.0


@dataclass
class Held:
    """One experiment at its phase."""

    phase: str
    experiment: str
    folder: Path
    written: Path
    sha256: str
    client: subprocess.Popen[str] | None = None
    hold: Hold | None = None

    @property
    def right(self) -> frozenset[ExperimentState]:
        """The final state that is right for it."""
        return frozenset({ExperimentState.STOPPED if self.phase == "ending" else ExperimentState.FINISHED})

    def freeze(self, number: signal.Signals) -> None:
        """Signal its command line, while it runs."""
        identity = None if self.client is None or self.client.poll() is not None else Identity.of(self.client.pid)
        if identity is not None:
            identity.send(number)

    def books(self) -> list[ledger.Book]:
        """What its processes wrote, the oldest attempt first."""
        return ledger.read(self.written, self.experiment)


@dataclass
class Stage:
    """All experiments of one round, in a folder of its own."""

    chaos: Chaos
    gate: Gate
    folder: Path
    held: dict[str, Held] = field(default_factory=dict)

    @property
    def go(self) -> Path:
        """The file that lets jobs end."""
        return self.folder / "go"

    def submit(self, phase: str) -> Held:
        """Submit an experiment that will stand at a phase."""
        made = self._make(phase)
        self.held[phase] = made
        if phase == "packing":
            made.hold = self.gate.hold(lambda line: line.startswith(("HEAD", "PUT")) and made.sha256 in line)
        elif phase == "unpacking":
            made.hold = self.gate.hold(lambda line: line.startswith("GET") and made.sha256 in line)
        elif phase == "checkpointing":
            made.hold = self.gate.hold(_of_size(job.CHECKPOINT_BYTES))
        elif phase == "uploading":
            made.hold = self.gate.hold(_of_size(job.OUTPUT_BYTES))
        words = ("run", "--detach", "--id", made.experiment, str(made.folder / "spec.json"))
        made.client = self.chaos.home.start(*words, cwd=made.folder)
        return made

    def submitted(self, made: Held, timeout: float = SEEN_S) -> None:
        """Its command line has ended well."""
        assert made.client is not None
        out, err = made.client.communicate(timeout=timeout)
        assert made.client.returncode == 0, f"{made.phase}: {out}{err}"

    def no_client_failed(self) -> None:
        """Whoever packed was not sent away.

        Raises:
            AssertionError: with what its command line said.
        """
        packing = self.held.get("packing")
        if packing is not None and packing.client is not None and packing.client.poll():
            self.submitted(packing)

    def let_go(self) -> None:
        """Everything may go on. Whoever packs goes on once its question is answered, as after a long sleep."""
        self.go.touch()
        self.gate.release()
        packing = self.held.get("packing")
        if packing is not None and packing.hold is not None and packing.client is not None:
            if packing.client.poll() is None:
                packing.hold.answered.wait(_ANSWERED_S)
            packing.freeze(signal.SIGCONT)

    def close(self) -> None:
        """End what the test itself started."""
        self.let_go()
        for made in self.held.values():
            if made.client is not None and made.client.stdout is not None and not made.client.stdout.closed:
                if made.client.poll() is None:
                    made.client.kill()
                made.client.communicate()

    def _make(self, phase: str) -> Held:
        experiment, folder, books = new_id(), self.folder / phase, self.folder / "ledger"
        folder.mkdir(parents=True)
        books.mkdir(exist_ok=True)
        shutil.copyfile(job.__file__, folder / "job.py")
        (folder / "phase.txt").write_text(f"{phase} of {experiment}\n", encoding="ascii")
        spec: dict[str, Any] = {
            "name": phase,
            "command": [sys.executable, "job.py"],
            "env": {"PHASE": phase, "GATE": str(self.go), "LEDGER": str(books)},
            "resources": {"cpu": _HALF if phase in ("queued", "filler") else 0.1},
            "priority": -10 if phase == "queued" else 0,
            "retry": {"on": ["preempted", "lost", "infra", "error"], "attempts": 4},
            "checkpoint": {"keep": "latest", "grace": 300},
        }
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        packed = pack(folder, self.folder / f"{phase}.tar.zst")
        return Held(phase, experiment, folder, books, packed.sha256)


def _of_size(size: int) -> Callable[[str], bool]:
    """Uploads of this very size."""
    return lambda line: (
        line.startswith(("HEAD", "PUT")) and f"size={size}" in line.split(" ")[1].replace("&", "?").split("?")
    )


def begin(stage: Stage, phases: tuple[str, ...] = PHASES) -> None:
    """Submit them side by side, and wait until each is seen to stand at its phase."""
    if "queued" in phases:
        filler = stage.submit("filler")
        stage.submitted(filler)
        _seen_running(filler)
    for phase in phases:
        stage.submit(phase)
    for phase in phases:
        made = stage.held[phase]
        if phase != "packing":
            stage.submitted(made)
        if made.hold is not None:
            assert made.hold.seen.wait(SEEN_S), f"{phase} was not seen"
            if phase == "packing":
                made.freeze(signal.SIGSTOP)
        elif phase == "queued":
            _waits(stage, made)
        elif phase == "running":
            _seen_running(made)
        elif phase == "ending":
            _seen_running(made)
            stopped = stage.chaos.home.incl("stop", made.experiment)
            assert stopped.code == 0, stopped.err
            wait(lambda made=made: any(book.noted("stopping") for book in made.books()), SEEN_S, "the stop")  # type: ignore[misc]


def _seen_running(made: Held) -> None:
    wait(lambda: any(len(book.steps) >= 3 for book in made.books()), SEEN_S, f"{made.phase} to run")


def _waits(stage: Stage, made: Held) -> None:
    def queued() -> bool:
        shown = stage.chaos.home.incl("show", made.experiment, "--json")
        return shown.code == 0 and shown.json["row"]["state"] == "queued" and bool(shown.json["row"]["waiting"])

    wait(queued, SEEN_S, "a reason for waiting")
