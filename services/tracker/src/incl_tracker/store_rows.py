"""Columns made of the rows of some experiments: for lists, of those that are hot; for packing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from incl_tracker.domain.columns import Column, Numbers, Tags, Texts
from incl_tracker.domain.selecting import COLUMN, NUMBER_OF, Key, encoded
from incl_tracker.statements import spelled
from incl_tracker.store_columns import GONE, IN_TRASH, per_hot

NUMBERS = ("nodes", "gpus", "attempts", "created", "started", "ended", "trial")
TEXTS = ("id", "name", "user", "state", "reason", "sweep")
_FIELDS = ", ".join(f'e."{name}"' for name in (*TEXTS, *NUMBERS))
_COLUMN_OF = {"state": "status"}
_SOME = 500
_HOT = per_hot(
    _FIELDS, "experiments", "e.id = hot.experiment AND e.project = hot.project AND e.known AND e.trashed IS {}"
)
_HOT_NAMED = {
    "metric": per_hot(
        "e.experiment, '', e.metric, '', e.last", "metrics", "e.experiment = hot.experiment AND e.metric IN ({})"
    ),
    "param": per_hot(
        "e.experiment, e.kind, e.name, e.text, e.number",
        "params",
        "e.experiment = hot.experiment AND e.kind IN ('config', 'env') AND e.name IN ({})",
    ),
    "tag": per_hot("e.experiment, '', '', e.tag, NULL", "tags", "e.experiment = hot.experiment"),
}
_EVERY = f"SELECT {_FIELDS}, e.project, e.known, e.trashed FROM experiments e WHERE e.id IN ({{}})"  # noqa: S608
_EVERY_NAMED = {
    "metric": "SELECT experiment, '', metric, '', last FROM metrics WHERE experiment IN ({})",
    "param": "SELECT experiment, kind, name, text, number FROM params WHERE experiment IN ({})",
    "tag": "SELECT experiment, '', '', tag, NULL FROM tags WHERE experiment IN ({})",
}


@dataclass(slots=True)
class Values:
    """What some experiments have of a property, by their places among them."""

    places: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, place: int, value: Any) -> None:
        """The next one."""
        self.places.append(place)
        self.values.append(value)


Found = dict[Key, Values]


@dataclass(slots=True)
class Made:
    """Experiments as a block (`selecting.Rows`); all of them are in the list."""

    project: str
    count: int
    columns: dict[Key, Column]

    def numbers(self, key: Key) -> Numbers | None:
        """A column of numbers."""
        column = self.columns.get(key)
        return column if isinstance(column, Numbers) else None

    def texts(self, key: Key) -> Texts | None:
        """A column of texts."""
        column = self.columns.get(key)
        return column if isinstance(column, Texts) else None

    def tags(self) -> Tags | None:
        """The tags."""
        column = self.columns.get((COLUMN, "tag"))
        return column if isinstance(column, Tags) else None

    def bounds(self, key: Key) -> tuple[float, float] | None:
        """Between which the numbers of a column lie."""
        numbers = self.numbers(key)
        low, high = numbers.bounds() if numbers is not None else (None, None)
        return None if low is None or high is None else (low, high)

    def shown(self, trash: bool) -> bool:
        """They were chosen so."""
        return True


def hot_rows(connection: sa.Connection, project: str, keys: Collection[Key], trash: bool) -> Made | None:
    """The hot experiments of a project that are in its list (or its trash), with these columns."""
    rows = _read(connection, _HOT[connection.dialect.paramstyle].format("NOT NULL" if trash else "NULL"), (project,))
    if not rows:
        return None
    found: Found = {}
    place_of = _own(found, rows)
    for what, names in _names(keys).items():
        if not names and what != "tag":
            continue
        query = _HOT_NAMED[what][connection.dialect.paramstyle].format(", ".join("?" * len(names)))
        _named(found, what, place_of, _read(connection, query, (project, *sorted(names))))
    count = len(rows)
    return Made(project, count, {key: column_of(key, values, count) for key, values in _encoded(found).items()})


def _names(keys: Collection[Key]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for kind, name in keys:
        if kind == "metric":
            wanted.setdefault("metric", set()).add(name)
        elif kind != COLUMN:
            wanted.setdefault("param", set()).add(name)
        elif name == "tag":
            wanted.setdefault("tag", set())
    return wanted


@dataclass(slots=True)
class Gathered:
    """All that lists need of some experiments. gone: those that are in no list of the project any more."""

    count: int
    found: Found
    gone: set[str]


def gathered(connection: sa.Connection, project: str, experiments: Sequence[str]) -> Gathered:
    """The rows of experiments of a project; their places are those in `experiments`."""
    place_of = {experiment: place for place, experiment in enumerate(experiments)}
    found: Found = {}
    gone = set(experiments)
    for query, ids in _pieces(_EVERY, experiments):
        rows = [row for row in _read(connection, query, ids) if row[-3] == project and row[-2]]
        gone -= {row[0] for row in rows}
        _own(found, rows, place_of)
        hidden = found.setdefault((COLUMN, "hidden"), Values())
        for row in rows:
            hidden.add(place_of[row[0]], None if row[-1] is None else IN_TRASH)
    for experiment in gone:
        found.setdefault((COLUMN, "hidden"), Values()).add(place_of[experiment], GONE)
    there = [experiment for experiment in experiments if experiment not in gone]
    for what, text in _EVERY_NAMED.items():
        for query, ids in _pieces(text, there):
            _named(found, what, place_of, _read(connection, query, ids))
    return Gathered(len(experiments), _encoded(found), gone)


def column_of(key: Key, values: Values, count: int) -> Column:
    """The column of what was found."""
    if key == (COLUMN, "tag"):
        tags: list[Sequence[bytes]] = [()] * count
        for place, some in zip(values.places, values.values, strict=True):
            tags[place] = some
        return Tags.of(tags)
    if is_text(key):
        some = [(place, text) for place, text in zip(values.places, values.values, strict=True) if text is not None]
        return Texts.of([place for place, _ in some], [text for _, text in some], count)
    return Numbers.of(values.places, values.values, count)


def is_text(key: Key) -> bool:
    """Whether a column is one of texts."""
    kind, name = key
    if kind == COLUMN:
        return name in ("id", "name", "user", "status", "reason", "sweep")
    return kind in NUMBER_OF


def _own(found: Found, rows: Sequence[Any], place_of: dict[str, int] | None = None) -> dict[str, int]:
    """Add what the experiments' own rows say. Returns the place of each."""
    if place_of is None:
        place_of = {row[0]: place for place, row in enumerate(rows)}
    places = [place_of[row[0]] for row in rows]
    for column, name in enumerate((*TEXTS, *NUMBERS)):
        values = found.setdefault((COLUMN, _COLUMN_OF.get(name, name)), Values())
        values.places += places
        if column < len(TEXTS):
            values.values += [None if row[column] is None else encoded(row[column]) for row in rows]
        else:
            values.values += [row[column] for row in rows]
    return place_of


def _named(found: Found, what: str, place_of: dict[str, int], rows: Iterable[Any]) -> None:
    """Add what a table with a row for each name says. Packing spends its time here: hence the bound methods."""
    if what == "tag":
        _tagged(found, place_of, rows)
        return
    adders: dict[str, dict[str, tuple[Callable[[Any], None], ...]]] = {"": {}, "config": {}, "env": {}}
    for experiment, kind, name, text, number in rows:
        place = place_of.get(experiment)
        if place is None:
            continue
        try:
            adds = adders[kind][name]
        except KeyError:
            adds = adders.setdefault(kind, {})[name] = _adders(found, kind, name)
        adds[0](place)
        adds[1](number)
        if kind:
            adds[2](text)


def _adders(found: Found, kind: str, name: str) -> tuple[Callable[[Any], None], ...]:
    """What appends places, numbers and texts. A parameter's numbers and texts are in the same places."""
    if not kind:
        numbers = found.setdefault(("metric", name), Values())
        return numbers.places.append, numbers.values.append
    numbers = found.setdefault((NUMBER_OF[kind], name), Values())
    texts = found.setdefault((kind, name), Values(numbers.places))
    return numbers.places.append, numbers.values.append, texts.values.append


def _tagged(found: Found, place_of: dict[str, int], rows: Iterable[Any]) -> None:
    tags: dict[int, list[bytes]] = {}
    for experiment, _, _, text, _ in rows:
        if experiment in place_of:
            tags.setdefault(place_of[experiment], []).append(encoded(text))
    for place, some in tags.items():
        found.setdefault((COLUMN, "tag"), Values()).add(place, some)


def _encoded(found: Found) -> Found:
    """Parameters' texts as bytes; each of them once."""
    for (kind, _), values in found.items():
        if kind in NUMBER_OF:
            known = {text: encoded(text) for text in set(values.values)}
            values.values = [known[text] for text in values.values]
    return found


def _pieces(text: str, experiments: Sequence[str]) -> Iterable[tuple[str, tuple[str, ...]]]:
    for begin in range(0, len(experiments), _SOME):
        ids = tuple(experiments[begin : begin + _SOME])
        yield text.format(", ".join("?" * len(ids))), ids


def _read(connection: sa.Connection, text: str, values: tuple[Any, ...]) -> Sequence[Any]:
    result = connection.exec_driver_sql(spelled(text, connection.dialect.paramstyle), values)
    assert result.cursor is not None
    rows: Sequence[Any] = result.cursor.fetchall()
    result.close()
    return rows
