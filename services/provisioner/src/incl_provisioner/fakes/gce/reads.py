"""What can only be read: zones, regions with their quotas, machine types, accelerators, images, operations, advice."""

from __future__ import annotations

from dataclasses import dataclass

from incl_provisioner.fakes.gce.call import Call, Handler
from incl_provisioner.fakes.gce.capacity import Capacity
from incl_provisioner.fakes.gce.catalog import (
    ACCELERATORS,
    ATTACHED_TO_N1,
    IMAGES,
    MACHINE_TYPES,
    REGIONS,
    ZONES,
    offered,
)
from incl_provisioner.fakes.gce.listing import listed
from incl_provisioner.fakes.gce.model import State, last, stamp
from incl_provisioner.fakes.gce.operations import Operations
from incl_provisioner.fakes.gce.problems import JSON, invalid, not_found
from incl_provisioner.fakes.gce.specs import find_image

DAY = 86_400.0


@dataclass
class Advice:
    """What the provider says about Spot in one zone.

    Attributes:
        obtainability: 0 to 1.
        uptime: seconds that most VMs run before they are preempted.
        rates: of preemption, one a day, the oldest first.
        price: US dollars an hour.
    """

    obtainability: float = 0.9
    uptime: int = 21_600
    rates: tuple[float, ...] = (0.05,) * 7
    price: float = 1.0


class Reads:
    """The methods that change nothing."""

    def __init__(self, state: State, operations: Operations, capacity: Capacity) -> None:
        self._state, self._operations, self._capacity = state, operations, capacity
        self.down: set[str] = set()
        self.advice: dict[tuple[str, str], Advice] = {}
        """(zone, machine type or *) -> what is said of it."""

    def methods(self) -> dict[str, Handler]:
        """method -> what answers."""
        return {
            "zones.get": self.zone, "zones.list": self.zones, "regions.get": self.region, "regions.list": self.regions,
            "projects.get": self.project, "machineTypes.get": self.machine_type,
            "machineTypes.list": self.machine_types,
            "acceleratorTypes.get": self.accelerator, "acceleratorTypes.list": self.accelerators,
            "images.getFromFamily": self.image_of_family, "images.get": self.image,
            "advice.capacity": self.capacity, "advice.capacityHistory": self.history,
            **{f"{scope}Operations.{verb}": method for scope in ("zone", "region", "global")
               for verb, method in (("get", self.operation), ("wait", self.wait), ("list", self.operations))},
        }  # fmt: skip

    # -- operations --

    @staticmethod
    def _scope(call: Call) -> str:
        kind = call.method.partition("Operations")[0]
        return f"{kind}s/{call.place}" if call.place else "global"

    def operation(self, call: Call) -> JSON:
        """As it is now."""
        return self._operations.get(self._scope(call), call.name).body

    async def wait(self, call: Call) -> JSON:
        """Once it is DONE, or after two minutes."""
        return (await self._operations.wait(self._scope(call), call.name)).body

    def operations(self, call: Call) -> JSON:
        """Those of one scope."""
        return listed("operationList", self._operations.of(self._scope(call)), call.query)

    # -- places --

    def _zone(self, zone: str) -> JSON:
        return {
            "kind": "compute#zone", "name": zone, "id": str(2000 + list(ZONES).index(zone)), "description": zone,
            "region": self._state.at(f"regions/{ZONES[zone]}"), "selfLink": self._state.at(f"zones/{zone}"),
            "status": "DOWN" if zone in self.down else "UP", "availableCpuPlatforms": ["Intel Cascade Lake"],
        }  # fmt: skip

    def zone(self, call: Call) -> JSON:
        """One zone."""
        if call.name not in ZONES:
            raise not_found(f"projects/{self._state.project}/zones/{call.name}")
        return self._zone(call.name)

    def zones(self, call: Call) -> JSON:
        """All zones."""
        return listed("zoneList", [self._zone(zone) for zone in ZONES], call.query)

    def _quotas(self, region: str | None) -> list[JSON]:
        used = self._capacity.used(region)
        return [
            {"metric": metric, "limit": self._capacity.quota(metric, region), "usage": float(used[metric])}
            for metric in self._capacity.metrics(region)
        ]

    def _region(self, region: str) -> JSON:
        return {
            "kind": "compute#region", "name": region, "id": str(1000 + list(REGIONS).index(region)),
            "description": region,
            "status": "UP", "quotas": self._quotas(region), "selfLink": self._state.at(f"regions/{region}"),
            "zones": [self._state.at(f"zones/{region}-{letter}") for letter in REGIONS[region]],
        }  # fmt: skip

    def region(self, call: Call) -> JSON:
        """One region, with its quotas."""
        if call.name not in REGIONS:
            raise not_found(f"projects/{self._state.project}/regions/{call.name}")
        return self._region(call.name)

    def regions(self, call: Call) -> JSON:
        """All regions."""
        return listed("regionList", [self._region(region) for region in REGIONS], call.query)

    def project(self, call: Call) -> JSON:
        """The project, with the quotas that count everywhere."""
        return {
            "kind": "compute#project", "id": "100000000001", "name": self._state.project, "quotas": self._quotas(None),
            "defaultServiceAccount": "100000000001-compute@developer.gserviceaccount.com",
            "selfLink": self._state.url(f"projects/{self._state.project}"),
        }  # fmt: skip

    # -- machine types and accelerators --

    def _machine_type(self, name: str, zone: str) -> JSON:
        one = MACHINE_TYPES[name]
        body: JSON = {
            "kind": "compute#machineType", "id": str(800_000 + list(MACHINE_TYPES).index(name)), "name": name,
            "guestCpus": one.cpus, "memoryMb": one.memory_mb, "zone": zone, "maximumPersistentDisks": 128,
            "maximumPersistentDisksSizeGb": "263168", "isSharedCpu": False, "architecture": "X86_64",
            "selfLink": self._state.at(f"zones/{zone}/machineTypes/{name}"),
        }  # fmt: skip
        if one.gpus:
            body["accelerators"] = [{"guestAcceleratorType": one.gpu, "guestAcceleratorCount": one.gpus}]
        return body

    def machine_type(self, call: Call) -> JSON:
        """One machine type of a zone."""
        zone = self._state.zone(call.place)
        if not offered(call.name, zone):
            raise not_found(f"projects/{self._state.project}/zones/{zone}/machineTypes/{call.name}")
        return self._machine_type(call.name, zone)

    def machine_types(self, call: Call) -> JSON:
        """Those of a zone."""
        zone = self._state.zone(call.place)
        found = [self._machine_type(name, zone) for name in sorted(MACHINE_TYPES) if offered(name, zone)]
        return listed("machineTypeList", found, call.query)

    def _accelerators(self, zone: str) -> dict[str, JSON]:
        brought = {one.gpu for one in MACHINE_TYPES.values() if one.gpus and offered(one.name, zone)}
        return {
            name: {
                "kind": "compute#acceleratorType", "id": str(10_000 + index), "name": name, "description": description,
                "zone": self._state.at(f"zones/{zone}"), "maximumCardsPerInstance": most,
                "selfLink": self._state.at(f"zones/{zone}/acceleratorTypes/{name}"),
            }
            for index, (name, (description, most)) in enumerate(ACCELERATORS.items())
            if name in brought or name in ATTACHED_TO_N1
        }  # fmt: skip

    def accelerator(self, call: Call) -> JSON:
        """One accelerator of a zone."""
        found = self._accelerators(self._state.zone(call.place)).get(call.name)
        if found is None:
            raise not_found(f"projects/{self._state.project}/zones/{call.place}/acceleratorTypes/{call.name}")
        return found

    def accelerators(self, call: Call) -> JSON:
        """Those of a zone."""
        return listed(
            "acceleratorTypeList", list(self._accelerators(self._state.zone(call.place)).values()), call.query
        )

    # -- images --

    def _image(self, resource: str) -> JSON:
        project, name = resource.split("/")[1], last(resource)
        family = next(family for family, newest in IMAGES[project].items() if newest == name)
        number = sum(name.encode()) * 10**15 + 7
        return {
            "kind": "compute#image", "id": str(number), "name": name, "family": family, "status": "READY",
            "diskSizeGb": "10", "archiveSizeBytes": "1400000000", "architecture": "X86_64", "sourceType": "RAW",
            "selfLink": self._state.url(resource), "creationTimestamp": "2026-10-14T04:10:00.000-07:00",
        }  # fmt: skip

    def image_of_family(self, call: Call) -> JSON:
        """The newest image of a family."""
        return self._image(find_image(f"projects/{call.project}/global/images/family/{call.name}"))

    def image(self, call: Call) -> JSON:
        """One image."""
        return self._image(find_image(f"projects/{call.project}/global/images/{call.name}"))

    # -- advice --

    def _advice(self, zone: str, machine: str) -> Advice:
        return self.advice.get((zone, machine)) or self.advice.get((zone, "*")) or Advice()

    def capacity(self, call: Call) -> JSON:
        """Where so many VMs can be had, and for how long."""
        if call.place not in REGIONS:
            raise invalid("region", call.place, "Unknown region.")
        size = int(call.body.get("size", 1))
        flexible = (call.body.get("instanceFlexibilityPolicy") or {}).get("instanceSelections") or {}
        machines = [last(name) for one in flexible.values() for name in one.get("machineTypes", ())]
        if not machines:
            raise invalid("resource.instanceFlexibilityPolicy", "", "At least one machine type is needed.")
        model = ((call.body.get("instanceProperties") or {}).get("scheduling") or {}).get("provisioningModel", "SPOT")
        policy = call.body.get("distributionPolicy") or {}
        named = [last(one.get("zone")) for one in policy.get("zones") or []]
        zones = [f"{call.place}-{letter}" for letter in REGIONS[call.place]]
        pairs = [(z, m) for z in (named or zones) for m in machines if z in zones and offered(m, z)]
        if not pairs:
            raise invalid("resource.instanceFlexibilityPolicy", machines, f"Nothing of that exists in '{call.place}'.")

        def score(pair: tuple[str, str]) -> float:
            return self._advice(*pair).obtainability if self._capacity.free(*pair, model) >= size else 0.0

        best = max(pairs, key=score)
        said = self._advice(*best)
        shard = {
            "zone": self._state.at(f"zones/{best[0]}"),
            "machineType": best[1],
            "instanceCount": size,
            "provisioningModel": model,
        }
        scores = {"obtainability": score(best), "estimatedUptime": f"{said.uptime}s"}
        return {"recommendations": [{"scores": scores, "shards": [shard]}]}

    def history(self, call: Call) -> JSON:
        """How often Spot VMs were preempted, and what they cost."""
        properties = call.body.get("instanceProperties") or {}
        if (properties.get("scheduling") or {}).get("provisioningModel") != "SPOT":
            raise invalid("resource.instanceProperties.scheduling.provisioningModel", "", "It must be SPOT.")
        machine = last(properties.get("machineType"))
        where = last((call.body.get("locationPolicy") or {}).get("location")) or call.place
        zone = where if where in ZONES else f"{call.place}-{REGIONS.get(call.place, ('a',))[0]}"
        if ZONES.get(zone) != call.place:
            raise invalid("resource.locationPolicy.location", where, f"It is not in '{call.place}'.")
        said, kinds, now = self._advice(zone, machine), call.body.get("types") or [], self._state.clock()
        answer: JSON = {"machineType": machine, "location": where}
        if "PREEMPTION" in kinds:
            days = [now - DAY * (len(said.rates) - index) for index in range(len(said.rates))]
            answer["preemptionHistory"] = [
                {"interval": {"startTime": stamp(day), "endTime": stamp(day + DAY)}, "preemptionRate": rate}
                for day, rate in zip(days, said.rates, strict=True)
            ]
        if "PRICE" in kinds:
            price = {"currencyCode": "USD", "units": str(int(said.price)), "nanos": round(said.price % 1 * 1e9)}
            answer["priceHistory"] = [
                {"interval": {"startTime": stamp(now - 30 * DAY), "endTime": stamp(now)}, "listPrice": price}
            ]
        return answer
