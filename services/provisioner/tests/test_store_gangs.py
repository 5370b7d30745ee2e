"""Gangs in the database: saved only over what was read, the same text for the same gang, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from incl_provisioner import store_data, store_gangs
from incl_provisioner.app import PACKAGE
from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.gangs import Gang, Phase, Where, decide, view_of
from incl_provisioner.domain.cloud.gangs import Limits as GangLimits
from incl_provisioner.store_gangs import Enrolled
from incl_provisioner.tables import data_disks, gangs
from incl_shared.db import make_engine, migrate
from incl_shared.ids import new_id

VERDICT = Verdict(Meaning.NEXT_ZONE, Scope.ZONE, 300.0, "stockout", "none is free", "other zones", "said 'é'")


@pytest.fixture
def connection(database_url: str) -> Iterator[sa.Connection]:
    """A transaction on a migrated database."""
    migrate(database_url, PACKAGE)
    engine = make_engine(database_url, write=True, size=1)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def asked(gang: Gang) -> Gang:
    where = Where("us-central1", ("us-central1-b", "us-central1-a"), "n2-standard-4", spot=True)
    return decide(gang, view_of(0.0, [], []), where, 10.0, GangLimits())[0]


def test_a_gang_is_read_as_it_was_written(connection: sa.Connection) -> None:
    gang = Gang(new_id(), 1, 3)
    store_gangs.want(connection, gang, 5.0)
    after = replace(asked(gang), tried=frozenset({"z-b", "z-a", "z-c"}), verdict=VERDICT, operation="op", zone="z-a")
    assert store_gangs.save(connection, gang, after, 11.0)
    row = store_gangs.load(connection, gang.experiment, 1)
    assert row is not None
    assert (row.gang, row.live, row.created, row.asked, row.made) == (after, True, 5.0, 11.0, None)
    assert store_gangs.live(connection) == {gang.key: row}


def test_it_is_saved_only_over_what_was_read(connection: sa.Connection) -> None:
    gang = Gang(new_id(), 1, 1)
    store_gangs.want(connection, gang, 5.0)
    store_gangs.want(connection, replace(gang, nodes=7), 6.0)
    after = asked(gang)
    assert store_gangs.save(connection, gang, after, 11.0)
    assert not store_gangs.save(connection, gang, replace(after, turn=9), 12.0)
    assert store_gangs.unwant_one(connection, gang.experiment, 1)
    assert not store_gangs.unwant_one(connection, gang.experiment, 1)
    assert not store_gangs.save(connection, after, replace(after, operation="op"), 12.0)
    told = replace(after, wanted=False)
    assert store_gangs.save(connection, told, replace(told, phase=Phase.GONE), 13.0)
    row = store_gangs.load(connection, gang.experiment, 1)
    assert row is not None
    assert (row.live, row.ended, row.gang.phase, row.gang.turn) == (False, 13.0, Phase.GONE, 1)
    assert store_gangs.live(connection) == {}


def test_what_a_release_wrote_that_knew_less_of_a_gang_is_replaced_too(connection: sa.Connection) -> None:
    gang = Gang(new_id(), 1, 2)
    store_gangs.want(connection, gang, 10.0)
    said = json.loads(store_gangs.dump(gang))
    del said["disks"]
    connection.execute(sa.update(gangs).values(state=json.dumps(said)))
    row = store_gangs.load(connection, *gang.key)
    assert row is not None
    assert not store_gangs.save(connection, asked(row.gang), row.gang, 11.0), "it is another one"
    assert store_gangs.save(connection, row.gang, asked(row.gang), 11.0)
    assert store_gangs.live(connection)[gang.key].gang == asked(gang)


def test_what_a_release_wrote_that_knew_less_of_a_disk_is_replaced_too(connection: sa.Connection) -> None:
    disk = store_data.want(connection, "p", "ct", "z-a", "pd-balanced", 10.0)
    said = json.loads(store_data.dump(disk))
    del said["used"]
    connection.execute(sa.update(data_disks).values(state=json.dumps(said)))
    read = store_data.load(connection, disk.name)
    assert read is not None
    later = replace(read, used=20.0)
    assert not store_data.save(connection, later, read, 11.0), "it is another one"
    assert store_data.save(connection, read, later, 11.0)
    assert store_data.load(connection, disk.name) == later


def test_only_attempts_that_did_not_begin_are_unwanted(connection: sa.Connection) -> None:
    experiment = new_id()
    for attempt in (1, 2):
        store_gangs.want(connection, Gang(experiment, attempt, 1), 5.0)
    assert store_gangs.unwant(connection, experiment, 1)
    wanted = {key[1]: row.gang.wanted for key, row in store_gangs.live(connection).items()}
    assert wanted == {1: True, 2: False}
    assert store_gangs.unwant(connection, experiment, 0)
    assert not store_gangs.unwant(connection, experiment, 0)


def test_what_was_taken_counts_for_its_experiment_and_zone(connection: sa.Connection) -> None:
    gang = Gang(new_id(), 1, 1)
    store_gangs.want(connection, gang, 5.0)
    first = asked(gang)
    made = replace(first, phase=Phase.MADE, zone="us-central1-a")
    assert store_gangs.save(connection, gang, first, 10.0)
    assert store_gangs.save(connection, first, made, 20.0)
    assert store_gangs.spot_lives(connection, 0.0) == [("us-central1-a", "n2-standard-4", 20.0, None, False)]
    assert store_gangs.note_preempted(connection, gang.experiment, 1, 90.0)
    assert not store_gangs.note_preempted(connection, gang.experiment, 1, 95.0)
    assert store_gangs.preemptions(connection, [gang.experiment, new_id()]) == {gang.experiment: [90.0]}
    assert store_gangs.spot_lives(connection, 0.0) == [("us-central1-a", "n2-standard-4", 20.0, 90.0, True)]
    assert store_gangs.spot_lives(connection, 21.0) == []


def test_an_enrolment_is_of_one_try(connection: sa.Connection) -> None:
    experiment = new_id()
    store_gangs.put_enrolled(connection, experiment, 1, 0, Enrolled(1, "UA", 5.0))
    store_gangs.put_enrolled(connection, experiment, 1, 1, Enrolled(1, "UB", 6.0))
    store_gangs.put_enrolled(connection, experiment, 1, 0, Enrolled(2, "UC", 7.0))
    assert store_gangs.enrolled(connection, experiment, 1) == {0: Enrolled(2, "UC", 7.0), 1: Enrolled(1, "UB", 6.0)}
