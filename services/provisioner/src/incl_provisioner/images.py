"""One image for all nodes and attempts of an experiment: the digest that the first node found for its tag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from incl_provisioner import store
from incl_provisioner.store import RankRow
from incl_shared.control import JobSpec
from incl_shared.events.experiments import RankTimes


def pinned(connection: sa.Connection, specs: Mapping[str, JobSpec], attempts: Mapping[str, int]) -> dict[str, JobSpec]:
    """The specs, each with the digest that an earlier attempt than `attempts` says ran first.

    Args:
        specs: by experiment.
        attempts: the number of the attempt that they are for.
    """
    found = dict(specs)
    for key, spec in specs.items():
        if "@" not in (spec.image or "@"):
            found[key] = spec.model_copy(update={"image_digest": _first(connection, key, attempts[key])})
    return found


def _first(connection: sa.Connection, experiment: str, before: int) -> str | None:
    for attempt in range(1, before):
        for row in store.load_ranks(connection, experiment, attempt):
            if said := image_of(row):
                return said
    return None


def image_of(row: RankRow) -> str | None:
    """The digest that a rank said it runs."""
    return RankTimes.model_validate_json(row.times).image


def strays(rows: Iterable[RankRow]) -> tuple[str, list[RankRow]]:
    """(the digest that the lowest rank found, the ranks that found another one): the tag moved while they pulled it."""
    first, others = "", []
    for row in rows:
        said = image_of(row) or ""
        first = first or said
        if said and said != first:
            others.append(row)
    return first, others
