"""A platform in memory, for tests of the commands: it answers as the services do, and what it says can be scripted."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from pydantic import SecretStr

from incl_cli.context import Context
from incl_cli.main import main
from incl_cli.output import Output
from incl_cli.platform import Blob, Progress, Wanted
from incl_cli.testing_data import DataAnswers
from incl_cli.testing_groups import grouped
from incl_cli.testing_output import Result, Terminal
from incl_shared.errors import AmbiguousError, InclError, InvalidInput, NotFoundError
from incl_shared.events import Event, ExperimentSubmitted, StopRequested
from incl_shared.ids import new_id
from incl_shared.queries.base import Answer, AnswerT, Done, Query
from incl_shared.queries.gateway import (
    CreateToken,
    DeleteSecret,
    ListSecrets,
    ListTokens,
    NewToken,
    RevokeToken,
    SecretNames,
    SetSecret,
    TokenList,
    TokenView,
)
from incl_shared.queries.provisioner import (
    CheckFeasible,
    Cluster,
    ExecutionView,
    GetCluster,
    GetExecution,
    GetMachines,
    Machines,
    PlanExperiment,
    PlanView,
)
from incl_shared.queries.registry import (
    ArtifactPage,
    CommitArtifacts,
    Committed,
    Entry,
    Grant,
    ListArtifacts,
    Shared,
    ShareFile,
)
from incl_shared.queries.tracker import (
    ArtifactList,
    ArtifactView,
    Chart,
    Curve,
    ExperimentPage,
    ExperimentRow,
    ExperimentView,
    GetChart,
    GetExperiment,
    GetLogs,
    GetPoints,
    GroupExperiments,
    GroupPage,
    ListExperiments,
    ListMediaKeys,
    ListMetrics,
    Live,
    LogLine,
    LogPage,
    MediaKey,
    MediaKeys,
    MetricPage,
    Points,
)
from incl_shared.queries.tracker import ListArtifacts as ListFiles
from incl_shared.spec import ExperimentSpec
from incl_shared.states import ExperimentState

Run = Callable[..., Result]
"""Runs a command line given by its words."""


def run_incl(fake: FakePlatform, *words: str, terminal: bool = False) -> Result:
    """Run a command line in this process against a fake; terminal: stdout and stderr say that they are one."""
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    options = words[: words.index("--")] if "--" in words else words
    output = Output(out, err, as_json="--json" in options, color=False if "--no-color" in options else None)
    return Result(main(words, output, fake.connect), out.getvalue(), err.getvalue())


class FakePlatform(DataAnswers):
    """See incl_cli.platform.Platform. `refusals` maps a query's class to the error that it gets."""

    def __init__(self, project: str = "default", user: str = "ada") -> None:
        self.context = Context(("nats://fake",), None, project, user)
        self.views: dict[str, ExperimentView] = {}
        self.lines: dict[str, list[LogLine]] = {}
        self.curves: list[Curve] = []
        self.points: list[Points] = []
        self.entries: dict[str, list[Entry]] = {}
        self.media: dict[str, list[ArtifactView]] = {}
        self.blobs: dict[str, bytes] = {}
        self.store_url = "https://incl.example"
        self.secrets: dict[str, str] = {}
        self.tokens: list[TokenView] = []
        self.cluster = Cluster(nodes=(), queue=(), queued=0, running=0)
        self.plan = PlanView(cloud="")
        self.machines = Machines(gangs=())
        self.published: list[tuple[Event, str]] = []
        self.asked: list[Query[Any]] = []
        self.uploads: list[str] = []
        self.sources: list[str | Query[Grant]] = []
        self.refusals: dict[type, InclError] = {}
        self.publish_error: InclError | None = None
        self.on_submit: Callable[[ExperimentSubmitted], Awaitable[None]] | None = None
        self.page = 1000
        self.more: dict[type, Callable[[Any], Answer]] = {}
        self._watchers: dict[str, list[Callable[[bytes], None]]] = {}
        self._tasks: set[asyncio.Future[None]] = set()

    async def connect(self, project: str | None = None) -> FakePlatform:
        """As incl_cli.main's `connect`."""
        return self

    # --- the port

    def _answers(self) -> dict[type, Callable[[Any], Answer]]:
        return {
            GetExperiment: self._experiment,
            ListExperiments: self._list,
            GroupExperiments: self._groups,
            GetLogs: self._logs,
            GetChart: self._chart,
            GetPoints: self._points,
            ListMetrics: self._metrics,
            ListArtifacts: self._artifacts,
            ShareFile: self._share,
            ListFiles: self._files,
            ListMediaKeys: self._media_keys,
            CommitArtifacts: self._commit,
            GetExecution: self._execution,
            CheckFeasible: lambda query: Answer(),
            PlanExperiment: lambda query: self.plan,
            GetCluster: lambda query: self.cluster,
            GetMachines: lambda query: self.machines,
            **self.data_answers(),
            ListSecrets: lambda query: SecretNames(names=tuple(sorted(self.secrets))),
            SetSecret: self._set_secret,
            DeleteSecret: self._delete_secret,
            CreateToken: self._create_token,
            ListTokens: lambda query: TokenList(tokens=tuple(self.tokens)),
            RevokeToken: self._revoke,
            **self.more,
        }

    async def ask(self, query: Query[AnswerT], *, timeout: float = 10.0) -> AnswerT:  # noqa: ASYNC109
        """The answer of the fake."""
        await asyncio.sleep(0)
        self.asked.append(query)
        refusal = self.refusals.get(type(query))
        if refusal is not None:
            raise refusal
        return cast(AnswerT, self._answers()[type(query)](query))

    async def publish(self, event: Event, *, identifier: str) -> None:
        """Keep it; a submission begins what `on_submit` scripts."""
        if self.publish_error is not None:
            raise self.publish_error
        if any(known == identifier for _, known in self.published):
            return
        self.published.append((event, identifier))
        if isinstance(event, ExperimentSubmitted):
            self.add(event.experiment, spec=event.spec, code=event.code, provenance=event.provenance)
            if self.on_submit is not None:
                self._begin(self.on_submit(event))
        if isinstance(event, StopRequested):
            self._begin(self._stopped(event.experiment))

    async def watch(self, experiment: str, receive: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        """Hear what `tell` says."""
        self._watchers.setdefault(experiment, []).append(receive)

        async def end() -> None:
            self._watchers[experiment].remove(receive)

        return end

    async def upload(self, experiment: str, blobs: Sequence[Blob], progress: Progress) -> int:
        """Keep the bytes, checked."""
        new = 0
        for blob in blobs:
            if blob.sha256 in self.blobs:
                continue
            if blob.source is None:
                raise NotFoundError(f"the bytes {blob.sha256[:12]} are not in the artifact store any more")
            content = blob.source if isinstance(blob.source, bytes) else blob.source.read_bytes()
            if hashlib.sha256(content).hexdigest() != blob.sha256 or len(content) != blob.size:
                raise AssertionError("the blob is not what its checksum says")
            self.blobs[blob.sha256] = content
            self.uploads.append(blob.sha256)
            progress(blob.size)
            new += 1
        return new

    async def download(self, source: str | Query[Grant], wanted: Sequence[Wanted], progress: Progress) -> None:
        """Write the bytes."""
        self.sources.append(source)
        for one in wanted:
            one.target.parent.mkdir(parents=True, exist_ok=True)
            one.target.write_bytes(self.blobs[one.sha256])
            one.target.chmod(one.mode)
            progress(one.size)

    async def close(self) -> None:
        """End the scripts."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, script: Awaitable[None]) -> None:
        self._tasks.add(asyncio.ensure_future(script))

    async def _stopped(self, experiment: str) -> None:
        self.change(experiment, state=ExperimentState.STOPPED, settled=True)

    # --- scripting

    def add(
        self, identifier: str | None = None, *, spec: ExperimentSpec | None = None, **fields: Any
    ) -> ExperimentView:
        """An experiment that is there; fields of the view and of its row."""
        wanted = spec or ExperimentSpec(command=["true"])
        row = {
            "id": identifier or new_id(),
            "name": wanted.name or "unnamed",
            "project": wanted.project,
            "user": self.context.user,
            "state": ExperimentState.QUEUED,
            "nodes": wanted.nodes,
            "gpus": wanted.resources.gpu,
            "attempts": 0,
            "tags": wanted.tags,
            "created": time.time(),
        }
        row |= {
            name: fields.pop(name) for name in list(fields) if name in ExperimentRow.model_fields and name != "metrics"
        }
        view = ExperimentView(row=ExperimentRow(**row), version=1, spec=wanted, **fields)
        self.views[view.row.id] = view
        self.lines.setdefault(view.row.id, [])
        return view

    def change(self, identifier: str, *, quiet: bool = False, **fields: Any) -> ExperimentView:
        """Change fields of the view or its row, and tell of it live unless quiet."""
        view = self.views[identifier]
        row = {
            name: fields.pop(name) for name in list(fields) if name in ExperimentRow.model_fields and name != "metrics"
        }
        new = view.model_copy(update={"row": view.row.model_copy(update=row), "version": view.version + 1, **fields})
        self.views[identifier] = new
        if not quiet:
            self.tell(Live(kind="state", experiment=identifier, view=new))
        return new

    def say(self, identifier: str, *texts: str, rank: int = 0, stream: str = "out", quiet: bool = False) -> Live:
        """Store log lines, and tell of them live unless quiet; the live message."""
        known = self.lines[identifier]
        attempt = max(1, self.views[identifier].row.attempts)
        new = [
            LogLine.model_validate(
                {"attempt": attempt, "rank": rank, "stream": stream, "time": time.time(), "text": text}
            )
            for text in texts
        ]
        live = Live(
            kind="logs", experiment=identifier, after=len(known), cursor=len(known) + len(new), lines=tuple(new)
        )
        known.extend(new)
        if not quiet:
            self.tell(live)
        return live

    def tell(self, live: Live) -> None:
        """Send a live message."""
        self.garble(live.experiment, live.model_dump_json().encode())

    def garble(self, identifier: str, payload: bytes) -> None:
        """Send any bytes as a live message."""
        for receive in self._watchers.get(identifier, []):
            receive(payload)

    def keep(self, identifier: str, path: str, content: bytes, **fields: Any) -> Entry:
        """Store a file of an experiment."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        entry = Entry(
            **{"kind": "output", "path": path, "sha256": digest, "size": len(content), "attempt": 1, **fields}
        )
        self.entries.setdefault(identifier, []).append(entry)
        return entry

    # --- answers

    def _experiment(self, query: GetExperiment) -> ExperimentView:
        views = sorted(self.views.values(), key=lambda view: view.row.created, reverse=True)
        if query.ref.startswith("@last"):
            back = int(query.ref.partition("~")[2] or 0)
            if back < len(views):
                return views[back]
            raise NotFoundError("there are not so many experiments")
        hits = [
            v
            for v in views
            if v.row.id.endswith(query.ref) or v.row.id.startswith(query.ref) or v.row.name == query.ref
        ]
        if len(hits) > 1:
            raise AmbiguousError(f"{query.ref} means {len(hits)} experiments")
        if not hits:
            raise NotFoundError(f"there is no experiment {query.ref}")
        return hits[0]

    def _list(self, query: ListExperiments) -> ExperimentPage:
        views = sorted(self.views.values(), key=lambda view: -view.row.created)
        rows = [view.row for view in views if query.trash == (view.trashed is not None)]
        start = int(query.cursor or 0)
        end = start + min(query.limit, self.page)
        return ExperimentPage(rows=tuple(rows[start:end]), cursor=str(end) if end < len(rows) else None)

    def _groups(self, query: GroupExperiments) -> GroupPage:
        groups = grouped(self.views.values(), query)
        start = int(query.cursor or 0)
        end = start + min(query.limit, self.page)
        return GroupPage(groups=tuple(groups[start:end]), cursor=str(end) if end < len(groups) else None)

    def _logs(self, query: GetLogs) -> LogPage:
        known = list(enumerate(self.lines.get(query.experiment, []), 1))
        fitting = [
            (cursor, line)
            for cursor, line in known
            if cursor > query.after
            and (query.rank is None or line.rank == query.rank)
            and (query.attempt is None or line.attempt == query.attempt)
            and query.stream in (None, line.stream)
            and (query.since is None or line.time >= query.since)
            and (query.until is None or line.time < query.until)
            and query.search.casefold() in line.text.casefold()
        ]
        if query.tail is not None:
            return LogPage(
                lines=tuple(line for _, line in fitting[len(fitting) - query.tail :]), cursor=len(known), more=False
            )
        page = fitting[: min(query.limit, self.page)]
        more = len(page) < len(fitting)
        return LogPage(lines=tuple(line for _, line in page), cursor=page[-1][0] if more else len(known), more=more)

    def _chart(self, query: GetChart) -> Chart:
        names = query.metrics
        found = [
            one for one in self.curves if one.experiment in query.experiments and one.metric in (names or [one.metric])
        ]
        end = query.cursor + self.page
        return Chart(curves=tuple(found[query.cursor : end]), cursor=end if end < len(found) else None)

    def _points(self, query: GetPoints) -> Points:
        found = [one for one in self.points if (one.experiment, one.metric) == (query.experiment, query.metric)]
        if not found:
            raise InvalidInput(f"no metric {query.metric!r}")
        start = int(query.cursor or 0)
        end = start + min(query.limit, self.page)
        part = slice(start, end)
        one = found[0]
        cursor = str(end) if end < len(one.steps) else None
        columns = {"steps": one.steps[part], "times": one.times[part], "values": one.values[part]}
        return one.model_copy(update=columns | {"cursor": cursor})

    def _metrics(self, query: ListMetrics) -> MetricPage:
        known = sorted(self.views[query.experiment].metrics, key=lambda metric: metric.name)
        found = [
            metric
            for metric in known
            if query.contains.casefold() in metric.name.casefold() and metric.name > (query.cursor or "")
        ]
        page = found[: min(query.limit, self.page)]
        return MetricPage(metrics=tuple(page), cursor=page[-1].name if len(page) < len(found) else None)

    def _files(self, query: ListFiles) -> ArtifactList:
        assert query.experiment in self.views
        found = [
            one
            for one in self.media.get(query.experiment, [])
            if one.medium is not None
            and query.key in (None, one.medium.key)
            and query.medium in (None, one.medium.type)
            and (query.from_step is None or (one.step is not None and one.step >= query.from_step))
            and (query.to_step is None or (one.step is not None and one.step <= query.to_step))
            and query.rank in (None, one.rank)
        ]
        at = int(query.cursor or 0)
        end = at + min(query.limit, self.page)
        return ArtifactList(artifacts=tuple(found[at:end]), cursor=str(end) if end < len(found) else None)

    def _media_keys(self, query: ListMediaKeys) -> MediaKeys:
        groups: dict[tuple[str, Any], list[ArtifactView]] = {}
        for one in self.media.get(query.experiment, []):
            if one.medium is not None:
                groups.setdefault((one.medium.key, one.medium.type), []).append(one)
        keys = [
            MediaKey(
                key=key,
                type=kind,
                count=len(files),
                first_step=min(one.step or 0 for one in files),
                last_step=max(one.step or 0 for one in files),
                bytes=sum(one.size for one in files),
            )
            for (key, kind), files in sorted(groups.items())
        ]
        return MediaKeys(keys=tuple(keys))

    def _artifacts(self, query: ListArtifacts) -> ArtifactPage:
        known = [
            entry
            for entry in self.entries.get(query.experiment, [])
            if query.kind in (None, entry.kind) and query.attempt in (None, entry.attempt)
        ]
        start = query.cursor or 0
        end = start + min(query.limit, self.page)
        return ArtifactPage(entries=tuple(known[start:end]), cursor=end if end < len(known) else None)

    def _share(self, query: ShareFile) -> Shared:
        known = [(entry.path, entry.sha256) for entry in self.entries.get(query.experiment, [])]
        if (query.path, query.sha256) not in known:
            raise NotFoundError("no such file")
        return Shared(url=f"{self.store_url}/shared/x.y/{query.path}", expires=time.time() + query.seconds)

    def _commit(self, query: CommitArtifacts) -> Committed:
        for entry in query.entries:
            if entry.sha256 not in self.blobs:
                raise NotFoundError(f"blob {entry.sha256[:12]} is not stored")
        self.entries.setdefault(query.experiment, []).extend(query.entries)
        return Committed(new=len(query.entries))

    def _execution(self, query: GetExecution) -> ExecutionView:
        view = self.views.get(query.experiment)
        return ExecutionView(
            experiment=query.experiment, known=view is not None, state=view.row.state if view else None
        )

    def _set_secret(self, query: SetSecret) -> Done:
        self.secrets[query.secret] = query.value
        return Done()

    def _delete_secret(self, query: DeleteSecret) -> Done:
        if self.secrets.pop(query.secret, None) is None:
            raise NotFoundError(f"there is no secret {query.secret}")
        return Done()

    def _create_token(self, query: CreateToken) -> NewToken:
        view = TokenView(id=new_id(), label=query.label, prefix="incl_abcd", created=time.time(), expires=None)
        self.tokens.append(view)
        return NewToken(token=SecretStr("incl_abcd-the-rest"), view=view)

    def _revoke(self, query: RevokeToken) -> Done:
        if not any(token.prefix.startswith(query.token) or token.id == query.token for token in self.tokens):
            raise NotFoundError("you have no such token")
        return Done()
