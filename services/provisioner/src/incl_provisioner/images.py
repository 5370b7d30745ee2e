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
    again = [
        key for key, spec in specs.items() if attempts[key] > 1 and spec.image is not None and "@" not in spec.image
    ]
    found = dict(specs)
    for key, rows in store.ranks_of(connection, again).items():
        digest = next((said for row in rows if row.attempt < attempts[key] and (said := image_of(row))), None)
        found[key] = specs[key].model_copy(update={"image_digest": digest})
    return found


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
