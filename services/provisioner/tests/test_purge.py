"""A purged experiment: nothing is kept of it, and its id is not taken for a new one's."""

from __future__ import annotations

import sqlalchemy as sa

from incl_provisioner import tables as t
from incl_provisioner.testing.platform import Platform
from incl_shared.events.experiments import ExperimentPurged
from incl_shared.testing.wait import until


async def test_what_was_asked_for_is_forgotten(platform: Platform) -> None:
    await platform.agent()
    experiment = await platform.submit(env={"TOKEN": "hidden"}, name="secret-plan")
    await platform.finished(experiment)
    await platform.client.publish_event(ExperimentPurged(experiment=experiment), project="default", version=1)

    async def forgotten() -> bool:
        query = sa.select(t.experiments.c.request, t.experiments.c.name).where(t.experiments.c.id == experiment)
        ranks = sa.select(sa.func.count()).where(t.ranks.c.experiment == experiment)
        return await platform.app.database.read(
            lambda connection: (
                tuple(connection.execute(query).one()) == ("", "") and connection.execute(ranks).scalar() == 0
            )
        )

    await until(forgotten)
    count = len(platform.of(experiment))
    await platform.submit(experiment=experiment, env={"TOKEN": "hidden"}, name="secret-plan")
    another = await platform.submit()
    await platform.finished(another)
    assert len(platform.of(experiment)) == count
