"""A platform in miniature for the agent's tests: signer, secrets and artifact store behind the real bus, and a hand
that writes the wanted state and reads what the agent says. The streams, the HTTP and the processes are real.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from incl_shared import subjects
from incl_shared.archive.pack import pack
from incl_shared.bus.client import ERROR_HEADER, BusClient
from incl_shared.control import JobSpec, JobWanted, NodeWanted, Wanted
from incl_shared.errors import ConflictError, InclError, NotFoundError, UnavailableError
from incl_shared.events.experiments import CodeRef
from incl_shared.ids import job_id, new_id
from incl_shared.queries.base import QUERIES, Answer
from incl_shared.queries.gateway import AttemptCredential, ReadSecrets, SecretValues
from incl_shared.queries.models import RegisterModel, VersionView
from incl_shared.queries.registry import CommitArtifacts, Committed, DownloadGrant, Entry, Grant, UploadGrant
from incl_shared.queries.tracker import GetWatermarks, Watermarks
from incl_shared.reports import JobEnded, Report
from incl_shared.telemetry import decode_logs, decode_metrics

_HEX = re.compile(r"^/blobs/([0-9a-f]{64})$")


class BlobServer:
    """Blobs in memory over HTTP, with the part of the store's protocol that a client meets."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failing = False
        blobs = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                return

            def do_HEAD(self) -> None:
                blobs.answer(self, "HEAD")

            def do_GET(self) -> None:
                blobs.answer(self, "GET")

            def do_PUT(self) -> None:
                blobs.answer(self, "PUT")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def put(self, data: bytes) -> str:
        """Have some bytes."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def answer(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        """One exchange."""
        parts = urlsplit(handler.path)
        match = _HEX.fullmatch(parts.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append(f"{method} {parts.path}")
        if self.failing or match is None:
            self._reply(handler, 503)
            return
        digest = match[1]
        if method == "PUT":
            offset = int(parse_qs(parts.query).get("offset", ["0"])[0])
            whole = self.blobs.get(digest, b"")[:offset] + body
            if hashlib.sha256(whole).hexdigest() != digest:
                self._reply(handler, 422)
                return
            self.blobs[digest] = whole
            self._reply(handler, 201)
        elif digest not in self.blobs:
            self._reply(handler, 404, {"Upload-Offset": "0"})
        else:
            self._reply(handler, 200, body=self.blobs[digest], head=method == "HEAD")

    @staticmethod
    def _reply(
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        head: bool = False,
    ) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if not head:
            handler.wfile.write(body)


class FakePlatform:
    """Everything that an agent talks to. Make it over a client that may do anything."""

    def __init__(self, client: BusClient, node: str = "node1") -> None:
        self.client = client
        self.writer = client
        self.mint: Callable[[JobWanted], tuple[str, str]] = lambda _: ("jwt", "seed")
        """(jwt, seed) of a job's credential."""
        self.node = node
        self.store = BlobServer()
        self.secrets: dict[str, str] = {}
        self.entries: list[Entry] = []
        self.models: dict[str, RegisterModel] = {}
        self.on_register: Callable[[], object] = lambda: None
        """Called once a version is there, before its agent hears of it."""
        self.closed_models: set[str] = set()
        """Models that lie in the trash."""
        self.asked: list[str] = []
        self.signer_away = False
        self.stored: dict[str, int] | None = {}
        """What the tracker says is stored, besides what `tracks` takes from the streams; None: it is away."""
        self.tracks = True
        self.door: str | None = None
        """Where grants lead to; none: to the store."""
        self.generation = 0
        self.life = ""
        self.lease_s: float | None = None
        self.credential_ttl_s: float | None = None
        self._jobs: dict[str, JobWanted] = {}
        self._granted: dict[str, JobWanted] = {}
        self._seen: dict[str, list[tuple[str, bytes]]] = {}
        self._read_to: dict[str, int] = {}
        self._reading = asyncio.Lock()
        self._subscriptions: list[Any] = []

    async def start(self) -> None:
        """Serve questions; what the streams hold from before is not looked at."""
        js = self.client.jetstream()
        for stream in ("REPORTS", "METRICS", "LOGS"):
            self._read_to[stream] = (await js.stream_info(stream)).state.last_seq
        await self.serve(self.client, "incl.query.>")

    async def serve(self, client: BusClient, *subjects_served: str) -> None:
        """Answer these questions over this connection."""

        async def asked(message: Any) -> None:
            await self._asked(client, message)

        for subject in subjects_served:
            self._subscriptions.append(await client.connection.subscribe(subject, cb=asked))

    async def stop(self) -> None:
        """Stop serving."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        await asyncio.to_thread(self.store.close)

    # --- questions

    async def _asked(self, client: BusClient, message: Any) -> None:
        _, service, name = subjects.parse_query(message.subject)
        self.asked.append(f"{service}.{name}")
        headers: dict[str, str] = {}
        try:
            query = QUERIES[(service, name)].model_validate_json(message.data)
            if isinstance(query, GetWatermarks) and self.stored is None:
                return
            if isinstance(query, AttemptCredential):
                answer = self._credential_json(query)
            elif isinstance(query, GetWatermarks):
                answer = Watermarks(stored=await self.watermarks(query)).model_dump_json()
            else:
                answer = self._answer(query).model_dump_json()
        except KeyError as error:
            answer = NotFoundError(f"no secret {error}").envelope().model_dump_json()
            headers = {ERROR_HEADER: "not_found"}
        except InclError as error:
            answer = error.envelope().model_dump_json()
            headers = {ERROR_HEADER: error.code}
        await client.connection.publish(message.reply, answer.encode(), headers=headers or None)

    async def watermarks(self, query: GetWatermarks) -> dict[str, int]:
        """As a tracker would that has stored all that is in the streams."""
        marks = dict(self.stored or {})
        place = f"{query.experiment}.{query.attempt}.{query.rank}"
        for stream, kind in (("METRICS", "metrics"), ("LOGS", "logs")) if self.tracks else ():
            for _, data in await self.messages(stream, lambda name: name.endswith(place)):
                batch: Any = decode_metrics(data) if kind == "metrics" else decode_logs(data)
                last = batch.first - 1 + (batch.count if kind == "metrics" else len(batch.lines))
                key = f"{kind}/{batch.writer}"
                marks[key] = max(last, marks.get(key, 0))
        return marks

    def _answer(self, query: object) -> Answer:
        if isinstance(query, ReadSecrets):
            return SecretValues(values={name: self.secrets[name] for name in query.names})
        if isinstance(query, UploadGrant | DownloadGrant):
            return Grant(url=self.door or self.store.url, token="token", expires=time.time() + 600)
        if isinstance(query, CommitArtifacts):
            new = [entry for entry in query.entries if entry not in self.entries]
            self.entries.extend(new)
            return Committed(new=len(new))
        if isinstance(query, RegisterModel):
            return self._register(query)
        return Answer()

    def _register(self, query: RegisterModel) -> VersionView:
        """As the registry would: the same registration is the same version, and its files must be listed."""
        if query.model in self.closed_models:
            raise ConflictError(f"the model {query.model} is in the trash")
        files = [e for e in self.entries if e.path == query.path or e.path.startswith(f"{query.path}/")]
        if not files:
            raise NotFoundError(f"no file {query.path}")
        known = self.models.setdefault(query.registration, query)
        self.on_register()
        number = 1 + [one.registration for one in self.models.values()].index(known.registration)
        return VersionView(
            model=query.model, number=number, experiment=query.experiment, attempt=query.attempt or 0, by="ann",
            created=0.0, manifest="0" * 64, files=len(files), size=sum(one.size for one in files),
        )  # fmt: skip

    def _credential_json(self, query: AttemptCredential) -> str:
        """A credential in clear, as the real signer sends it: the model itself hides its secrets."""
        if self.signer_away:
            raise UnavailableError("the signer is away")
        name = job_id(query.experiment, query.attempt, query.rank)
        job = self._granted[name] = self._jobs.get(name) or self._granted[name]
        jwt, seed = self.mint(job)
        expires = None if self.credential_ttl_s is None else time.time() + self.credential_ttl_s
        return json.dumps({"jwt": jwt, "seed": seed, "name": "job", "expires": expires})

    # --- the wanted state

    def job(self, *command: str, wanted: Wanted = Wanted.RUN, **spec: Any) -> JobWanted:
        """A job that is not wanted yet."""
        places = ("attempt", "rank", "rendezvous", "checkpoint", "experiment")
        named: dict[str, Any] = {key: spec.pop(key) for key in places if key in spec}
        values: dict[str, Any] = {
            "experiment": new_id(),
            "attempt": 1,
            "rank": 0,
            "project": "default",
            "user": "u",
            **named,
        }
        return JobWanted(**values, wanted=wanted, spec=JobSpec(name="test", command=command, grace_s=5.0, **spec))

    async def want(self, *jobs: JobWanted) -> None:
        """Want these besides those that are wanted."""
        self._jobs.update({job.job: job for job in jobs})
        await self.write()

    def forget(self, *jobs: JobWanted) -> None:
        """Have these not on the next list."""
        for job in jobs:
            self._jobs.pop(job.job, None)

    async def unwant(self, *jobs: JobWanted) -> None:
        """Want these no more."""
        self.forget(*jobs)
        await self.write()

    async def stop_job(self, job: JobWanted) -> None:
        """Want a job to stop."""
        await self.want(job.model_copy(update={"wanted": Wanted.STOP}))

    async def run_job(self, job: JobWanted) -> None:
        """Want a prepared job to run."""
        await self.want(job.model_copy(update={"wanted": Wanted.RUN}))

    async def write(self, generation: int | None = None) -> None:
        """Publish the wanted state."""
        self.generation = self.generation + 1 if generation is None else generation
        jobs = tuple(self._jobs.values())
        wanted = NodeWanted(node=self.node, generation=self.generation, life=self.life, lease_s=self.lease_s, jobs=jobs)
        await self.writer.publish_confirmed(
            subjects.control(self.node), wanted.model_dump_json().encode(), message_id=f"control:{new_id()}"
        )

    def code(self, files: Mapping[str, str | bytes]) -> CodeRef:
        """Files packed and stored, as the command line does it."""
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "tree")
            for name, text in files.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text.encode() if isinstance(text, str) else text)
            archive = Path(folder, "code.tar.zst")
            pack(root, archive)
            data = archive.read_bytes()
        return CodeRef(sha256=self.store.put(data), size=len(data), files=len(files))

    # --- what was said

    async def reports(self) -> list[Report]:
        """Everything that the stream holds, heartbeats left out."""
        subject = subjects.report(self.node)
        messages = await self.messages("REPORTS", lambda name: name == subject)
        found = [Report.model_validate_json(data) for _, data in messages]
        return [report for report in found if report.seq]

    async def of(self, job: JobWanted) -> list[Any]:
        """The reports on one job, in order."""
        return [
            report.body
            for report in await self.reports()
            if (getattr(report.body, "experiment", None), getattr(report.body, "attempt", None))
            == (job.experiment, job.attempt)
            and getattr(report.body, "rank", 0) == job.rank
        ]

    async def ended(self, job: JobWanted, timeout: float = 15.0) -> JobEnded:  # noqa: ASYNC109
        """The end of a job, awaited."""
        end: JobEnded = await self.said(job, JobEnded, timeout)
        return end

    async def said(self, job: JobWanted, kind: type[Any], timeout: float = 15.0) -> Any:  # noqa: ASYNC109
        """The first report of a kind on a job, awaited."""
        deadline = time.monotonic() + timeout
        while True:
            for body in await self.of(job):
                if isinstance(body, kind):
                    return body
            if time.monotonic() > deadline:
                kinds = [body.kind for body in await self.of(job)]
                raise AssertionError(f"no {kind.__name__} within {timeout:.0f} s; said: {kinds}")
            await asyncio.sleep(0.02)

    async def lines(self, job: JobWanted) -> list[tuple[int, int, str]]:
        """(sequence, stream, text) of every line in the stream LOGS, as often as it is there."""
        subject = subjects.logs(job.project, job.experiment, job.attempt, job.rank)
        found = []
        for _, data in await self.messages("LOGS", lambda name: name == subject):
            batch = decode_logs(data)
            found += [(batch.first + at, line.stream, line.text) for at, line in enumerate(batch.lines)]
        return found

    async def records(self, job: JobWanted) -> dict[str, list[tuple[int, int]]]:
        """(first, count) of every batch of each writer in the stream METRICS."""
        subject = subjects.metrics(job.project, job.experiment, job.attempt, job.rank)
        found: dict[str, list[tuple[int, int]]] = {}
        for _, data in await self.messages("METRICS", lambda name: name == subject):
            batch = decode_metrics(data)
            found.setdefault(batch.writer, []).append((batch.first, batch.count))
        return found

    async def messages(self, stream: str, wanted: Callable[[str], bool] = lambda _: True) -> list[tuple[str, bytes]]:
        """(subject, payload) of what a stream holds, in order."""
        seen = self._seen.setdefault(stream, [])
        js = self.client.jetstream()
        last = (await js.stream_info(stream)).state.last_seq
        async with self._reading:
            while self._read_to[stream] < last:
                message = await js.get_msg(stream, self._read_to[stream] + 1, direct=False)
                self._read_to[stream] += 1
                seen.append((message.subject or "", message.data or b""))
        return [(subject, data) for subject, data in seen if wanted(subjects.unpartitioned(subject))]
