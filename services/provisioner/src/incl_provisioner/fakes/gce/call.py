"""One call of the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from incl_provisioner.fakes.gce.operations import Operation
from incl_provisioner.fakes.gce.problems import JSON


@dataclass(frozen=True)
class Call:
    """What was asked.

    Attributes:
        method: such as instances.insert.
        place: the zone or the region; "" where it is global.
        name: the resource in the path, or "".
    """

    method: str
    project: str
    place: str = ""
    name: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: JSON = field(default_factory=dict)

    @property
    def resource(self) -> str:
        """What it is about, for messages."""
        kind = self.method.partition(".")[0]
        name = self.name or str(self.body.get("name", ""))
        where = f"zones/{self.place}/" if self.place.count("-") == 2 else f"regions/{self.place}/" if self.place else ""
        return f"projects/{self.project}/{where}{kind}/{name}".rstrip("/")


Handler = Callable[[Call], JSON | Operation | Awaitable[JSON | Operation]]
