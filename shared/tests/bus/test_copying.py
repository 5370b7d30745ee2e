"""A stream into a file, and from there into another stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from incl_shared.archive.frames import BadFrames
from incl_shared.bus import copying
from incl_shared.bus.client import BusClient
from incl_shared.bus.topology import EVENTS, METRICS
from incl_shared.events import ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.testing.nats import ServerFactory, apply_topology

COUNT = 1203


async def said(client: BusClient, stream: str) -> list[copying.Message]:
    last = await copying.last_sequence(client, stream)
    return [message async for message in copying.messages(client, stream, upto=last)]


async def test_a_stream_goes_into_a_file_and_comes_back(
    bus_client: BusClient, nats_factory: ServerFactory, tmp_path: Path
) -> None:
    experiment = new_id()
    for number in range(COUNT):
        event = ExperimentWaiting(experiment=experiment, reason=str(number))
        await bus_client.publish_event(event, project="default", version=number)
    sent = f"incl.metrics.default.{experiment}.1.0"
    await bus_client.publish_confirmed(sent, b"\x00\xff", message_id="one", headers={"A": "1"})
    events, metrics = await said(bus_client, EVENTS), await said(bus_client, METRICS)
    assert [message.sequence for message in events] == list(range(1, COUNT + 1))
    assert metrics == [copying.Message(1, sent, {"A": "1", "Nats-Msg-Id": "one"}, b"\x00\xff")]
    some = [m.sequence async for m in copying.messages(bus_client, EVENTS, after=700, upto=1202)]
    assert some == list(range(701, 1203))

    files = {stream: tmp_path / stream for stream in (EVENTS, METRICS)}
    for stream, path in files.items():
        last = await copying.last_sequence(bus_client, stream)
        assert await copying.write_copy(path, stream, copying.messages(bus_client, stream, upto=last)) == last
    with pytest.raises(BadFrames, match="a copy of"):
        list(copying.read_copy(files[EVENTS], METRICS))

    server = nats_factory()
    await apply_topology(server.settings("topology"))
    async with await BusClient.connect(server.settings()) as other:
        for stream, path in files.items():
            for _ in range(2):
                await copying.fill(other, copying.read_copy(path, stream))
            assert await said(other, stream) == await said(bus_client, stream)


def test_a_copy_that_was_cut_short_shows(tmp_path: Path) -> None:
    from incl_shared.archive.frames import FrameWriter, read_frames

    path = tmp_path / "copy"
    with FrameWriter(path, [copying.KIND, 1, EVENTS]) as file:
        for number in range(3):
            file.add([number, "a", {}, bytes(1000)])
    assert len(list(read_frames(path, copying.KIND))) == 4
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFrames):
            list(read_frames(path, copying.KIND))
    path.write_bytes(whole)
    for kind, version in (("other", 1), (copying.KIND, 2)):
        with pytest.raises(BadFrames):
            list(read_frames(path, kind, version))
