"""What a researcher asks for: the experiment file, validated.

This model is the file format, the payload of ExperimentSubmitted and the published JSON Schema at once.
Reading a file with line numbers and did-you-mean is `incl_shared.specfile`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from incl_shared import mounts
from incl_shared.ids import Token

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*$", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|m|s)", re.IGNORECASE)
_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_RESERVED_PREFIX = "INCL_"


def parse_size(value: object) -> int:
    """Bytes of '500MB' (10^6), '2GiB' (2^20…), '8G' (as GiB, like the container tools) or a number of bytes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a size is a number of bytes or text such as 8GB or 512MiB")
    if isinstance(value, int | float):
        return int(value)
    match = _SIZE.match(value)
    if match is None:
        raise ValueError(f"{value!r} is not a size: write 8GB, 512MiB or a number of bytes")
    number, unit = float(match[1]), match[2].lower()
    base = 1000 if unit.endswith("b") and "i" not in unit and unit != "b" else 1024
    return int(number * base ** _POWERS[unit.rstrip("b").rstrip("i")])


def parse_duration(value: object) -> float:
    """Seconds of '2h', '1h30m', '45s', '1d' or a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a duration is a number of seconds or text such as 90s, 2h or 1h30m")
    if isinstance(value, int | float):
        return float(value)
    found = _DURATION.findall(value)
    if not found or _DURATION.sub("", value).strip():
        raise ValueError(f"{value!r} is not a duration: write 90s, 15m, 2h, 1h30m or a number of seconds")
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in found)


def size_text(size: int) -> str | int:
    """Bytes as people write them, 512MiB: text that parse_size reads as the same number; else the number."""
    best: str | int = size
    count = size
    for base, middle in ((1000, ""), (1024, "i")):
        for letter, power in _POWERS.items():
            whole, rest = divmod(size, base**power)
            if letter and whole and not rest and whole < count:
                best, count = f"{whole}{letter.upper()}{middle}B", whole
    return best if parse_size(best) == size else size


def duration_text(seconds: float) -> str | float:
    """Seconds as people write them, 1h30m: text that parse_duration reads as the same number; else the number."""
    parts, rest = [], seconds
    for letter, length in _SECONDS.items():
        if rest >= length and letter != "s":
            parts.append(f"{int(rest // length)}{letter}")
            rest %= length
    if rest:
        parts.append(f"{int(rest) if rest == int(rest) else rest}s")
    text = "".join(parts)
    try:
        return text if parse_duration(text) == seconds else seconds
    except ValueError:
        return seconds


def _environment(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is not a name of an environment variable")
        if name.startswith(_RESERVED_PREFIX):
            raise ValueError(f"{name} is set by the platform; choose a name without {_RESERVED_PREFIX}")
        if "\x00" in text:
            raise ValueError(f"the value of {name} has a NUL character")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"the value of {name} is not UTF-8")
    return value


def _texts(value: object) -> object:
    if isinstance(value, dict):
        return {k: _scalar(v) for k, v in value.items()}
    return value


def _scalar(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _inside(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\x00" in path:
        raise ValueError(f"{path[:120]!r} must lie inside the working directory")
    return path


ByteSize = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, le=365 * 86_400)]
Environment = Annotated[dict[str, str], BeforeValidator(_texts), AfterValidator(_environment), Field(max_length=500)]
InnerPath = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_inside)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
CloudPlace = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
MetricName = Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Strict(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Goal(StrEnum):
    """Which way a metric is better."""

    MAX = "max"
    MIN = "min"


class RetryReason(StrEnum):
    """Ends of an attempt after which another may follow."""

    PREEMPTED = "preempted"
    LOST = "lost"
    INFRA = "infra"
    ERROR = "error"


class CheckpointPolicy(StrEnum):
    """Which checkpoints are kept."""

    ALL = "all"
    LATEST = "latest"
    BEST = "best"
    NONE = "none"


class Resources(Strict):
    """What one node of the experiment needs."""

    cpu: Annotated[float, Field(gt=0, le=4096)] = Field(1.0, description="Cores per node; fractions are allowed.")
    memory: ByteSize | None = Field(None, description="Bytes per node, or text such as 8GB; none asks for nothing.")
    gpu: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="GPUs per node.")


class Retry(Strict):
    """When to try again."""

    on: tuple[RetryReason, ...] = Field(
        (RetryReason.PREEMPTED, RetryReason.LOST, RetryReason.INFRA), description="Ends that lead to another attempt."
    )
    attempts: Annotated[int, Field(ge=1, le=100)] = Field(3, description="Attempts in all, the first included.")


MountPoint = Annotated[str, AfterValidator(mounts.mount_point)]
SnapshotName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")]


def _export(text: str) -> str:
    mounts.export_parts(text)
    return text


def _bucket(text: str) -> str:
    mounts.bucket_parts(text)
    return text


class DataMount(Strict):
    """Data that the job reads: one of source, snapshot, nfs, bucket, scratch."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = Field(
        None, description="A folder of the machine (an absolute path)."
    )
    snapshot: SnapshotName | None = Field(
        None, description="A snapshot of a disk in the cloud's project: a read-only disk of it is shared by all nodes."
    )
    nfs: Annotated[str, AfterValidator(_export)] | None = Field(
        None, description="An export that the machines of a cloud mount read-only: host:/export."
    )
    bucket: Annotated[str, AfterValidator(_bucket)] | None = Field(
        None, description="A bucket or a folder of one, read-only by gcsfuse with a cache: gs://bucket/folder."
    )
    scratch: Literal["local-ssd"] | None = Field(
        None, description="An empty, fast disk in each machine, which is gone with it; the job may write there."
    )
    size: ByteSize | None = Field(None, description="Of scratch, at least; local SSDs have 375 GiB each.")
    target: InnerPath = Field("data", description="Where the job finds it, below INCL_DATA_DIR.")
    mount: MountPoint | None = Field(
        None, description="Where the job finds it besides: an absolute path such as /data."
    )

    @property
    def kind(self) -> str:
        """Which of the five it is."""
        return next(name for name in mounts.KINDS if getattr(self, name) is not None)

    @property
    def text(self) -> str:
        """What is named."""
        return str(getattr(self, self.kind))

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, dict) and "target" not in values and (name := mounts.default_target(values)) is not None:
            values = {**values, "target": name}
        return values

    @model_validator(mode="after")
    def _one(self) -> DataMount:
        named = [name for name in mounts.KINDS if getattr(self, name) is not None]
        if len(named) != 1:
            found = " and ".join(named) or "none"
            raise ValueError(f"an entry of data names one of {', '.join(mounts.KINDS)}; this one names {found}")
        if self.size is not None and self.scratch is None:
            raise ValueError("size is that of scratch; leave it out")
        return self


def _command(value: object) -> object:
    if isinstance(value, str):
        return ["sh", "-c", value] if value.strip() else [""]
    return value


def _checkpoint(value: object) -> object:
    return {"keep": value} if isinstance(value, str) else value


class Checkpoint(Strict):
    """How checkpoints are kept."""

    keep: CheckpointPolicy = CheckpointPolicy.LATEST
    grace: Duration = Field(30.0, description="Seconds between SIGTERM and SIGKILL, to write a last checkpoint.")


class ExperimentSpec(Strict):
    """An experiment as its author wrote it."""

    name: Label | None = Field(None, description="A name for people; need not be unique.")
    project: Token = Field("default", description="The project that it belongs to.")
    command: Annotated[list[Annotated[str, StringConstraints(max_length=65_536)]], Field(min_length=1, max_length=4096)]
    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="A container image; none runs on the machine itself."
    )
    image_login: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = Field(
        None, description="Name of the stored secret, user:password, by which the image is pulled; the job has it not."
    )
    sandbox: bool = Field(False, description="Without an image: run in a bubblewrap sandbox.")
    workdir: str | None = Field(None, description="The directory to pack, relative to this file; its own by default.")
    env: Environment = Field(default_factory=dict, description="Environment variables.")
    secrets: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], ...] = Field(
        (), max_length=100, description="Names of stored secrets, given as environment variables."
    )
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    resources: Resources = Field(default_factory=Resources)
    instance: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="A machine type or GPU of a cloud, or auto; none runs where there is room."
    )
    spot: bool | None = Field(None, description="Whether preemptible machines may be used (with instance).")
    zones: tuple[CloudPlace, ...] = Field((), max_length=200, description="Zones of a cloud where it may run.")
    regions: tuple[CloudPlace, ...] = Field((), max_length=100, description="Regions of a cloud where it may run.")
    data: tuple[DataMount, ...] = Field((), max_length=100)
    outputs: tuple[InnerPath, ...] = Field(
        (), max_length=1000, description="Files or globs of the working directory kept besides INCL_OUTPUT_DIR."
    )
    metrics: dict[MetricName, Goal] = Field(default_factory=dict, description="Metrics of interest with their goal.")
    priority: Annotated[int, Field(ge=-1000, le=1000)] = Field(0, description="Higher goes first.")
    max_duration: Duration | None = Field(None, description="Stop an attempt after this long: 2h, 90m.")
    retry: Retry = Field(default_factory=Retry)
    checkpoint: Annotated[Checkpoint, BeforeValidator(_checkpoint)] = Field(default_factory=Checkpoint)
    tags: tuple[Label, ...] = Field((), max_length=100)
    notes: Annotated[str, StringConstraints(max_length=100_000)] = ""

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The snapshots that it reads, in the order of `data`."""
        return tuple(each.snapshot for each in self.data if each.snapshot is not None)

    @property
    def read_secrets(self) -> tuple[str, ...]:
        """Every stored secret that is read for it."""
        return (*self.secrets, *((self.image_login,) if self.image_login else ()))

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, values: Any) -> Any:
        if isinstance(values, dict) and "command" in values:
            values = {**values, "command": _command(values["command"])}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> ExperimentSpec:
        if any("\x00" in part for part in self.command) or not self.command[0].strip():
            raise ValueError("command: the first word is empty, or a word has a NUL character")
        if self.image and self.sandbox:
            raise ValueError("sandbox: an image is isolated already; leave one of the two out")
        if self.image_login and not self.image:
            raise ValueError("image_login: there is no image; name one, or leave it out")
        self._data_fits()
        doubled = set(self.env) & set(self.secrets)
        if doubled:
            raise ValueError(f"secrets: {min(doubled)} is in env too; leave it out of one of them")
        if self.checkpoint.keep is CheckpointPolicy.BEST and not self.metrics:
            raise ValueError("checkpoint.keep: best needs a metric with its goal, e.g. metrics: {val_acc: max}")
        return self

    def _data_fits(self) -> None:
        for what, paths in (
            ("target", [each.target for each in self.data]),
            ("mount", [each.mount for each in self.data if each.mount]),
        ):
            same = mounts.one_inside_another(paths)
            if same is not None:
                raise ValueError(
                    f"data: {same[0]!r} and {same[1]!r} are in each other's way; give each a {what} of its own"
                )
        doubled = {each.snapshot for each in self.data if each.snapshot and self.snapshots.count(each.snapshot) > 1}
        if doubled:
            raise ValueError(f"data: the snapshot {min(doubled)} is named twice")
        if sum(each.scratch is not None for each in self.data) > 1:
            raise ValueError("data: a machine has one scratch; leave the other one out")
        for each in self.data:
            if each.source is not None and each.mount is not None and not self.image:
                raise ValueError(
                    f"data: the folder {each.source[:120]} can be mounted at {each.mount} in a container only; name an "
                    "image, or leave mount out: it is found below INCL_DATA_DIR"
                )
