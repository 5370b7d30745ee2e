"""Groups of experiments: what a filter lets through, counted by the values of up to three fields.

Reads the columns of lists (`docs/mechanisms/lists.md`): the experiments that pass, then one metric after the other.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from incl_shared.errors import InvalidInput
from incl_shared.filters import Field, Kind, Type, field_text, fields_of, parse, parse_field
from incl_shared.queries.tracker import Aggregate, ExperimentGroup, GroupExperiments, GroupPage
from incl_shared.states import ExperimentState
from incl_tracker import tables as t
from incl_tracker.domain.columns import Array, Tags, Texts
from incl_tracker.domain.grouping import (
    Groups,
    Labels,
    Mark,
    Members,
    NumberLabels,
    TagLabels,
    TextLabels,
    mark_of,
)
from incl_tracker.domain.ordering import param
from incl_tracker.domain.selecting import COLUMN, Key, both, encoded, keys_of, selected
from incl_tracker.store_columns import Block, Cache, Index
from incl_tracker.store_rows import Made, hot_rows
from incl_tracker.store_search import Deadline, check_metrics, time_limit

_PAGE_BYTES = 180_000
_ID, _STATUS, _CREATED = (COLUMN, "id"), (COLUMN, "status"), (COLUMN, "created")
_Last = tuple[int, list[Mark]]


def group(
    connection: sa.Connection,
    project: str,
    query: GroupExperiments,
    now: float,
    limit_s: float,
    cache: Cache | None = None,
) -> GroupPage:
    """A page of the groups of a project's experiments. cache: columns that were read before.

    Raises:
        InvalidInput: for a field, a metric, a filter or a cursor that means nothing here.
        UnavailableError: when it takes longer than limit_s seconds.
    """
    node, by = parse(query.filter), _fields(query.by)
    about = (project, query.trash, query.filter, [field_text(field) for field in by], sorted(query.metrics))
    mark = zlib.crc32(repr(about).encode("utf-8", "surrogatepass"))
    cursor = _read_cursor(query.cursor, mark, len(by)) if query.cursor else None
    moment, last = cursor or (now, None)
    deadline = Deadline(limit_s)
    metrics = [Field(Kind.METRIC, name) for name in dict.fromkeys(query.metrics)]
    with time_limit(connection, limit_s):
        _check(connection, project, [*fields_of(node), *by, *metrics])
        keys = {key for field in (*fields_of(node), *by, *metrics) for key in keys_of(field)}
        index, hot = Index(connection, project, cache or Cache()), hot_rows(connection, project, keys, query.trash)
        found = _Found()
        for rows in (*(() if hot is None else (hot,)), *map(index.rows, index.walk)):
            deadline.check()
            mask = rows.shown(query.trash)
            mask = mask if mask is False else both(mask, selected(node, rows, moment))
            if mask is not False:
                found.add(rows, np.arange(rows.count) if mask is True else np.flatnonzero(mask))
        return _page(found, by, query, (moment, mark, last), deadline)


class _Found:
    """The experiments that pass, numbered in the order in which they were found."""

    def __init__(self) -> None:
        self.steps: list[tuple[Block | Made, Array]] = []
        self.starts: list[int] = [0]

    def add(self, rows: Block | Made, places: Array) -> None:
        """Those of a block."""
        if len(places):
            self.steps.append((rows, places))
            self.starts.append(self.starts[-1] + len(places))

    def numbers(self, key: Key) -> Array:
        """A column of numbers of all of them."""
        result = np.full(self.starts[-1], np.nan)
        for (rows, places), start in zip(self.steps, self.starts, strict=False):
            found = rows.numbers(key)
            if found is not None:
                result[start : start + len(places)] = found.values[places]
        return result

    def texts(self, key: Key) -> Labels:
        """A column of texts."""
        found = TextLabels()
        for rows, places in self.steps:
            found.add(rows.texts(key), places)
        return found.done()

    def greatest_ids(self, groups: Array, rows: Array, count: int) -> list[str]:
        """The greatest id of the experiments of each group; they come in the order of groups."""
        best = [b""] * count
        steps = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.lexsort((steps, groups))
        groups, rows, steps = groups[order], rows[order], steps[order]
        cuts = np.flatnonzero((np.diff(groups) != 0) | (np.diff(steps) != 0)) + 1
        for some in np.split(np.arange(len(rows)), cuts):
            step, whose = int(steps[some[0]]), int(groups[some[0]])
            block, places = self.steps[step]
            ids = block.texts(_ID)
            assert ids is not None
            place = ids.greatest(places[rows[some] - self.starts[step]], 1)[0]
            best[whose] = max(best[whose], ids.at(int(place)))
        return [identifier.decode() for identifier in best]


def _labels(found: _Found, field: Field) -> tuple[Array | None, Labels]:
    """(the experiment of each membership, where that is not each experiment once; the values of the field)."""
    if field == Field(Kind.COLUMN, "tag"):
        tags = TagLabels()
        for rows, places in found.steps:
            some: Tags | None = rows.tags()
            tags.add(some, places)
        return tags.done()
    if field.kind is Kind.METRIC or field.type in (Type.NUMBER, Type.TIME):
        key = ("metric" if field.kind is Kind.METRIC else COLUMN, field.name)
        numbers = NumberLabels(days=field.type is Type.TIME)
        for rows, places in found.steps:
            values = rows.numbers(key)
            numbers.add(None if values is None else values.values, places)
        return None, numbers.done()
    if field.kind is Kind.COLUMN and field.name != "project":
        return None, found.texts((COLUMN, field.name))
    texts = TextLabels()
    for rows, places in found.steps:
        texts.add(_words(field, rows), places)
    return None, texts.done()


def _words(field: Field, rows: Block | Made) -> Texts | None:
    if field.kind is Kind.COLUMN:
        return Texts.of(range(rows.count), [encoded(rows.project)] * rows.count, rows.count)
    return param(field, rows)[1]


def _page(
    found: _Found,
    by: Sequence[Field],
    query: GroupExperiments,
    place: tuple[float, int, _Last | None],
    deadline: Deadline,
) -> GroupPage:
    moment, mark, last = place
    if not found.steps:
        return GroupPage(groups=())
    pairs = []
    for field in by:
        deadline.check()
        pairs.append(_labels(found, field))
    rows = next((of for of, _ in pairs if of is not None), None)
    labels = [each if rows is None or of is not None else Labels(each.codes[rows], each.names) for of, each in pairs]
    groups = Groups.by(labels)
    deadline.check()
    some = groups.first(labels, last, query.limit + 1)
    values = [[each.value(int(codes[one])) for codes, each in zip(groups.codes, labels, strict=True)] for one in some]
    shown = some[: query.limit]
    made = tuple(_made(found, Members.of(groups, shown, rows), groups.counts[shown], values, query, deadline))
    if len(made) == len(some):
        return GroupPage(groups=made)
    marks = [mark_of(value) for value in values[len(made) - 1]]
    return GroupPage(groups=made, cursor=_write_cursor(moment, mark, made[-1].experiments, marks))


def _made(
    found: _Found,
    members: Members,
    counts: Array,
    values: Sequence[Sequence[bytes | None]],
    query: GroupExperiments,
    deadline: Deadline,
) -> Iterator[ExperimentGroup]:
    """As many groups as a page has room for."""
    states = members.tally(found.texts(_STATUS))
    newest = found.greatest_ids(*members.greatest(found.numbers(_CREATED)), members.count)
    summed = {}
    for name in dict.fromkeys(query.metrics):
        deadline.check()
        summed[name] = members.summed(found.numbers(("metric", name)))
    size = 0
    for number, count in enumerate(counts.tolist()):
        metrics = {name: some[number] for name, some in summed.items()}
        one = ExperimentGroup(
            values=tuple(None if v is None else v.decode("utf-8", "replace") for v in values[number]),
            experiments=count,
            states={ExperimentState(state.decode()): many for state, many in states[number].items()},
            newest=newest[number],
            metrics={
                name: Aggregate(count=s.count, mean=s.mean, minimum=s.minimum, maximum=s.maximum, deviation=s.deviation)
                for name, s in metrics.items()
                if s is not None
            },
        )
        size += len(one.model_dump_json().encode()) + 1
        if number and size > _PAGE_BYTES:
            return
        yield one


def _fields(by: Sequence[str]) -> list[Field]:
    """The fields to group by.

    Raises:
        InvalidInput: one is none, or cannot be grouped by.
    """
    found: list[Field] = []
    for text in by:
        field = parse_field(text)
        if field in found:
            raise InvalidInput(f"{text[:80]!r} stands twice among the fields to group by", hint="name each once")
        if field == Field(Kind.COLUMN, "id"):
            raise InvalidInput("each experiment has an id of its own", hint="`incl ls` lists experiments")
        if field.type is Type.DURATION:
            hint = "filter by it: duration > 1h; or group by the day: started"
            raise InvalidInput("experiments are not grouped by how long they took", hint=hint)
        found.append(field)
    return found


def _check(connection: sa.Connection, project: str, fields: Sequence[Field]) -> None:
    """That the project has the metrics among these fields.

    Raises:
        InvalidInput: with the nearest names, or the parameter that was meant.
    """
    try:
        check_metrics(connection, project, fields)
    except InvalidInput as error:
        for field in fields:
            known = repr(field.name) in error.message and field.kind is Kind.METRIC
            if known and _is_param(connection, project, field.name):
                meant = field_text(Field(Kind.PARAM, field.name))
                raise InvalidInput(error.message, cause=error.cause, hint=f"did you mean {meant}?") from None
        raise


def _is_param(connection: sa.Connection, project: str, name: str) -> bool:
    c, h, p = t.column_data.c, t.hot.c, t.params.c
    packed = sa.select(c.block).where(c.project == project, c.kind.in_(("config", "env")), c.name == name)
    hot = sa.select(h.experiment).where(h.project == project, p.experiment == h.experiment, p.name == name)
    return any(connection.execute(query.limit(1)).first() is not None for query in (packed, hot))


def _write_cursor(moment: float, mark: int, count: int, marks: Sequence[Mark]) -> str:
    coded = [None if one is None else [base64.b64encode(part).decode() for part in one] for one in marks]
    content = {"now": moment, "of": mark, "count": count, "values": coded}
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, mark: int, count: int) -> tuple[float, _Last]:
    bad = InvalidInput("the cursor is not one of these groups", hint="ask for the first page again, without a cursor")
    try:
        content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        marks: list[Mark] = []
        for one in content["values"]:
            text, digest = (None, None) if one is None else map(base64.b64decode, one)
            marks.append(None if text is None or digest is None else (text, digest))
        if content["of"] == mark and len(marks) == count:
            return float(content["now"]), (int(content["count"]), marks)
    except (ValueError, KeyError, TypeError):
        raise bad from None
    raise bad
