"""incl metrics: charts, lists, and raw points as CSV, JSON and Arrow."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from incl_cli.testing import FakePlatform, Run
from incl_shared.errors import UnavailableError
from incl_shared.queries.tracker import Curve, ExperimentView, GetChart, GetPoints, MetricSummary, Points
from incl_shared.spec import ExperimentSpec


def metric(name: str, last: float, **fields: Any) -> MetricSummary:
    known = {"last_step": 10, "minimum": last, "maximum": last, "points": 11}
    return MetricSummary(**{"name": name, "last": last, **known, **fields})


@pytest.fixture
def digits(fake: FakePlatform) -> ExperimentView:
    best = metric("val_acc", 0.5, best=0.9, best_step=3, goal="max")
    return fake.add(spec=ExperimentSpec(command=["x"], name="digits"), metrics=(best, metric("system/cpu", 1.0)))


def curve(view: ExperimentView, values: list[Any], name: str = "val_acc") -> Curve:
    count = len(values)
    steps, times = tuple(range(count)), tuple(float(index) for index in range(count))
    identifier = view.row.id
    return Curve(
        experiment=identifier, metric=name, rank=0, steps=steps, start=100.0, times=times, values=tuple(values),
        points=count,
    )  # fmt: skip


def points(view: ExperimentView, values: list[Any], name: str = "val_acc") -> Points:
    steps, times = tuple(range(len(values))), tuple(100.1 + index for index in range(len(values)))
    return Points(experiment=view.row.id, metric=name, rank=0, steps=steps, times=times, values=tuple(values))


def test_metrics_are_drawn_with_axis_and_best(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    fake.curves = [curve(digits, [0.0, 0.5, "NaN", 1.0])]
    text = cli("metrics", "digits").out
    assert "val_acc  last 0.5 at step 10, best 0.9 at step 3" in text
    assert "system/cpu" not in text
    assert re.search("[⠁-⣿]", text)
    assert "1 point left out: NaN or infinite" in text
    assert text.splitlines()[1].split()[0] == "1"


def test_several_experiments_are_overlaid_with_a_legend(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    other = fake.add(spec=ExperimentSpec(command=["x"], name="other"), metrics=(metric("val_acc", 1.0),))
    fake.curves = [curve(digits, [0.0, 1.0]), curve(other, [1.0, 0.0])]
    text = cli("metrics", "digits", "other", "-m", "val_acc").out
    assert "digits" in text
    assert "other" in text
    assert text.count("━━") == 2


@pytest.mark.usefixtures("digits")
def test_an_unknown_metric_is_told_with_those_that_there_are(cli: Run, fake: FakePlatform) -> None:
    result = cli("metrics", "digits", "val_ac")
    assert result.code == 4
    assert "there is no metric 'val_ac'" in result.err
    assert "val_acc, system/cpu" in result.err
    assert "did you mean 'val_acc'?" in result.err
    assert not any(isinstance(query, GetChart) for query in fake.asked)


def test_metrics_as_json_are_the_curves_with_their_times(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    fake.curves = [curve(digits, [0.5, "Infinity"]), curve(digits, [1.0], "system/cpu")]
    fake.page = 1
    found = cli("metrics", "digits", "val_acc", "system/cpu", "--json", "--pixels", "7").json
    assert [one["values"] for one in found] == [[0.5, "Infinity"], [1.0]]
    assert found[0]["times"] == [100.0, 101.0]
    query = next(query for query in fake.asked if isinstance(query, GetChart))
    assert (query.pixels, query.metrics) == (7, ("val_acc", "system/cpu"))


ODD = [0.1, "NaN", "Infinity", "-Infinity", -0.0, 1e-320, 0.30000000000000004]


def test_points_are_streamed_as_csv(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    fake.points, fake.page = [points(digits, ODD)], 2
    rows = list(csv.DictReader(io.StringIO(cli("metrics", "digits", "val_acc", "--points").out)))
    assert [repr(float(row["value"])) for row in rows] == [repr(float(value)) for value in ODD]
    assert [(row["experiment"], row["metric"], row["rank"], row["step"]) for row in rows] == [
        (digits.row.id, "val_acc", "0", str(step)) for step in range(len(ODD))
    ]
    assert float(rows[2]["time"]) == 100.1 + 2
    assert sum(isinstance(query, GetPoints) for query in fake.asked) == 4


def test_points_of_several_metrics_and_experiments_are_one_long_table(
    cli: Run, fake: FakePlatform, digits: ExperimentView, tmp_path: Path
) -> None:
    other = fake.add(spec=ExperimentSpec(command=["x"], name="other"), metrics=(metric("val_acc", 1.0),))
    fake.points = [points(digits, ODD), points(other, [1.0]), points(digits, [5.0], "system/cpu")]
    wanted = ["-m", "val_acc", "-m", "system/cpu", "--attempt", "2"]
    lines = cli("metrics", "digits", "other", *wanted, "--format", "json").out.splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(ODD) + 2, "other has no system/cpu"
    assert [row["value"] for row in rows[: len(ODD)]] == ODD
    assert rows[-1] == {
        "experiment": other.row.id, "metric": "val_acc", "rank": 0, "attempt": 2, "step": 0, "time": 100.1, "value": 1.0
    }  # fmt: skip
    target = tmp_path / "out" / "points.CSV"
    target.parent.mkdir()
    result = cli("metrics", "digits", "other", *wanted, "-o", str(target))
    assert (result.out, result.code) == ("", 0)
    assert "9 points of 2 metrics" in result.err
    assert [row["attempt"] for row in csv.DictReader(io.StringIO(target.read_text()))] == ["2"] * 9
    assert [one.name for one in target.parent.iterdir()] == ["points.CSV"]


def test_points_as_arrow(cli: Run, fake: FakePlatform, digits: ExperimentView, tmp_path: Path) -> None:
    import pyarrow as arrow

    fake.points, fake.page = [points(digits, ODD), points(digits, [5.0], "system/cpu")], 3
    target = tmp_path / "points.arrow"
    assert cli("metrics", "digits", "val_acc", "system/cpu", "-o", str(target)).code == 0
    with arrow.memory_map(str(target)) as source:
        table = arrow.ipc.open_file(source).read_all()
    assert table.column_names == ["experiment", "metric", "rank", "step", "time", "value"]
    assert list(map(repr, table["value"].to_pylist())) == [repr(float(value)) for value in [*ODD, 5.0]]
    assert table["metric"].to_pylist() == ["val_acc"] * len(ODD) + ["system/cpu"]
    assert set(table["experiment"].to_pylist()) == {digits.row.id}
    assert cli("metrics", "digits", "--format", "arrow", terminal=True).code == 2


def test_arrow_needs_its_package(
    cli: Run, fake: FakePlatform, digits: ExperimentView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = cli("metrics", "digits", "-o", "x.arrow")
    assert result.code == 2
    assert "pip install 'incl[arrow]'" in result.err
    assert fake.asked == []


def test_points_that_cannot_be_written_leave_nothing(
    cli: Run, fake: FakePlatform, digits: ExperimentView, tmp_path: Path
) -> None:
    fake.points, folder = [points(digits, [1.0])], tmp_path / "out"
    result = cli("metrics", "digits", "-o", str(folder / "x.csv"))
    assert result.code == 2
    assert "cannot write" in result.err
    fake.refusals[GetPoints] = UnavailableError("the tracker is away")
    folder.mkdir()
    assert cli("metrics", "digits", "-o", str(folder / "x.csv")).code == 7
    assert list(folder.iterdir()) == []
    assert "tells no format" in cli("metrics", "digits", "-o", "points").err
    assert cli("metrics", "digits", "--attempt", "1").code == 2


def test_very_many_metrics_are_said_and_listed(cli: Run, fake: FakePlatform) -> None:
    many = tuple(metric(f"loss/{place:04}", place / 7) for place in range(600))
    view = fake.add(spec=ExperimentSpec(command=["x"], name="wide"), metrics=many[:500], metric_count=600)
    name = view.row.id[-8:]
    assert f"… and 570 more: incl metrics {name} --list" in cli("show", "wide").out
    fake.curves, fake.page = [curve(view, [1.0, 2.0], one.name) for one in many], 100
    assert f"… and 594 more metrics: incl metrics {name} --list" in cli("metrics", "wide").err
    fake.views[view.row.id] = view.model_copy(update={"metrics": many})
    listed = cli("metrics", "wide", "--list", "--json").json
    assert [one["name"] for one in listed] == [one.name for one in many]
    assert "loss/0599" in cli("metrics", "wide", "--list", "0599").out
    assert len(cli("metrics", "wide", "--list", "LOSS/01").out.splitlines()) == 101


def test_what_the_window_leaves_out_is_told(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    assert cli("metrics", "digits", "val_acc", "--rank", "7").out == "val_acc  rank 7\n  no points of rank 7\n"
    assert (
        "no points from step 100 to step 200" in cli("metrics", "digits", "val_acc", "--from", "100", "--to", "200").out
    )
    result = cli("metrics", "digits", "--from", "9", "--to", "3")
    assert result.code == 2
    assert "--from 3 --to 9" in result.err
    fake.points = [points(digits, [])]
    result = cli("metrics", "digits", "val_acc", "--points", "--rank", "7")
    assert "no points of rank 7" in result.err
    assert len(result.out.splitlines()) == 1


def test_of_very_many_metrics_those_that_are_alike_are_told(cli: Run, fake: FakePlatform) -> None:
    many = tuple(metric(f"layer{index:03}/w", 1.0) for index in range(300))
    fake.add(spec=ExperimentSpec(command=["x"], name="deep"), metrics=many)
    result = cli("metrics", "deep", "layer25")
    assert result.code == 4
    assert "logged are: layer250/w, layer251/w" in result.err
    assert "and 280 more" in result.err
    assert "did you mean 'layer25" in result.err


def test_the_axis_of_a_thinned_curve_begins_where_the_curve_does(
    cli: Run, fake: FakePlatform, digits: ExperimentView
) -> None:
    steps = (3, *range(10, 1000, 10))
    thin = curve(digits, [1.0] * len(steps)).model_copy(update={"steps": steps})
    fake.curves = [thin]
    assert cli("metrics", "digits", "val_acc").out.splitlines()[-1].split() == ["0", "step", "990"]
    assert cli("metrics", "digits", "val_acc", "--from", "2").out.splitlines()[-1].split() == ["2", "step", "990"]
    fake.curves = [thin.model_copy(update={"steps": tuple(step + 500 for step in steps)})]
    assert cli("metrics", "digits", "val_acc").out.splitlines()[-1].split() == ["503", "step", "1490"]
