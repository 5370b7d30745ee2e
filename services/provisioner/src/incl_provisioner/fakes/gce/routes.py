"""Which method of the API a request means."""

from __future__ import annotations

import re
from functools import cache

_TABLE = """
GET    projects                                              projects.get
GET    zones                                                 zones.list
GET    zones/{name}                                          zones.get
GET    regions                                               regions.list
GET    regions/{name}                                        regions.get
GET    zones/{place}/machineTypes                            machineTypes.list
GET    zones/{place}/machineTypes/{name}                     machineTypes.get
GET    zones/{place}/acceleratorTypes                        acceleratorTypes.list
GET    zones/{place}/acceleratorTypes/{name}                 acceleratorTypes.get
GET    global/images/family/{name}                           images.getFromFamily
GET    global/images/{name}                                  images.get
POST   regions/{place}/advice/capacity                       advice.capacity
POST   regions/{place}/advice/capacityHistory                advice.capacityHistory
GET    zones/{place}/operations                              zoneOperations.list
GET    zones/{place}/operations/{name}                       zoneOperations.get
POST   zones/{place}/operations/{name}/wait                  zoneOperations.wait
GET    regions/{place}/operations                            regionOperations.list
GET    regions/{place}/operations/{name}                     regionOperations.get
POST   regions/{place}/operations/{name}/wait                regionOperations.wait
GET    global/operations                                     globalOperations.list
GET    global/operations/{name}                              globalOperations.get
POST   global/operations/{name}/wait                         globalOperations.wait
GET    aggregated/instances                                  instances.aggregatedList
GET    zones/{place}/instances                               instances.list
POST   zones/{place}/instances                               instances.insert
POST   zones/{place}/instances/bulkInsert                    instances.bulkInsert
POST   regions/{place}/instances/bulkInsert                  regionInstances.bulkInsert
GET    zones/{place}/instances/{name}                        instances.get
DELETE zones/{place}/instances/{name}                        instances.delete
POST   zones/{place}/instances/{name}/stop                   instances.stop
POST   zones/{place}/instances/{name}/start                  instances.start
POST   zones/{place}/instances/{name}/setLabels              instances.setLabels
POST   zones/{place}/instances/{name}/setMetadata            instances.setMetadata
GET    zones/{place}/instances/{name}/serialPort             instances.getSerialPortOutput
GET    zones/{place}/instances/{name}/getGuestAttributes     instances.getGuestAttributes
POST   zones/{place}/instances/{name}/simulateMaintenanceEvent instances.simulateMaintenanceEvent
GET    aggregated/disks                                        disks.aggregatedList
GET    zones/{place}/disks                                   disks.list
POST   zones/{place}/disks                                   disks.insert
GET    zones/{place}/disks/{name}                            disks.get
DELETE zones/{place}/disks/{name}                            disks.delete
POST   zones/{place}/disks/{name}/setLabels                  disks.setLabels
POST   zones/{place}/disks/{name}/createSnapshot             disks.createSnapshot
GET    global/snapshots                                      snapshots.list
GET    global/snapshots/{name}                               snapshots.get
"""
_PATH = re.compile(r"/compute/v1/projects/(?P<project>[^/]+)(?:/(?P<rest>.+))?")


@cache
def _routes() -> list[tuple[str, re.Pattern[str], str]]:
    rows = [line.split() for line in _TABLE.strip().splitlines()]
    return [(verb, re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)), method) for verb, path, method in rows]


def methods() -> list[str]:
    """Every method that is known."""
    return [method for _, _, method in _routes()]


def find(verb: str, path: str) -> tuple[str, str, str, str] | None:
    """(method, project, place, name), or None where the path means nothing."""
    parts = _PATH.fullmatch(path)
    if parts is None:
        return None
    rest = parts["rest"] or "projects"
    for wanted, pattern, method in _routes():
        found = pattern.fullmatch(rest) if wanted == verb else None
        if found is not None:
            named = found.groupdict()
            return method, parts["project"], named.get("place", ""), named.get("name", "")
    return None
