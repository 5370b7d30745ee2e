"""What the tracker can be asked. Its rows are what the CLI and the page show."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from incl_shared.events.experiments import CodeRef, MachinesMade, Medium, Placement, Provenance, RankEnd
from incl_shared.ids import Id, Sha256
from incl_shared.queries.base import Answer, Query
from incl_shared.spec import ExperimentSpec
from incl_shared.states import AttemptState, EndReason, ExperimentState

SYSTEM_PREFIX = "system/"
"""Metrics of this name are the node's samples: stored like all, but not counted as points, since nobody logged them."""


class MetricSummary(Answer):
    """One metric of one experiment (rank 0 unless only others logged it). NaN counts, but is no extreme."""

    name: str
    last: float
    last_step: int
    minimum: float | None
    maximum: float | None
    best: float | None = Field(None, description="By the declared goal.")
    best_step: int | None = None
    goal: Literal["max", "min"] | None = None
    points: int


class ExperimentRow(Answer):
    """One line of a list."""

    id: Id
    name: str
    project: str
    user: str
    state: ExperimentState
    reason: EndReason | None = None
    waiting: str = Field("", description="Why it is queued still.")
    nodes: int
    gpus: int
    attempts: int
    tags: tuple[str, ...] = ()
    created: float = Field(description="Seconds since the epoch: when it was submitted.")
    started: float | None = None
    ended: float | None = None
    sweep: Id | None = Field(None, description="The sweep that it is a trial of.")
    trial: int | None = Field(None, description="Its number there.")
    metrics: dict[str, float] = Field(default_factory=dict, description="Last value of each declared metric.")


class Stage(Answer):
    """One bar of the waterfall."""

    name: Literal["packing", "upload", "queued", "machine", "data", "unpacking", "pulling", "running", "uploading"]
    attempt: int
    start: float
    end: float | None = None
    note: str = ""


class ArtifactView(Answer):
    """One stored file."""

    path: str
    kind: str
    sha256: Sha256
    size: int
    attempt: int
    rank: int
    step: int | None = None
    medium: Medium | None = Field(None, description="Of kind media: what the script said of it, and its thumbnail.")


class AlertView(Answer):
    """What a script told by incl.alert."""

    attempt: int
    rank: int
    time: float = Field(description="Seconds since the epoch.")
    title: str
    text: str = Field("", description="At most 1000 characters of it.")
    level: Literal["info", "warn", "error"] = "info"


class AttemptView(Answer):
    """One attempt."""

    attempt: int
    state: AttemptState
    reason: EndReason | None = None
    message: str = ""
    placements: tuple[Placement, ...] = ()
    machines: MachinesMade | None = Field(None, description="What a cloud made for it; none: machines that were there.")
    ranks: tuple[RankEnd, ...] = ()
    images: tuple[str, ...] = Field((), description="Digests of the image that its ranks ran; more than one: it moved.")
    assigned: float
    started: float | None = None
    ended: float | None = None
    settled: bool = False
    points: int = 0
    lines: int = 0
    gaps: int = 0


class ExperimentView(Answer):
    """All of one experiment but its points and lines."""

    row: ExperimentRow
    version: int = Field(description="Grows with every change that a live message tells of.")
    outside: bool = Field(False, description="Run outside the platform (incl.init()).")
    spec: ExperimentSpec | None = None
    code: CodeRef | None = None
    provenance: Provenance = Field(default_factory=Provenance)
    config: dict[str, str] = Field(default_factory=dict)
    message: str = ""
    hint: str = ""
    stages: tuple[Stage, ...] = ()
    attempts: tuple[AttemptView, ...] = ()
    metrics: tuple[MetricSummary, ...] = ()
    artifacts: tuple[ArtifactView, ...] = Field((), description="At most 500; ListArtifacts has all.")
    artifacts_total: int = Field(0, description="How many there are.")
    alerts: tuple[AlertView, ...] = Field((), description="The newest 50, oldest first.")
    metric_count: int = Field(0, description="How many metrics there are in all; ListMetrics pages through them.")
    trashed: float | None = Field(None, description="Since when it lies in the trash (seconds since the epoch).")
    archived: float | None = Field(
        None, description="Since when its points and lines lie in the artifact store alone; charts are of fewer points."
    )
    points: int = 0
    lines: int = 0
    gaps: int = 0
    settled: bool = Field(False, description="The last attempt's records are all stored, or known lost.")


class GetExperiment(Query[ExperimentView]):
    """ref: a whole id, a unique end or beginning of one (4 characters at least), '@last', '@last~2', or a name."""

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "experiment"
    answer: ClassVar[type[Answer]] = ExperimentView

    ref: str = Field(min_length=1, max_length=200)


class ExperimentPage(Answer):
    """A page of a list; no cursor: the last one."""

    rows: tuple[ExperimentRow, ...]
    cursor: str | None = None


class ListExperiments(Query[ExperimentPage]):
    """Filter and sort in the grammar of incl_shared.filters."""

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "experiments"
    answer: ClassVar[type[Answer]] = ExperimentPage

    filter: str = Field("", max_length=4000)
    sort: str = Field("-created", max_length=300)
    trash: bool = Field(False, description="What lies in the trash, and nothing else.")
    limit: int = Field(50, ge=1, le=1000)
    cursor: str | None = None


class LogLine(Answer):
    """One line. `stream` is out, err, or sys (said by the platform)."""

    attempt: int
    rank: int
    stream: Literal["out", "err", "sys"]
    time: float
    text: str
    part: bool = Field(False, description="A very long line: its continuation follows in the next one.")


class LogPage(Answer):
    """Lines in the order of storing. `cursor` is where the next page begins, whether or not there is more now."""

    lines: tuple[LogLine, ...]
    cursor: int
    more: bool


class GetLogs(Query[LogPage]):
    """Lines after a cursor, or the last `tail` lines."""

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "logs"
    answer: ClassVar[type[Answer]] = LogPage

    experiment: Id
    after: int = Field(0, ge=0)
    tail: int | None = Field(None, ge=0, le=10_000)
    rank: int | None = Field(None, ge=0)
    attempt: int | None = Field(None, ge=1)
    stream: Literal["out", "err", "sys"] | None = None
    since: float | None = Field(None, description="Only lines of this time or later (seconds since the epoch).")
    until: float | None = Field(None, description="Only lines before this time.")
    search: str = Field("", max_length=1000, description="Only lines that contain this text, cases folded.")
    limit: int = Field(1000, ge=1, le=10_000)


class Curve(Answer):
    """Points of one metric as a chart draws them, in the order of steps; true points, none is a mean.

    times: seconds after `start` (seconds since the epoch), to a millisecond. values: to 7 significant digits; NaN and
    infinities are the strings 'NaN', 'Infinity', '-Infinity', as JSON has no numbers for them.
    """

    experiment: Id
    metric: str
    rank: int
    steps: tuple[int, ...]
    start: float
    times: tuple[float, ...]
    values: tuple[float | str, ...]
    points: int = Field(description="About how many there are in the window, before thinning.")


class Chart(Answer):
    """Curves in the order asked for: by experiment, then by metric. cursor: ask again with it for more curves."""

    curves: tuple[Curve, ...]
    cursor: int | None = None


class GetChart(Query[Chart]):
    """A window of curves in `pixels` pixels: of each two pixels the least and the greatest point, and a NaN.

    Steps that a later attempt ran again are those of the later one. A pair of experiment and metric that has no points
    in the window gives no curve.
    """

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "chart"
    answer: ClassVar[type[Answer]] = Chart

    experiments: tuple[Id, ...] = Field(min_length=1, max_length=50)
    metrics: tuple[str, ...] = Field((), max_length=100, description="None: every one of the first experiment.")
    rank: int | None = Field(None, ge=0, description="None: rank 0, or the lowest that logged it.")
    pixels: int = Field(400, ge=2, le=5000)
    axis: Literal["step", "time"] = Field("step", description="What the window and its pixels are ranges of.")
    low: float | None = Field(None, description="A step, or seconds since the epoch; none: from the first point.")
    high: float | None = Field(None, description="The same; it belongs to the window.")
    cursor: int = Field(0, ge=0)


class Points(Answer):
    """Raw points in the order of steps, then times. cursor: of the next page; none: that was the last.

    values: NaN and infinities are strings, as in Curve; everything else is bit for bit.
    """

    experiment: Id
    metric: str
    rank: int
    steps: tuple[int, ...]
    times: tuple[float, ...]
    values: tuple[float | str, ...]
    cursor: str | None = None


class GetPoints(Query[Points]):
    """All points of a metric, page by page."""

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "points"
    answer: ClassVar[type[Answer]] = Points

    experiment: Id
    metric: str
    rank: int | None = Field(None, ge=0, description="None: rank 0, or the lowest that logged it.")
    attempt: int | None = Field(
        None, ge=1, description="All that this attempt logged. None: of all attempts, without what was run again."
    )
    from_step: int | None = None
    to_step: int | None = None
    limit: int = Field(4000, ge=1, le=4000)
    cursor: str | None = None


class MetricPage(Answer):
    """Summaries in the order of names."""

    metrics: tuple[MetricSummary, ...]
    cursor: str | None = None


class ListMetrics(Query[MetricPage]):
    """The metrics of an experiment: an experiment may have very many."""

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "metrics"
    answer: ClassVar[type[Answer]] = MetricPage

    experiment: Id
    contains: str = Field("", max_length=250, description="Only names that contain this text, cases folded.")
    limit: int = Field(500, ge=1, le=1000)
    cursor: str | None = None


class Aggregate(Answer):
    """Of the last values of a metric over the experiments of a group that have one (NaN has none)."""

    count: int
    mean: float
    minimum: float
    maximum: float
    deviation: float = Field(description="Standard deviation, of a sample: 0 of one.")


class ExperimentGroup(Answer):
    """Experiments that have the same values. An experiment without a value is in the group of None."""

    values: tuple[str | None, ...] = Field(description="As `by` names them.")
    experiments: int
    states: dict[ExperimentState, int] = Field(default_factory=dict)
    newest: Id = Field(description="The one that was created last.")
    metrics: dict[str, Aggregate] = Field(default_factory=dict)


class GroupPage(Answer):
    """Groups, the greatest first (then by the bytes of their values, None last); no cursor: the last page.

    A page has at most `limit` groups, and fewer where they would be more than 180 KB.
    """

    groups: tuple[ExperimentGroup, ...]
    cursor: str | None = None


class GroupExperiments(Query[GroupPage]):
    """Experiments counted by what they have in common. by: fields of the filter grammar (user, state, param.lr, …).

    Texts are groups as they are (0.1 and 1e-1 of a parameter are two), numbers by what they are worth, times by their
    day (UTC). An experiment with several tags is in several groups.
    """

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "groups"
    answer: ClassVar[type[Answer]] = GroupPage

    by: tuple[str, ...] = Field(min_length=1, max_length=3)
    filter: str = Field("", max_length=4000)
    metrics: tuple[str, ...] = Field((), max_length=10)
    trash: bool = Field(False, description="What lies in the trash, and nothing else.")
    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = None


class ArtifactList(Answer):
    """A page of files; no cursor: the last one."""

    artifacts: tuple[ArtifactView, ...]
    cursor: str | None = None


class ListArtifacts(Query[ArtifactList]):
    """Files of an experiment: by kind, type of medium, key, step and path; with a prefix in the order of their paths.

    A page has at most `limit` files, and fewer where they would be more than 180 KB.
    """

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "artifacts"
    answer: ClassVar[type[Answer]] = ArtifactList

    experiment: Id
    kind: str | None = Field(None, max_length=32, description="output, checkpoint, media …")
    medium: Literal["image", "table", "text", "file"] | None = Field(None, description="Only media of this type.")
    key: str | None = Field(None, max_length=250, description="Of a medium: the very key.")
    from_step: int | None = None
    to_step: int | None = None
    prefix: str = Field("", max_length=2048, description="Only paths that begin so.")
    attempt: int | None = Field(None, ge=0)
    rank: int | None = Field(None, ge=0)
    limit: int = Field(200, ge=1, le=1000)
    cursor: str | None = Field(None, max_length=4000)


class MediaKey(Answer):
    """All media of one key and type."""

    key: str
    type: Literal["image", "table", "text", "file"]
    count: int
    first_step: int
    last_step: int
    bytes: int


class MediaKeys(Answer):
    """In the order of the keys; no cursor: the last page."""

    keys: tuple[MediaKey, ...]
    cursor: str | None = None


class ListMediaKeys(Query[MediaKeys]):
    """Which keys of images, tables, texts and files an experiment has."""

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "media_keys"
    answer: ClassVar[type[Answer]] = MediaKeys

    experiment: Id
    limit: int = Field(500, ge=1, le=500)
    cursor: str | None = Field(None, max_length=4000)


class Watermarks(Answer):
    """Up to which record each writer is stored without a hole."""

    stored: dict[str, int]


class GetWatermarks(Query[Watermarks]):
    """What a shipper asks when it (re)connects. Keys are '<stream>/<writer>', stream being metrics or logs."""

    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "watermarks"
    answer: ClassVar[type[Answer]] = Watermarks

    experiment: Id
    attempt: int = Field(ge=1)
    rank: int = Field(ge=0)


class Live(Answer):
    """One message of the LIVE stream. By kind: state -> view; logs -> after, cursor, lines; metrics -> values.

    `after` is the cursor before these lines: whoever has another one asks GetLogs for what is between.
    """

    kind: Literal["state", "logs", "metrics"]
    experiment: Id
    view: ExperimentView | None = None
    after: int = 0
    cursor: int = 0
    lines: tuple[LogLine, ...] = ()
    values: dict[str, Any] = Field(default_factory=dict, description="Metric -> [step, value], newest of each.")
    points: int = 0
