"""What each node is to do: a function of the attempts that hold room. The lists are kept as ready-made bytes."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field

from incl_provisioner.domain.attempt import all_ready
from incl_provisioner.domain.placement import Slot
from incl_provisioner.machines import newest_checkpoint
from incl_provisioner.store import Execution, RankRow
from incl_shared.control import CheckpointRef, JobSpec, JobWanted, Rendezvous, Wanted
from incl_shared.events.experiments import ExperimentSubmitted
from incl_shared.ids import short
from incl_shared.spec import Resources

_DEFAULT_CPU = Resources().cpu


@dataclass(slots=True)
class Attempt:
    """An attempt that holds room, as far as its nodes must know of it."""

    execution: str
    project: str
    user: str
    number: int
    spec: JobSpec
    addresses: tuple[str, ...]
    """Of all ranks, ended ones too."""
    slots: tuple[Slot, ...]
    """Of the ranks that have not ended."""
    stopping: bool
    ready: bool
    port: int | None
    checkpoint: CheckpointRef | None

    def wanted(self) -> Wanted:
        """Forward only: a rank that is ready stays ready, one that stops stays stopped."""
        if self.stopping:
            return Wanted.STOP
        if len(self.addresses) == 1:
            return Wanted.RUN
        return Wanted.RUN if self.ready and self.port is not None else Wanted.PREPARE

    def job(self, slot: Slot) -> JobWanted:
        """One rank."""
        wanted, rendezvous = self.wanted(), None
        if wanted is Wanted.RUN and len(self.addresses) > 1 and self.port is not None:
            rendezvous = Rendezvous(
                node_ips=self.addresses, master_addr=self.addresses[0], master_port=self.port
            )  # fmt: skip
        return JobWanted(
            experiment=self.execution, project=self.project, user=self.user, attempt=self.number, rank=slot.rank,
            wanted=wanted, address=slot.address, rendezvous=rendezvous, checkpoint=self.checkpoint,
            spec=self.spec.model_copy(update={"gpus": slot.gpus}),
        )  # fmt: skip


def attempt_of(execution: Execution, rows: list[RankRow], spec: JobSpec) -> Attempt:
    """What the rows of the current attempt amount to."""
    return Attempt(
        execution=execution.id, project=execution.project, user=execution.user, number=execution.attempt, spec=spec,
        addresses=tuple(row.address for row in rows), slots=tuple(row.slot for row in rows if row.live),
        stopping=bool(execution.attempt_stopping), ready=all_ready(row.state for row in rows), port=execution.port,
        checkpoint=newest_checkpoint(execution.attempt_checkpoint),
    )  # fmt: skip


def job_spec(request: str) -> JobSpec:
    """The part of a request that a node needs; the GPUs are those of the rank."""
    event = ExperimentSubmitted.model_validate_json(request)
    spec = event.spec
    return JobSpec(
        name=spec.name or short(event.experiment), command=tuple(spec.command), env=spec.env, secrets=spec.secrets,
        image=spec.image, image_login=spec.image_login, sandbox=spec.sandbox, nodes=spec.nodes, cpu=spec.resources.cpu,
        cpu_asked=spec.resources.cpu != _DEFAULT_CPU, memory=spec.resources.memory, data=spec.data,
        outputs=spec.outputs, metrics=tuple(spec.metrics), goals=spec.metrics, max_duration_s=spec.max_duration,
        grace_s=spec.checkpoint.grace, keep_checkpoints=spec.checkpoint.keep, code=event.code,
        submitter=event.submitter, sweep=event.provenance.sweep, trial=event.provenance.trial,
    )  # fmt: skip


@dataclass(slots=True)
class Fleet:
    """The wanted lists of all nodes."""

    specs: dict[str, JobSpec] = field(default_factory=dict)
    """Of every attempt that holds room, by experiment."""
    dirty: set[str] = field(default_factory=set)
    """Nodes whose list changed since it was last taken."""
    _jobs: defaultdict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    _where: dict[str, dict[str, str]] = field(default_factory=dict)

    def put(self, attempt: Attempt) -> None:
        """An attempt holds room, or something of it changed."""
        before = self._where.get(attempt.execution, {})
        now: dict[str, str] = {}
        for slot in attempt.slots:
            job = attempt.job(slot)
            text = job.model_dump_json().encode()
            now[job.job] = slot.node
            jobs = self._jobs[slot.node]
            if jobs.get(job.job) != text:
                jobs[job.job] = text
                self.dirty.add(slot.node)
        for gone in before.keys() - now.keys():
            self._remove(gone, before[gone])
        self._where[attempt.execution] = now

    def drop(self, experiment: str) -> None:
        """It holds no room any more."""
        for job, node in self._where.pop(experiment, {}).items():
            self._remove(job, node)
        self.specs.pop(experiment, None)

    def _remove(self, job: str, node: str) -> None:
        if self._jobs[node].pop(job, None) is not None:
            self.dirty.add(node)

    def jobs(self, node: str) -> tuple[str, ...]:
        """The jobs of a node's list."""
        return tuple(self._jobs.get(node, ()))

    def message(self, node: str, generation: int, life: str, lease_s: float, refused: str = "") -> bytes:
        """The wanted list of a node: a NodeWanted."""
        jobs = b",".join(self._jobs.get(node, {}).values())
        values = {"node": node, "generation": generation, "life": life, "lease_s": lease_s}
        head = json.dumps({**values, "refused": refused} if refused else values).encode()
        return b'%s,"jobs":[%s]}' % (head.removesuffix(b"}"), jobs)
