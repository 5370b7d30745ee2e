"""Following: whatever gets lost, doubled or delayed on the way, each line is shown once and in order."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import signal
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from incl_cli.follow import Follower, Wanted, watch
from incl_cli.output import Output
from incl_cli.screens import LiveScreen, LogScreen, PlainScreen
from incl_cli.summary import print_summary
from incl_cli.testing import FakePlatform, Run, Terminal
from incl_shared.errors import UnavailableError
from incl_shared.queries.tracker import (
    AlertView,
    ArtifactView,
    ExperimentView,
    GetExperiment,
    GetLogs,
    Live,
    LogLine,
    Stage,
)
from incl_shared.spec import ExperimentSpec
from incl_shared.states import ExperimentState
from incl_shared.testing.wait import until


class Recorder:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.states: list[str] = []
        self.notes: list[str] = []
        self.metrics: dict[str, Any] = {}

    def view(self, view: ExperimentView) -> None:
        self.states.append(view.row.state.value)

    def lines(self, lines: Sequence[LogLine]) -> None:
        self.texts.extend(line.text for line in lines)

    def values(self, values: dict[str, Any], points: int) -> None:
        self.metrics.update(values)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def tick(self) -> None:
        pass

    def close(self) -> None:
        pass


def begin(fake: FakePlatform, screen: Recorder, **options: Any) -> tuple[str, asyncio.Task[ExperimentView]]:
    view = fake.add(state=ExperimentState.RUNNING)
    return view.row.id, asyncio.ensure_future(Follower(fake, view.row.id, screen, **options).run())


async def subscribed(fake: FakePlatform) -> None:
    await until(lambda: any(isinstance(query, GetLogs) for query in fake.asked))


def end(fake: FakePlatform, identifier: str) -> None:
    fake.change(identifier, state=ExperimentState.FINISHED, settled=True)


async def test_lines_said_before_and_after_are_shown_once(fake: FakePlatform) -> None:
    screen = Recorder()
    view = fake.add(state=ExperimentState.RUNNING)
    fake.say(view.row.id, "a", "b")
    task = asyncio.ensure_future(Follower(fake, view.row.id, screen).run())
    await subscribed(fake)
    fake.say(view.row.id, "c")
    end(fake, view.row.id)
    assert (await task).settled
    assert screen.texts == ["a", "b", "c"]


async def test_a_submission_that_the_bus_lost_is_submitted_again(
    fake: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incl_cli.follow._SILENT_S", 0.1)
    screen = Recorder()
    lost = fake.add(state=ExperimentState.FINISHED, settled=True)
    fake.views.clear()

    async def again() -> None:
        fake.views[lost.row.id] = lost

    assert (await Follower(fake, lost.row.id, screen, again=again).run()).row.id == lost.row.id
    assert screen.notes == ["submitted and stored in the bus; the provisioner has not taken it yet (incl doctor)"]


async def test_a_lost_message_is_asked_for(fake: FakePlatform) -> None:
    screen = Recorder()
    identifier, task = begin(fake, screen)
    await subscribed(fake)
    fake.say(identifier, "lost", quiet=True)
    fake.say(identifier, "heard")
    await until(lambda: len(screen.texts) == 2)
    end(fake, identifier)
    await task
    assert screen.texts == ["lost", "heard"]


async def test_a_doubled_or_late_message_is_dropped(fake: FakePlatform) -> None:
    screen = Recorder()
    identifier, task = begin(fake, screen)
    await subscribed(fake)
    late = fake.say(identifier, "one")
    fake.say(identifier, "two")
    fake.tell(late)
    fake.tell(late)
    end(fake, identifier)
    await task
    assert screen.texts == ["one", "two"]


@pytest.mark.parametrize("seed", range(20))
async def test_any_mix_of_lost_doubled_and_shuffled_messages_gives_each_line_once(
    fake: FakePlatform, seed: int
) -> None:
    chance = random.Random(seed)
    fake.page = 3
    screen = Recorder()
    identifier, task = begin(fake, screen)
    held: list[Live] = []
    said = []
    for index in range(60):
        texts = [f"{index}.{part}" for part in range(chance.randrange(1, 4))]
        said += texts
        held.append(fake.say(identifier, *texts, quiet=True))
        if chance.random() < 0.5:
            chance.shuffle(held)
            for live in held[: chance.randrange(len(held) + 1)]:
                for _ in range(chance.choice([0, 1, 1, 2])):
                    fake.tell(live)
            held.clear()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    end(fake, identifier)
    await task
    assert screen.texts == said


async def test_a_flood_that_overruns_the_backlog_loses_nothing(fake: FakePlatform) -> None:
    screen = Recorder()
    identifier, task = begin(fake, screen)
    await subscribed(fake)
    for index in range(5000):
        fake.say(identifier, str(index))
    end(fake, identifier)
    await task
    assert screen.texts == [str(index) for index in range(5000)]


async def test_a_platform_that_goes_away_only_delays(fake: FakePlatform) -> None:
    screen = Recorder()
    fake.refusals[GetExperiment] = UnavailableError("the tracker does not answer")
    identifier, task = begin(fake, screen)
    await until(lambda: bool(screen.notes))
    fake.say(identifier, "meanwhile", quiet=True)
    del fake.refusals[GetExperiment]
    await until(lambda: "connected again" in screen.notes)
    end(fake, identifier)
    await task
    assert screen.texts == ["meanwhile"]
    assert sum("waiting for it" in note for note in screen.notes) == 1


async def test_only_wanted_lines_are_shown(fake: FakePlatform) -> None:
    screen = Recorder()
    identifier, task = begin(fake, screen, wanted=Wanted(rank=1, search="LOSS"))
    await subscribed(fake)
    fake.say(identifier, "loss 1", rank=0)
    fake.say(identifier, "Loss 2", "other", rank=1)
    end(fake, identifier)
    await task
    assert screen.texts == ["Loss 2"]


async def test_metrics_and_states_are_passed_on_and_old_views_are_not(fake: FakePlatform) -> None:
    screen = Recorder()
    identifier, task = begin(fake, screen)
    await subscribed(fake)
    old = fake.views[identifier]
    fake.tell(Live(kind="metrics", experiment=identifier, values={"loss": [3, 0.5]}, points=1))
    fake.change(identifier, state=ExperimentState.STOPPING)
    fake.tell(Live(kind="state", experiment=identifier, view=old))
    fake.tell(Live(kind="state", experiment=identifier, view=None))
    end(fake, identifier)
    await task
    assert screen.metrics == {"loss": [3, 0.5]}
    assert screen.states == ["running", "stopping", "finished"]


async def test_a_live_message_that_cannot_be_read_is_ignored(fake: FakePlatform) -> None:
    screen = Recorder()
    identifier, task = begin(fake, screen)
    await subscribed(fake)
    fake.garble(identifier, b"\xff not json")
    end(fake, identifier)
    await task
    assert screen.states[-1] == "finished"


async def test_watch_ends_with_none_when_it_is_cancelled(fake: FakePlatform) -> None:
    screen = Recorder()
    view = fake.add(state=ExperimentState.RUNNING)
    watching = asyncio.ensure_future(watch(Follower(fake, view.row.id, screen), screen, tail=0))
    await until(lambda: screen.states == ["running"])
    os.kill(os.getpid(), signal.SIGINT)
    assert await watching is None


# --- screens


def line(text: str, rank: int = 0, stream: str = "out") -> LogLine:
    return LogLine.model_validate({"attempt": 1, "rank": rank, "stream": stream, "time": 1.5, "text": text})


def stage(name: str, start: float, end: float | None, note: str = "") -> Stage:
    return Stage.model_validate({"name": name, "attempt": 1, "start": start, "end": end, "note": note})


def test_plain_lines_go_to_stdout_and_stages_to_stderr_once(fake: FakePlatform) -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = PlainScreen(Output(out, err))
    view = fake.add(
        spec=ExperimentSpec(command=["x"], nodes=2),
        state=ExperimentState.QUEUED,
        waiting="2 cores are free, 4 needed",
        stages=(stage("packing", 1.0, 1.5), stage("queued", 1.5, None)),
    )
    screen.view(view)
    screen.view(view)
    screen.lines([line("hello"), line("there", rank=1)])
    assert out.getvalue() == "[0] hello\n[1] there\n"
    assert err.getvalue().splitlines() == ["✓ packing       0.5s", "waiting: 2 cores are free, 4 needed"]


def test_a_pipe_gets_the_lines_as_they_are(fake: FakePlatform) -> None:
    out = io.StringIO()
    PlainScreen(Output(out, io.StringIO())).lines([line("\x1b[31mred\x1b[0m\x07")])
    assert out.getvalue() == "\x1b[31mred\x1b[0m\x07\n"


def test_logs_as_json_lines() -> None:
    out = io.StringIO()
    LogScreen(Output(out, io.StringIO()), as_json=True).lines([line("a"), line("b", stream="err")])
    assert [json.loads(text)["stream"] for text in out.getvalue().splitlines()] == ["out", "err"]


def test_a_very_long_line_is_one_line_again() -> None:
    out = io.StringIO()
    screen = LogScreen(Output(out, io.StringIO()))
    screen.lines([line("aa").model_copy(update={"part": True})])
    screen.lines([line("bb"), line("cc").model_copy(update={"part": True}), line("other", stream="err"), line("dd")])
    assert out.getvalue() == "aabb\ncc\nother\ndd\n"


def test_the_footer_has_stage_time_metrics_and_the_way_out(fake: FakePlatform) -> None:
    screen = LiveScreen(Output(Terminal(), Terminal(), color=False))
    view = fake.add(
        spec=ExperimentSpec.model_validate({"command": ["x"], "metrics": {"val_acc": "max"}}),
        state=ExperimentState.RUNNING,
        stages=(stage("queued", 1.0, 2.0), stage("running", 2.0, None)),
    )
    screen.view(view)
    screen.values({"val_acc": [40, 0.91], "loss": [41, 0.2]}, 2)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(screen.footer(now=12.5))
    text = console.export_text()
    assert "running 10.5s" in text
    assert "step 40  val_acc 0.91" in text
    assert "loss" not in text
    assert "Ctrl-C detaches" in text


def test_undeclared_metrics_are_shown_by_what_they_tell() -> None:
    screen = PlainScreen(Output(io.StringIO(), io.StringIO()))
    names = ("m0", "m1", "m10", "system/gpu", "train/loss", "val_acc", "glossy", "loss", "accuracy", "m2")
    screen.values({name: [7, 1.5] for name in names}, len(names))
    assert screen.metrics_text() == "step 7  loss 1.5  accuracy 1.5  train/loss 1.5  val_acc 1.5"
    few = PlainScreen(Output(io.StringIO(), io.StringIO()))
    few.values({name: [7, 1.5] for name in ("m3", "m1", "m0", "m2", "loss")}, 5)
    assert few.metrics_text() == "step 7  loss 1.5  m0 1.5  m1 1.5  m2 1.5"


def test_the_summary_has_checkpoints_by_their_step(fake: FakePlatform, cli: Run) -> None:
    """The newest first, after what the script made; the same in `incl show`."""
    steps = (0, 1000, 1200, 200)
    files = tuple(
        ArtifactView(path=f"{step}/m.pt", kind="checkpoint", sha256="e" * 64, size=1, attempt=1, rank=0, step=step)
        for step in steps
    )
    made = ArtifactView(path="model.pt", kind="output", sha256="e" * 64, size=1, attempt=1, rank=0)
    view = fake.add(name="kept", artifacts=(*files, made))
    said = io.StringIO()
    print_summary(Output(io.StringIO(), said), view)
    for text in (said.getvalue(), cli("show", view.row.id).out):
        found = re.findall(r"(\S+\.pt)", text)
        assert found == ["model.pt", "1200/m.pt", "1000/m.pt", "200/m.pt", "0/m.pt"]


def test_the_footer_is_taken_away_and_the_lines_stay(fake: FakePlatform) -> None:
    out = Terminal()
    screen = LiveScreen(Output(out, Terminal(), color=False))
    screen.view(fake.add(state=ExperimentState.RUNNING, stages=(stage("running", 2.0, None),)))
    screen.tick()
    screen.lines([line("first"), line("\x1b[2Jsecond\x07")])
    screen.tick()
    screen.close()
    text = out.getvalue()
    assert "first\n" in text
    assert "second" in text
    assert "\x1b[2J" not in text
    assert text.rstrip().endswith(("\x1b[2K", "\x1b[?25h")) or text.endswith("\n")


def test_a_narrow_terminal_never_wraps_the_footer(fake: FakePlatform) -> None:
    screen = LiveScreen(Output(Terminal(), Terminal(), color=False))
    screen.view(fake.add(state=ExperimentState.QUEUED, waiting="a very long reason " * 10))
    console = Console(width=40, file=io.StringIO())
    assert len(console.render_lines(screen.footer(now=12.5))) == 1


def test_alerts_are_told_once_and_cannot_steer_the_terminal(fake: FakePlatform) -> None:
    said = io.StringIO()
    out = Output(io.StringIO(), said)
    view = fake.add()
    first = AlertView(attempt=1, rank=0, time=1.0, title="loss\x1b[2J is NaN", text="at\nstep 5", level="error")
    second = AlertView(attempt=1, rank=0, time=0.5, title="slow")
    followed, logged = PlainScreen(out), LogScreen(out)
    logged.prepare(view.model_copy(update={"alerts": (first,)}))
    for alerts in ((first,), (first, second, second), (first, second, second)):
        followed.view(view.model_copy(update={"alerts": alerts}))
    assert said.getvalue().splitlines() == [
        "! error: loss is NaN — at step 5",
        "! info: slow",
        "! info: slow",
    ]
    logged.view(view.model_copy(update={"alerts": (first, second)}))
    assert said.getvalue().count("slow") == 3
    assert said.getvalue().count("NaN") == 1
