"""What must hold when all is over."""

from __future__ import annotations

import json
from collections import defaultdict

from incl_shared.states import FINAL_STATES
from simulation.machine import Ran
from simulation.world import World


def violations(world: World) -> list[str]:
    """In words; empty when all is well."""
    found: list[str] = []
    rows = {row["id"]: row for row in world.rows("SELECT * FROM experiments")}
    for asked in world.plan.experiments:
        row = rows.get(asked.experiment)
        if asked.experiment not in world.known:
            found.append(f"{asked.experiment} could not be submitted")
        elif row is None:
            found.append(f"{asked.experiment} is lost")
        elif row["state"] not in FINAL_STATES:
            found.append(f"{asked.experiment} is {row['state']} (attempt {row['attempt']} {row['attempt_state']})")
        else:
            found += _right_end(world, asked.experiment, row)
    found += [f"{row['id']} was never submitted" for row in rows.values() if row["id"] not in world.known]
    found += _events(world)
    found += _processes(world)
    found += _left(world)
    return found


def _right_end(world: World, experiment: str, row: object) -> list[str]:
    values = dict(row)  # type: ignore[call-overload]
    state, attempt = values["state"], values["attempt"]
    asked = next(each for each in world.plan.experiments if each.experiment == experiment)
    last = [ran for ran in world.ran if ran.key[:2] == (experiment, attempt)]
    found = []
    if state == "finished" and sorted(((ran.key[2], ran.code) for ran in last), key=str) != [
        (rank, 0) for rank in range(asked.spec["nodes"])
    ]:
        found.append(f"{experiment} is finished, but its last attempt ran {last}")
    if state == "stopped" and experiment not in world.stopped:
        found.append(f"{experiment} is stopped, and nobody asked for it")
    if attempt > asked.spec["retry"]["attempts"]:
        found.append(f"{experiment} had {attempt} attempts, {asked.spec['retry']['attempts']} were allowed")
    if state == "failed" and values["reason"] in ("completed", "stopped"):
        found.append(f"{experiment} failed with {values['reason']}")
    return found


def _events(world: World) -> list[str]:
    """Every event once, without a hole, in its order."""
    found: list[str] = []
    seen: defaultdict[str, dict[int, str]] = defaultdict(dict)
    finished: defaultdict[str, set[str]] = defaultdict(set)
    for stream, message in world.server.jetstream.stored:
        if stream != "EVENTS" or ".experiment." not in message.subject:
            continue
        experiment, headers = message.subject.rpartition(".")[2], message.headers
        version, name = int(headers["ce-inclversion"]), headers["ce-id"]
        if seen[experiment].setdefault(version, name) != name:
            found.append(f"{experiment} has two events of version {version}")
        if not world.restored and seen[experiment] and version > max(seen[experiment]):
            found.append(f"{experiment}: version {version} came out of its order")
        if headers["ce-type"].startswith("ExperimentFinished"):
            finished[experiment].add(name)
    for experiment in world.known:
        versions = sorted(seen[experiment])
        if versions != list(range(1, len(versions) + 1)):
            found.append(f"{experiment} has events {versions}")
        if len(finished[experiment]) != 1:
            found.append(f"{experiment} was said to be finished {len(finished[experiment])} times")
    return found


def _processes(world: World) -> list[str]:
    found: list[str] = []
    by: defaultdict[str, list[Ran]] = defaultdict(list)
    for ran in world.ran:
        by[ran.key[0]].append(ran)
        if ran.ended is None:
            found.append(f"{ran.job} still runs on {ran.node}")
    for runs in by.values():
        for index, one in enumerate(runs):
            for other in runs[index + 1 :]:
                if one.key == other.key:
                    found.append(f"{one.job} ran twice: {one}, {other}")
                elif one.key[1] != other.key[1] and _overlap(one, other):
                    found.append(f"two attempts at once: {one}, {other}")
    return found


def _overlap(one: Ran, other: Ran) -> bool:
    first, second = sorted((one, other), key=lambda ran: ran.began)
    return first.ended is None or first.ended > second.began


def _left(world: World) -> list[str]:
    found = [f"an event waits in the outbox: {row['subject']}" for row in world.rows("SELECT subject FROM outbox")]
    found += [f"a rank holds its room: {tuple(row)}" for row in world.rows("SELECT * FROM ranks WHERE live = 1")]
    found += [f"a timer is armed: {tuple(row)}" for row in world.rows("SELECT * FROM timers")]
    for machine in world.machines:
        jobs = sorted(path.name for path in (machine.folder / "jobs").glob("*"))
        if jobs:
            found.append(f"folders are left on {machine.name}: {jobs}")
    for stream, message in world.server.jetstream.stored:
        if stream == "DEAD" and not message.headers.get("Incl-Dead-Id", "").startswith("poison-"):
            found.append(f"a dead letter: {json.dumps(dict(message.headers))}")
    for machine in world.machines:
        if machine.agent is None or machine.agent.manager is None:
            found.append(f"the agent of {machine.name} is not there")
    found += [f"broke: {error}" for error in world.loop.errors]
    for task in world.tasks:
        if task.done() and not task.cancelled() and task.exception() is not None:
            found.append(f"broke: {task.exception()!r}")
    return found
