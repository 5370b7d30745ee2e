"""Everything before the command: code, checkpoint, data, image, secrets; and the launch that comes of it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from incl_agent.blobs import JobStore
from incl_agent.environment import Paths, build_environment, default_rendezvous, hostfile_text
from incl_agent.mounting import Mounter, places
from incl_agent.runtimes import Launch, Plan, Prepared, RuntimeFailure
from incl_agent.runtimes.pulling import Login
from incl_shared.archive import DIRECTORY_ENDING
from incl_shared.archive.unpack import unpack
from incl_shared.control import CheckpointRef
from incl_shared.errors import DeniedError, InclError, IntegrityError, InvalidInput, NotFoundError
from incl_shared.queries.gateway import ReadSecrets
from incl_shared.states import EndReason
from incl_shared.tasks import gather

if TYPE_CHECKING:
    from incl_agent.life import JobLife
    from incl_agent.node import Node

T = TypeVar("T")
_NO_ROOM = os.strerror(errno.ENOSPC)
_NEVER = (InvalidInput, NotFoundError, DeniedError, IntegrityError)
_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 3.0
"""However long an outage was: work goes on within seconds after it."""


class Preparation:
    """Prepares one job. All of it can be done again."""

    def __init__(self, node: Node, life: JobLife) -> None:
        self._node = node
        self._life = life
        self._files = life.files
        self._spec = life.wanted.spec
        self._store: JobStore = life.uploads.store
        self._places = places(self._spec.data, node.settings.data_dir, image=self._spec.image is not None)

    async def fetch(self) -> None:
        """Data; then code, checkpoint and image, side by side; then a free port.

        Raises:
            RuntimeFailure: the runtime or the machine cannot honour the job.
            InclError: something cannot be fetched.
        """
        await asyncio.to_thread(self._files.create, self._life.wanted)
        await self._data()
        prepared, _, _ = await gather(self._image(), self._code(), self._checkpoint())
        state = self._life.state
        state.image, state.digest = prepared.image, prepared.digest
        state.pulling, state.pulled = prepared.pulling, prepared.pulled
        state.port = free_port(self._life.wanted.address)

    async def launch(self) -> Launch:
        """What the shim is to start. Secrets are asked for now, and go nowhere but into it."""
        wanted, spec, state = self._life.wanted, self._spec, self._life.state
        runtime = self._node.runtimes[state.runtime]
        secrets = await self._retry(lambda: self._secrets(spec.secrets)) if spec.secrets else {}
        meeting = wanted.rendezvous or default_rendezvous(wanted, state.port or free_port(wanted.address))
        self._files.hostfile.write_text(hostfile_text(wanted, meeting), encoding="ascii")
        env = build_environment(
            wanted,
            meeting,
            self._paths(),
            base=self._node.base_environment,
            same_machine=bool(spec.submitter.machine) and spec.submitter.machine == self._node.machine,
            node_has_gpus=self._node.gpus > 0,
            secrets=secrets,
        )
        plan = Plan(
            name=wanted.job,
            argv=spec.command,
            env=env,
            cwd=self._files.work,
            writable=(self._files.work, self._files.outputs, self._files.spool),
            readable=(
                self._files.data,
                *(path for path in (self._files.checkpoint,) if path.is_dir()),
                self._files.hostfile,
                self._node.sdk,
                *(place.host for place in self._places if place.data.source is not None and place.host == place.seen),
            ),
            hidden=self._node.hidden,
            mounts=tuple(
                place.volume for place in self._places if place.data.source is None or place.host != place.seen
            ),
            private=frozenset(secrets),
            image=spec.image,
            cpu=spec.cpu,
            memory=spec.memory,
            gpus=spec.gpus,
            grace_s=spec.grace_s,
            max_duration_s=spec.max_duration_s,
        )
        return replace(runtime.launch(plan, Prepared(state.image, state.digest)), lease=self._node.lease.path)

    def _paths(self) -> Paths:
        files, checkpoint = self._files, None
        if self._life.wanted.checkpoint is not None:
            checkpoint = files.checkpoint / _checkpoint_name(self._life.wanted.checkpoint)
        found = {place.data.target: str(place.seen) for place in self._places}
        return Paths(
            files.work, files.outputs, files.data, files.spool, files.hostfile, self._node.sdk, checkpoint, found
        )

    async def _secrets(self, names: tuple[str, ...]) -> dict[str, str]:
        answer = await self._life.link.ask(ReadSecrets(names=names))
        missing = [name for name in names if name not in answer.values]
        if missing:
            raise NotFoundError(
                f"there is no secret {missing[0]} in the project {self._life.wanted.project}",
                hint=f"store it: incl secret set {missing[0]}",
            )
        return {name: answer.values[name] for name in names}

    async def _image(self) -> Prepared:
        spec, login = self._spec, None
        self._life.state.runtime = await self._node.runtime_for(spec)
        name = spec.image_login
        if name is not None:
            login = Login.parse(name, (await self._retry(lambda: self._secrets((name,))))[name])
        return await self._node.runtimes[self._life.state.runtime].prepare(spec.image, login, spec.image_digest)

    async def _code(self) -> None:
        """The working directory, unpacked anew from the node's cache."""
        code, work = self._spec.code, self._files.work
        if code is None:
            work.mkdir(exist_ok=True)
            return
        for last in (False, True):
            archive = await self._blob(code.sha256)
            await asyncio.to_thread(_clear, work)
            try:
                await self._retry(lambda: asyncio.to_thread(unpack, archive, work, sha256=code.sha256))  # noqa: B023
                return
            except IntegrityError:
                self._node.cache.forget(code.sha256)
                if last:
                    raise

    async def _checkpoint(self) -> None:
        wanted = self._life.wanted.checkpoint
        if wanted is None:
            return
        blob = await self._blob(wanted.sha256)
        target = self._files.checkpoint / _checkpoint_name(wanted)
        await asyncio.to_thread(_clear, self._files.checkpoint)
        target.parent.mkdir(parents=True)
        if wanted.path.endswith(DIRECTORY_ENDING):
            await self._retry(lambda: asyncio.to_thread(unpack, blob, target, sha256=wanted.sha256))
        else:
            await asyncio.to_thread(shutil.copyfile, blob, target)

    async def _blob(self, sha256: str) -> Path:
        return await self._node.cache.get(sha256, lambda path: self._retry(lambda: self._store.download(sha256, path)))

    async def _retry(self, work: Callable[[], Awaitable[T]]) -> T:
        deadline, delay = time.monotonic() + self._node.settings.retry_limit_s, _FIRST_RETRY_S
        while True:
            try:
                return await work()
            except _NEVER:
                raise
            except InclError as error:
                if time.monotonic() + delay > deadline:
                    raise
                if _NO_ROOM in error.cause:
                    self._node.no_room(self._life.job)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LAST_RETRY_S)

    async def _data(self) -> None:
        """Mount what is to be mounted; a link to each entry below INCL_DATA_DIR."""
        state = self._life.state
        mounts = any(place.data.source is None for place in self._places)
        if mounts:
            state.mounting = state.mounting or time.time()
        await Mounter(self._node.settings.disks, self._node.settings.data_dir, self._node.settings.node).mount(
            self._places
        )
        if mounts:
            state.mounted = max(state.mounting or 0.0, time.time())
        await asyncio.to_thread(self._link)

    def _link(self) -> None:
        for place in self._places:
            if place.data.source is not None and not (place.host.is_absolute() and place.host.exists()):
                raise RuntimeFailure(
                    EndReason.UNSUPPORTED,
                    f"the data {place.host} is not on the machine {self._node.settings.node}",
                    "data.source is an absolute path on the machine that runs the job",
                )
            target = self._files.data / place.data.target
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(place.seen)


def free_port(address: str) -> int:
    """A TCP port that nobody listens on now. Whoever binds it next has it: ask late, use soon."""
    for where in (address, "127.0.0.1"):
        try:
            with socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET) as probe:
                probe.bind((where, 0))
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise InclError("there is no free port on this machine")


def _checkpoint_name(wanted: CheckpointRef) -> str:
    """The file's own name, without any way out of its folder."""
    name = Path(wanted.path.removesuffix(DIRECTORY_ENDING)).name
    return f"{wanted.step or 0}/{name or 'checkpoint'}"


def _clear(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
