"""The environment that a job is given (section 4 of the design). Pure: values in, a dict out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from incl_shared.control import JobWanted, Rendezvous

INHERITED = frozenset(
    {
        *("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "PATH", "LD_LIBRARY_PATH"),
        *("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    }
)
"""What a job inherits from the agent. A list of what may pass, so that no secret passes by an unforeseen name."""
SUBMITTERS = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "LD_LIBRARY_PATH", "PYTHONPATH")
"""What the submitter's own shell decides when it is on this machine."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Paths:
    """Where the job finds its things."""

    work: Path
    outputs: Path
    data: Path
    spool: Path
    hostfile: Path
    sdk: Path
    checkpoint: Path | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    """What each entry of data is called -> its path."""


def base_environment(inherited: Mapping[str, str], extra: Iterable[str] = ()) -> dict[str, str]:
    """The agent's environment without its secrets, its virtual environment and its own settings."""
    names = INHERITED | set(extra)
    base = {name: text for name, text in inherited.items() if name in names or name.startswith("LC_")}
    own = {str(Path(prefix) / "bin") for prefix in (inherited.get("VIRTUAL_ENV"), sys.prefix) if prefix}
    if sys.prefix == sys.base_prefix:
        own.discard(str(Path(sys.prefix) / "bin"))
    path = [part for part in base.get("PATH", DEFAULT_PATH).split(":") if part and part not in own]
    return {"LANG": "C.UTF-8", **base, "PATH": ":".join(path) or DEFAULT_PATH}


def default_rendezvous(job: JobWanted, port: int) -> Rendezvous:
    """For a job of one node, whom nobody else has to find."""
    return Rendezvous(node_ips=(job.address,), master_addr=job.address, master_port=port)


def hostfile_text(job: JobWanted, meeting: Rendezvous) -> str:
    """One line a node, as mpirun and DeepSpeed read it."""
    slots = max(1, len(job.spec.gpus))
    return "".join(f"{address} slots={slots}\n" for address in meeting.node_ips)


def build_environment(
    job: JobWanted,
    meeting: Rendezvous,
    paths: Paths,
    *,
    base: Mapping[str, str],
    same_machine: bool,
    node_has_gpus: bool,
    secrets: Mapping[str, str],
) -> dict[str, str]:
    """Everything that the command sees.

    The order of precedence, lowest first: the machine's, the submitter's own tools (only when it is this machine and
    there is no image), the author's env, secrets, and last what the platform says.
    """
    spec = job.spec
    env = {} if spec.image else dict(base)
    if same_machine and not spec.image:
        theirs = {name: text for name, text in spec.submitter.environment.items() if name in SUBMITTERS}
        env.pop("LD_LIBRARY_PATH", None)
        env.update(theirs)
    env["PYTHONUNBUFFERED"] = "1"
    if spec.cpu_asked:
        env["OMP_NUM_THREADS"] = str(max(1, int(spec.cpu)))
    env.update(_devices(job, node_has_gpus))
    env.update(_meeting(job, meeting))
    env.update(spec.env)
    env.update(secrets)
    env["PYTHONPATH"] = ":".join(part for part in (env.get("PYTHONPATH", ""), str(paths.sdk)) if part)
    env.update(_platform(job, meeting, paths))
    return env


def _devices(job: JobWanted, node_has_gpus: bool) -> dict[str, str]:
    if job.spec.gpus or node_has_gpus:
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, job.spec.gpus)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {}


def _meeting(job: JobWanted, meeting: Rendezvous) -> dict[str, str]:
    """For launchers. RANK, WORLD_SIZE, LOCAL_RANK are theirs to set, for each of their processes."""
    address, port, nodes = meeting.master_addr, meeting.master_port, len(meeting.node_ips)
    workers = [f"{ip}:{_worker_port(port, rank)}" for rank, ip in enumerate(meeting.node_ips)]
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "NODE_RANK": str(job.rank),
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": str(max(1, len(job.spec.gpus))),
        "PET_NODE_RANK": str(job.rank),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": str(port),
        "JAX_COORDINATOR_ADDRESS": f"{address}:{port}",
        "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": job.rank}}),
    }


def _worker_port(port: int, rank: int) -> int:
    return port + rank if port + rank <= 65_535 else port - rank


def _platform(job: JobWanted, meeting: Rendezvous, paths: Paths) -> dict[str, str]:
    env = {
        "INCL_EXPERIMENT_ID": job.experiment,
        "INCL_PROJECT": job.project,
        "INCL_NAME": job.spec.name,
        "INCL_JOB": job.job,
        "INCL_ATTEMPT": str(job.attempt),
        "INCL_NODE_RANK": str(job.rank),
        "INCL_NUM_NODES": str(len(meeting.node_ips)),
        "INCL_NODE_IPS": ",".join(meeting.node_ips),
        "INCL_GPUS_PER_NODE": str(len(job.spec.gpus)),
        "INCL_OUTPUT_DIR": str(paths.outputs),
        "INCL_DATA_DIR": str(paths.data),
        "INCL_DATA_PATHS": json.dumps(dict(paths.named), sort_keys=True),
        "INCL_SPOOL_DIR": str(paths.spool),
        "INCL_HOSTFILE": str(paths.hostfile),
        "INCL_HPARAMS": json.dumps(job.spec.env, sort_keys=True),
    }
    if paths.checkpoint is not None:
        env["INCL_LATEST_CHECKPOINT"] = str(paths.checkpoint)
    if job.spec.sweep is not None and job.spec.trial is not None:
        env |= {"INCL_SWEEP": job.spec.sweep, "INCL_TRIAL": str(job.spec.trial)}
    return env
