"""The grammar: trees, round trips, and errors that show the place."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.errors import InvalidInput
from incl_shared.filters import (
    COLUMNS,
    EVERYTHING,
    Ago,
    And,
    Compare,
    Field,
    Filter,
    Kind,
    Not,
    Number,
    Op,
    Or,
    Period,
    SortKey,
    Span,
    Text,
    Today,
    Type,
    fields_of,
    parse,
    parse_field,
    parse_sort,
    sort_text,
    to_text,
    unknown_metric,
)
from incl_shared.states import EndReason, ExperimentState

VAL = Field(Kind.METRIC, "val_acc")
STATUS = Field(Kind.COLUMN, "status")


def test_and_binds_tighter_than_or_and_not_tightest() -> None:
    tree = parse("val_acc > 0.9 and not status = finished or nodes >= 2")
    assert tree == Or(
        (
            And(
                (
                    Compare(VAL, Op.GT, (Number(0.9),)),
                    Not(Compare(STATUS, Op.EQ, (Text("finished"),))),
                )
            ),
            Compare(Field(Kind.COLUMN, "nodes"), Op.GE, (Number(2),)),
        )
    )


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("val_acc > 1", VAL),
        ("metric.val_acc > 1", VAL),
        ('"val/acc" > 1', Field(Kind.METRIC, "val/acc")),
        ("`val acc` > 1", Field(Kind.METRIC, "val acc")),
        ("val/acc > 1", Field(Kind.METRIC, "val/acc")),
        ('metric."a.b" > 1', Field(Kind.METRIC, "a.b")),
        ('"name" > 1', Field(Kind.METRIC, "name")),
        ("param.lr > 1", Field(Kind.PARAM, "lr")),
        ("params.model.depth > 1", Field(Kind.PARAM, "model.depth")),
        ("config.'a b' > 1", Field(Kind.CONFIG, "a b")),
        ("env.LR > 1", Field(Kind.ENV, "LR")),
        ("state = failed", STATUS),
        ("STATUS = FAILED", STATUS),
        ("tags = x", Field(Kind.COLUMN, "tag")),
    ],
)
def test_names_of_fields(text: str, field: Field) -> None:
    assert fields_of(parse(text)) == (field,)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("created > 2026-01-31", Period(1769817600.0, 1769904000.0)),
        ("created > 2026-01-31T10:00", Period(1769853600.0, 1769853600.0)),
        ("created > 2026-01-31T10:00+02:00", Period(1769846400.0, 1769846400.0)),
        ("created > today", Today(0)),
        ("created > yesterday", Today(1)),
        ("created > now", Ago(0)),
        ("created > 2h", Ago(7200)),
        ("created > 3d ago", Ago(3 * 86400)),
        ("duration > 1h30m", Span(5400)),
        ("duration > 90", Span(90)),
        ("name = 'my run'", Text("my run")),
        (r"name = 'it\'s'", Text("it's")),
        ("param.opt = adam", Text("adam")),
        ("param.opt = '0.1'", Text("0.1")),
        ("param.lr = 1e-3", Number(0.001)),
        ("loss < inf", Number(math.inf)),
        ("loss < -2.5", Number(-2.5)),
    ],
)
def test_values(text: str, value: object) -> None:
    tree = parse(text)
    assert isinstance(tree, Compare)
    assert tree.value == value


def test_the_empty_filter_is_everything() -> None:
    assert parse("  \n") == EVERYTHING
    assert to_text(EVERYTHING) == ""


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("val_acc >", 10, "expected a value, found the end"),
        ("val_acc 0.9", 9, "expected an operator"),
        ("(val_acc > 1", 13, "closing bracket"),
        ("val_acc > 1)", 12, "closes nothing"),
        ("val_acc > 1 status = failed", 13, "expected and, or"),
        ("status = finisched", 10, "no such status"),
        ("name = 'open", 8, "quote is not closed"),
        ("val_acc ! 1", 9, "means nothing"),
        ("statsu = finished", 1, "no field 'statsu'"),
        ("val_acc = good", 11, "needs a number"),
        ("name > b", 6, "cannot be compared by >"),
        ("val_acc ~ 1", 9, "cannot be compared by ~"),
        ("created > soon", 11, "no time"),
        ("duration > long", 12, "no duration"),
        ("status in finished", 11, "opening bracket"),
        ("status in ()", 12, "expected a value"),
        ("metric. > 1", 1, "expected a name"),
        ("param.opt > adam", 13, "needs a number"),
        ("and", 1, "expected a field"),
        ("not", 4, "expected a field"),
        ("loss > nan", 8, "needs a number"),
        ("name = my run", 11, "expected and, or"),
    ],
)
def test_an_error_shows_the_place(text: str, column: int, part: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    error = caught.value
    assert part in error.message
    first, shown, caret = error.cause.split("\n")
    assert first == f"column {column}:"
    assert caret.index("^") - 2 == column - 1
    assert shown.strip() == text.strip()
    assert error.hint


def test_a_far_place_is_cut_out_of_a_long_text() -> None:
    text = " and ".join(["loss > 1"] * 30) + " and status = finisched"
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    _, shown, caret = caught.value.cause.split("\n")
    assert len(shown) < 110
    assert shown[caret.index("^") :].startswith("finisched")
    assert "'finished'" in caught.value.hint


@pytest.mark.parametrize("text", ["(" * 41 + "a > 1" + ")" * 41, "not " * 50 + "a > 1", "a > 1 and " * 400 + "a > 1"])
def test_too_deep_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


def test_orders() -> None:
    keys = parse_sort("-val_acc, created,metric.'a b'")
    assert keys == (
        SortKey(VAL, True),
        SortKey(Field(Kind.COLUMN, "created")),
        SortKey(Field(Kind.METRIC, "a b")),
    )
    assert parse_sort(sort_text(keys)) == keys
    assert parse_sort('-"a,b"') == (SortKey(Field(Kind.METRIC, "a,b"), True),)
    assert parse_sort("") == ()


@pytest.mark.parametrize("text", ["tag", "created created", "created,,name", "-", "> 1", "a,b,c,d,e,f,g,h,i"])
def test_wrong_orders(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_sort(text)


def test_one_field() -> None:
    assert parse_field(" State ") == STATUS
    assert parse_field("tag") == Field(Kind.COLUMN, "tag")
    assert parse_field("metric.'a b'") == Field(Kind.METRIC, "a b")
    assert parse_field("params.lr") == Field(Kind.PARAM, "lr")


@pytest.mark.parametrize("text", ["", "a b", "a,b", "user =", "param.", "not", "("])
def test_what_is_not_one_field(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        parse_field(text)


def test_names_by_the_hundred_thousand_and_endless_ones_cost_little() -> None:
    known = [f"layer{part}/block{place}/weight.norm" for part in range(100) for place in range(1000)]
    known += ["x" * 250 + str(number) for number in range(100)]
    started = time.process_time()
    error = unknown_metric("layer7/block77/wieght.norm", known, "experiment x")
    assert "'layer7/block77/weight.norm'" in error.hint
    assert "and 100090 more" in error.cause
    endless = unknown_metric("x" * 1_000_000, known, "experiment x")
    assert len(str(endless)) < 1000
    assert time.process_time() - started < 5, "it took a minute"


def test_an_unknown_metric_names_the_nearest_first() -> None:
    error = unknown_metric("val_ac", ["loss", "train_acc", "val_acc"], "project 'default'", fields=True)
    assert error.cause.startswith("known metrics, nearest first: val_acc")
    assert error.hint == "did you mean 'val_acc'?"
    assert "'status'" in unknown_metric("statu", ["loss"], "project 'default'", fields=True).hint
    assert "no metric has been logged" in unknown_metric("loss", [], "experiment x").cause


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
fields = st.one_of(
    st.sampled_from([Field(Kind.COLUMN, name) for name in COLUMNS]),
    st.builds(Field, st.sampled_from([Kind.METRIC, Kind.PARAM, Kind.CONFIG, Kind.ENV]), names),
)
numbers = st.floats(allow_nan=False).map(lambda x: Number(x + 0.0))
spans = st.integers(0, 10**9).map(float)
periods = st.one_of(
    st.integers(0, 20_000).map(lambda day: Period(day * 86400.0, day * 86400.0 + 86400.0)),
    st.integers(0, 2 * 10**9).map(lambda second: Period(float(second), float(second))),
)
orderings = st.sampled_from([Op.LT, Op.LE, Op.GT, Op.GE])
equalities = st.sampled_from([Op.EQ, Op.NE])


def values(field: Field, op: Op) -> st.SearchStrategy[object]:
    match field.type:
        case Type.TEXT:
            return names.map(Text)
        case Type.STATE:
            return st.sampled_from([Text(s.value) for s in ExperimentState])
        case Type.REASON:
            return st.sampled_from([Text(s.value) for s in EndReason])
        case Type.NUMBER:
            return numbers
        case Type.TIME:
            return st.one_of(spans.map(Ago), st.sampled_from([Today(0), Today(1)]), periods)
        case Type.DURATION:
            return spans.map(Span)
        case Type.MIXED:
            if op is Op.HAS:
                return names.map(Text)
            return numbers if op in (Op.LT, Op.LE, Op.GT, Op.GE) else st.one_of(numbers, names.map(Text))


@st.composite
def comparisons(draw: st.DrawFn) -> Compare:
    field = draw(fields)
    allowed = {
        Type.TEXT: [Op.EQ, Op.NE, Op.HAS, Op.IN],
        Type.STATE: [Op.EQ, Op.NE, Op.IN],
        Type.REASON: [Op.EQ, Op.NE, Op.IN],
        Type.MIXED: list(Op),
    }.get(field.type, [op for op in Op if op is not Op.HAS])
    op = draw(st.sampled_from(allowed))
    count = draw(st.integers(1, 3)) if op is Op.IN else 1
    return Compare(field, op, tuple(draw(values(field, op)) for _ in range(count)))  # type: ignore[misc]


def branches(children: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(children, min_size=2, max_size=3).map(tuple)
    return st.one_of(children.map(Not), several.map(And), several.map(Or))


filters: st.SearchStrategy[Filter] = st.recursive(comparisons(), branches, max_leaves=8)


@given(filters)
@settings(max_examples=300, deadline=None)
def test_what_is_printed_parses_to_the_same(tree: Filter) -> None:
    assert parse(to_text(tree)) == tree


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_is_refused_clearly(text: str) -> None:
    try:
        tree = parse(text)
    except InvalidInput as error:
        assert error.message
    else:
        assert parse(to_text(tree)) == tree
