"""Transfers beside a store that answers in the same process."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from incl_agent.blobs import JobStore
from incl_agent.link import JobLink
from incl_shared.artifacts import ArtifactClient, Blob
from incl_shared.control import JobSpec, JobWanted, Wanted
from incl_shared.ids import new_id
from incl_shared.queries.registry import Grant


class _Link:
    async def ask(self, _: object) -> Grant:
        return Grant(url="http://127.0.0.1:1", token="t", expires=time.time() + 60)


async def test_transfers_leave_the_threads_of_the_loop_to_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all services in one process the store answers in the loop's default threads: no transfer may hold one."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))

    def put_file(_: ArtifactClient, path: Path) -> Blob:
        answer = asyncio.run_coroutine_threadsafe(asyncio.to_thread(path.read_bytes), loop)
        return Blob("0" * 64, len(answer.result(5.0)))

    monkeypatch.setattr(ArtifactClient, "put_file", put_file)
    job = JobWanted(
        experiment=new_id(), project="p", user="u", attempt=1, rank=0, wanted=Wanted.RUN,
        spec=JobSpec(name="n", command=("true",)),
    )  # fmt: skip
    file = tmp_path / "output"
    file.write_bytes(b"12345")
    stores = [JobStore(cast("JobLink", _Link()), job, 1.0) for _ in range(3)]
    try:
        async with asyncio.timeout(4.0):
            blobs = await asyncio.gather(*(store.upload(file) for store in stores for _ in range(8)))
    finally:
        for store in stores:
            store.close()
    assert [blob.size for blob in blobs] == [5] * 24
