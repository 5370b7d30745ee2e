"""Events become rows: in order, once, whatever comes twice or too early, and only within the right project."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incl_shared.bus.errors import Early, Poison
from incl_shared.errors import AmbiguousError, DeniedError, InvalidInput, NotFoundError
from incl_shared.events import (
    ArtifactStored,
    AttemptAssigned,
    AttemptEnded,
    AttemptStarted,
    ClientTimes,
    Event,
    ExperimentFinished,
    ExperimentQueued,
    ExperimentStopping,
    ExperimentWaiting,
    Placement,
    RankEnd,
    RankTimes,
    RunEnded,
    RunStarted,
    WriterCount,
)
from incl_shared.events.experiments import MachinesMade
from incl_shared.ids import new_id
from incl_shared.migrations import assert_migrations_match
from incl_shared.queries.tracker import (
    GetChart,
    GetExperiment,
    GetLogs,
    GetPoints,
    GetWatermarks,
    ListExperiments,
    ListMetrics,
)
from incl_shared.spec import ExperimentSpec
from incl_shared.states import AttemptState, EndReason, ExperimentState
from incl_shared.subjects import Origin
from incl_tracker import counters, store_experiments
from incl_tracker.domain import stages
from incl_tracker.domain.references import Reference, parse
from incl_tracker.domain.stages import AttemptTimes, attempt_stages
from incl_tracker.tables import metadata

SPEC = ExperimentSpec(
    name="digits", command=["python", "train.py"], nodes=2, tags=("a", "b"), metrics={"acc": "max"}, env={"LR": "0.1"}
)
PLACES = tuple(Placement(rank=r, node=f"n{r}", address="127.0.0.1") for r in range(2))


def life(experiment: str) -> list[tuple[Event, float]]:
    """An experiment with two attempts, as the provisioner tells it: (event, time)."""

    def times(rank: int, begin: float, **more: float) -> RankTimes:
        return RankTimes(rank=rank, preparing=begin, prepared=begin + 2 + 2 * rank, started=begin + 5, **more)

    def end(rank: int, begin: float, end: float, reason: EndReason) -> RankEnd:
        when = times(rank, begin, ended=end, uploaded=end + 1 + rank)
        return RankEnd(rank=rank, node=f"n{rank}", reason=reason, times=when)

    lost, done = EndReason.LOST, EndReason.COMPLETED
    client = ClientTimes(started=990.0, packed=993.0, uploaded=999.0)
    return [
        (ExperimentQueued(experiment=experiment, user="ann", spec=SPEC, times=client), 1000.0),
        (ExperimentWaiting(experiment=experiment, reason="no machine has 2 free cores"), 1001.0),
        (ExperimentWaiting(experiment=experiment, reason="2 others go first"), 1005.0),
        (AttemptAssigned(experiment=experiment, attempt=1, placements=PLACES), 1010.0),
        (AttemptStarted(experiment=experiment, attempt=1, ranks=(times(0, 1011), times(1, 1012))), 1017.0),
        (
            AttemptEnded(
                experiment=experiment,
                attempt=1,
                reason=lost,
                message="n1 is lost",
                retry=True,
                ranks=(end(0, 1011, 1030, done), end(1, 1012, 1031, lost)),
            ),
            1040.0,
        ),
        (AttemptAssigned(experiment=experiment, attempt=2, placements=PLACES), 1050.0),
        (AttemptStarted(experiment=experiment, attempt=2, ranks=(times(0, 1051), times(1, 1051))), 1056.0),
        (
            AttemptEnded(
                experiment=experiment,
                attempt=2,
                reason=done,
                retry=False,
                ranks=(end(0, 1051, 1080, done), end(1, 1051, 1081, done)),
            ),
            1090.0,
        ),
        (
            ExperimentFinished(experiment=experiment, state=ExperimentState.FINISHED, reason=done, attempts=2),
            1091.0,
        ),
    ]


def test_migrations_make_the_tables_of_the_code(database_url: str) -> None:
    assert_migrations_match(database_url, metadata, "incl_tracker")


async def tell(bench: Any, experiment: str, upto: int = 99) -> None:
    for version, (event, time) in enumerate(life(experiment)[:upto], 1):
        await bench.event(event, version, time=time)


async def test_a_whole_life(bench: Any) -> None:
    experiment = new_id()
    states = []
    for version, (event, time) in enumerate(life(experiment), 1):
        await bench.event(event, version, time=time)
        states.append((await bench.ask(GetExperiment(ref=experiment))).row.state.value)
    assert states == [
        *["queued"] * 3, "starting", "running", "queued", "starting", "running", "running", "finished",
    ]  # fmt: skip
    view = await bench.ask(GetExperiment(ref=experiment))
    row = view.row
    assert (row.name, row.user, row.nodes, row.tags, row.attempts) == ("digits", "ann", 2, ("a", "b"), 2)
    assert (row.created, row.started, row.ended, row.reason) == (1000.0, 1016.0, 1091.0, EndReason.COMPLETED)
    assert [a.state for a in view.attempts] == [AttemptState.ENDED] * 2
    assert view.attempts[0].message == "n1 is lost"
    assert view.attempts[0].placements == PLACES
    assert view.spec == SPEC
    assert view.version == len(life(experiment)) + 1, "each event, and one settlement"


async def test_machines_that_were_made_have_their_stage_from_when_they_were_wanted(bench: Any) -> None:
    experiment = new_id()
    made = MachinesMade(
        cloud="gce", machine="n2-standard-4", zone="us-central1-a", spot=True, wanted=1002.0, asked=1004.0, made=1007.5
    )
    events = life(experiment)
    events[3] = (events[3][0].model_copy(update={"machines": made}), 1010.0)
    for version, (event, time) in enumerate(events, 1):
        await bench.event(event, version, time=time)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert (view.attempts[0].machines, view.attempts[1].machines) == (made, None)
    queued, machine = (s for s in view.stages if s.attempt == 1 and s.name in ("queued", "machine"))
    assert (queued.start, queued.end, queued.note) == (1000, 1002, "no machine has 2 free cores")
    assert (machine.start, machine.end) == (1002, 1011)
    assert machine.note == "n2-standard-4 spot in us-central1-a: found after 2 s, made in 3.5 s, booted in 2.5 s"
    kept = made.model_copy(update={"kept": 3})
    assert "spot (3 kept) in us-central1-a" in stages.made(kept, 1010.0)


async def test_the_waterfall(bench: Any) -> None:
    experiment = new_id()
    await tell(bench, experiment)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert [(s.name, s.attempt, s.start, s.end) for s in view.stages] == [
        ("packing", 1, 990, 993),
        ("upload", 1, 993, 999),
        ("queued", 1, 1000, 1010),
        ("machine", 1, 1010, 1011),
        ("unpacking", 1, 1011, 1016),
        ("running", 1, 1016, 1031),
        ("uploading", 1, 1031, 1033),
        ("queued", 2, 1040, 1050),
        ("machine", 2, 1050, 1051),
        ("unpacking", 2, 1051, 1056),
        ("running", 2, 1056, 1081),
        ("uploading", 2, 1081, 1083),
    ]
    notes = {(s.name, s.attempt): s.note for s in view.stages if s.note}
    assert notes[("queued", 1)] == "no machine has 2 free cores; 2 others go first"
    assert notes[("unpacking", 1)] == "rank 1 was 3.0 s behind rank 0"


def test_an_image_that_had_to_be_pulled_is_a_stage() -> None:
    image = f"sha256:{'a' * 64}"
    ranks = (
        RankTimes(rank=0, preparing=11, pulling=12, pulled=15, prepared=15, started=20, image=image),
        RankTimes(rank=1, preparing=11, pulling=12, pulled=19, prepared=19, started=20, image=image),
    )
    found = attempt_stages(AttemptTimes(attempt=1, queued=1, assigned=10, started=20, ranks=ranks))
    assert [(s.name, s.start, s.end) for s in found][2:] == [
        ("unpacking", 11, 12), ("pulling", 12, 20), ("running", 20, None),
    ]  # fmt: skip
    assert found[3].note == f"{image} in 7.0 s (rank 1, the slowest)"
    here = tuple(times.model_copy(update={"pulling": None, "pulled": None}) for times in ranks)
    kept = attempt_stages(AttemptTimes(attempt=1, queued=1, assigned=10, started=20, ranks=here))
    assert "pulling" not in [stage.name for stage in kept]


def test_data_that_had_to_be_mounted_is_a_stage() -> None:
    ranks = (
        RankTimes(rank=0, preparing=11, mounting=11, mounted=13, prepared=15, started=20),
        RankTimes(rank=1, preparing=11, mounting=11.5, mounted=16, prepared=19, started=20),
    )
    found = attempt_stages(AttemptTimes(attempt=1, queued=1, assigned=10, started=20, ranks=ranks))
    assert [(s.name, s.start, s.end) for s in found][2:] == [
        ("data", 11, 13), ("unpacking", 13, 20), ("running", 20, None),
    ]  # fmt: skip
    assert found[2].note == "mounted in 4.5 s (rank 1, the slowest)"


@pytest.mark.parametrize(
    ("upto", "last"),
    [(1, "queued"), (2, "queued"), (4, "machine"), (5, "running"), (6, "queued"), (7, "machine"), (8, "running")],
)
async def test_the_last_stage_is_open_while_it_lasts(lite: Any, upto: int, last: str) -> None:
    experiment = new_id()
    await tell(lite, experiment, upto)
    view = await lite.ask(GetExperiment(ref=experiment))
    assert (view.stages[-1].name, view.stages[-1].end) == (last, None)
    assert all(stage.end is not None for stage in view.stages[:-1])
    assert view.row.waiting == ("no machine has 2 free cores" if upto == 2 else "")


async def test_stopped_before_it_started(lite: Any) -> None:
    experiment = new_id()
    await lite.event(life(experiment)[0][0], 1, time=1000.0)
    await lite.event(ExperimentStopping(experiment=experiment, by="ann", reason="enough"), 2, time=1002.0)
    stopped = ExperimentFinished(
        experiment=experiment, state=ExperimentState.STOPPED, reason=EndReason.STOPPED, hint="run it again", attempts=0
    )
    await lite.event(stopped, 3, time=1003.0)
    view = await lite.ask(GetExperiment(ref=experiment))
    assert (view.row.state, view.message, view.hint) == (
        ExperimentState.STOPPED,
        "stopped by ann: enough",
        "run it again",
    )
    assert view.settled
    assert (view.stages[-1].name, view.stages[-1].end) == ("queued", 1003.0)


@given(st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_duplicates_and_disorder_change_nothing(lite: Any, data: st.DataObject) -> None:
    straight, crooked = new_id(), new_id()
    await tell(lite, straight)
    story = list(enumerate(life(crooked), 1))
    waiting = data.draw(st.permutations(story + data.draw(st.lists(st.sampled_from(story), max_size=8))))
    for _ in range(len(waiting) ** 2):
        if not waiting:
            break
        version, (event, time) = waiting.pop(0)
        try:
            await lite.event(event, version, time=time)
        except Early:
            waiting.append((version, (event, time)))
    assert not waiting
    one = await lite.ask(GetExperiment(ref=straight))
    two = await lite.ask(GetExperiment(ref=crooked))
    same = two.model_copy(update={"row": two.row.model_copy(update={"id": straight})})
    assert same == one


async def test_a_run_outside_the_platform(bench: Any, make: Any) -> None:
    run = new_id()
    started = RunStarted(experiment=run, name="n" * 10_000, config={"lr": "0.1"}, tags=("x",), started=900.0)
    await bench.event(started, user="bob", time=1000.0)
    await bench.event(started, user="bob", time=1001.0)
    records = [{"k": "p", "t": 901.0, "v": {"lr": 0.2, "model": {"depth": 3, "layers": [1, 2]}}}]
    await bench.batch(Origin("default", run, 1, 0), make.metric_batch("w", 1, [*records, (1, 1.0, {"acc": 0.5})]))
    ended = RunEnded(
        experiment=run,
        state=ExperimentState.FINISHED,
        ended=950.0,
        writers=(WriterCount(writer="w", records=2, stream="metrics"),),
    )
    await bench.event(ended, user="bob")
    await bench.event(ended, user="bob")
    view = await bench.ask(GetExperiment(ref=run))
    assert view.outside
    assert len(view.row.name) == 128
    assert (view.row.user, view.row.state, view.row.started, view.row.ended) == (
        "bob", ExperimentState.FINISHED, 900.0, 950.0,
    )  # fmt: skip
    assert view.config == {"lr": "0.2", "model.depth": "3", "model.layers": "[1, 2]"}
    assert [(s.name, s.start, s.end) for s in view.stages] == [("running", 900.0, 950.0)]
    assert view.settled
    assert len(await bench.emitted()) == 1


async def test_parameters_without_end_are_left_out(bench: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made millions of names would make every view of the experiment as large."""
    monkeypatch.setattr(store_experiments, "MAX_PARAMS", 5)
    run = new_id()
    await bench.event(RunStarted(experiment=run, started=900.0), user="bob", time=1000.0)
    before = counters.REFUSED_PARAMS._value.get()
    for first in range(3):
        values = {f"p{first + n}": str(first) for n in range(3)}
        record = {"k": "p", "t": 901.0 + first, "v": values}
        await bench.batch(Origin("default", run, 1, 0), make.metric_batch("w", first + 1, [record]))
    late = {"k": "p", "t": 910.0, "v": {"p0": "new", "p99": "no"}}
    await bench.batch(Origin("default", run, 1, 0), make.metric_batch("w", 4, [late]))
    view = await bench.ask(GetExperiment(ref=run))
    assert view.config == {"p0": "new", "p1": "1", "p2": "2", "p3": "2", "p4": "2"}
    assert counters.REFUSED_PARAMS._value.get() - before == 1


async def test_a_run_belongs_to_who_began_it(lite: Any) -> None:
    run = new_id()
    ended = RunEnded(experiment=run, state=ExperimentState.FAILED, ended=950.0)
    with pytest.raises(Early):
        await lite.event(ended, user="bob")
    await lite.event(RunStarted(experiment=run, started=900.0), user="bob")
    for kind in (ended, RunStarted(experiment=run, started=901.0)):
        with pytest.raises(Poison, match="somebody else"):
            await lite.event(kind, user="eve")
        with pytest.raises(Poison, match="somebody else"):
            await lite.event(kind, user="bob", project="other")
    assert (await lite.ask(GetExperiment(ref=run))).row.state is ExperimentState.RUNNING


async def test_no_project_writes_into_anothers_experiment(bench: Any, make: Any) -> None:
    experiment = new_id()
    foreign = Origin("other", experiment, 1, 0)
    await bench.batch(foreign, make.metric_batch("w", 1, [(1, 1.0, {"stolen": 1.0})]))
    await bench.batch(foreign, make.log_batch("tail", 1, ["stolen"]))
    await tell(bench, experiment, 5)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert (view.points, view.lines, view.metrics, view.row.project) == (0, 0, (), "default")
    with pytest.raises(Poison, match="not of project"):
        await bench.batch(foreign, make.log_batch("tail", 2, ["stolen"]))
    with pytest.raises(Poison, match="not of project"):
        await bench.event(life(experiment)[5][0], 6, project="other")
    for query in (
        GetExperiment(ref=experiment),
        GetLogs(experiment=experiment),
        GetChart(experiments=(experiment,)),
        GetPoints(experiment=experiment, metric="a"),
        ListMetrics(experiment=experiment),
    ):
        with pytest.raises(NotFoundError):
            await bench.ask(query, project="other")
    assert (await bench.ask(ListExperiments(), project="other")).rows == ()


async def test_watermarks_are_for_the_job_and_the_owner(lite: Any, make: Any) -> None:
    experiment = new_id()
    await tell(lite, experiment, 5)
    await lite.batch(Origin("default", experiment, 1, 1), make.log_batch("tail", 1, ["a"]))
    query = GetWatermarks(experiment=experiment, attempt=1, rank=1)
    for user in ("ann", f"job_{experiment}-1-1"):
        assert (await lite.ask(query, user=user)).stored == {"logs/tail": 1}
    for user in ("eve", f"job_{experiment}-1-0", f"job_{new_id()}-1-1"):
        with pytest.raises(DeniedError):
            await lite.ask(query, user=user)
    assert (await lite.ask(query, project="other")).stored == {}


async def test_artifacts_are_listed_once(bench: Any) -> None:
    experiment = new_id()
    await tell(bench, experiment, 1)

    def stored(sha: str, path: str = "model.pt") -> ArtifactStored:
        return ArtifactStored(
            experiment=experiment, attempt=1, rank=0, kind="output", path=path, sha256=sha * 64, size=3
        )

    await bench.event(stored("b"), 2)
    await bench.event(stored("a"), 1)
    await bench.event(stored("c", "é" * 2048), 3)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert [(a.path, a.sha256[0]) for a in view.artifacts] == [("model.pt", "b"), ("é" * 2048, "c")]


async def test_who_stopped_it_and_why_stays(lite: Any) -> None:
    experiment = new_id()
    for number, (event, time) in enumerate(life(experiment)[:5], 1):
        await lite.event(event, number, time=time)
    await lite.event(ExperimentStopping(experiment=experiment, by="ann", reason="loss is NaN"), 6, time=1060.0)
    end = RankEnd(rank=0, node="n1", reason=EndReason.STOPPED, times=RankTimes(rank=0))
    ended = AttemptEnded(experiment=experiment, attempt=1, reason=EndReason.STOPPED, retry=False, ranks=(end,))
    await lite.event(ended, 7, time=1061.0)
    view = await lite.ask(GetExperiment(ref=experiment))
    assert view.message == "stopped by ann: loss is NaN"


async def test_references(bench: Any) -> None:
    first, second = f"{'0' * 18}77aaaa11", f"{'0' * 18}78bbaa11"
    for place, experiment in enumerate((first, second)):
        await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=SPEC), 1, time=1000.0 + place)

    async def found(ref: str, user: str = "ann") -> str:
        return str((await bench.ask(GetExperiment(ref=ref), user=user)).row.id)

    assert await found(first.upper()) == first
    assert await found("aaaa11") == first
    assert await found("bbaa11") == second
    assert await found("78bba") == second, "the beginning of the eight characters that lists show"
    assert await found("@last") == second
    assert await found("@LAST~1") == first
    assert await found("digits") == second
    with pytest.raises(AmbiguousError) as caught:
        await found("aa11")
    assert first in caught.value.cause
    assert second in caught.value.cause
    with pytest.raises(AmbiguousError):
        await found("0000")
    for ref, user in (("@last~2", "ann"), ("@last", "bob"), ("nothing", "ann"), ("cccc", "ann"), (new_id(), "ann")):
        with pytest.raises(NotFoundError) as missing:
            await found(ref, user)
        assert "incl ls" in missing.value.hint
    with pytest.raises(InvalidInput, match="@first"):
        await found("@first")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("@last~12", Reference(back=12, name="@last~12")),
        ("abc", Reference(name="abc")),
        (" ab12 ", Reference(piece="ab12", name="ab12")),
        ("AB12", Reference(piece="ab12", name="AB12")),
        ("my run", Reference(name="my run")),
    ],
)
def test_what_a_reference_is(text: str, reference: Reference) -> None:
    assert parse(text) == reference
