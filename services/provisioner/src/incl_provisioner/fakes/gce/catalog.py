"""What the provider offers: regions, zones, machine types, accelerators, images, quotas of a new project."""

from __future__ import annotations

from dataclasses import dataclass

from incl_provisioner.catalog import packaged_machines
from incl_provisioner.domain.cloud.machines import Machine

REGIONS: dict[str, tuple[str, ...]] = {
    "us-central1": ("a", "b", "c", "f"),
    "us-east1": ("b", "c", "d"),
    "us-west1": ("a", "b", "c"),
    "europe-west4": ("a", "b", "c"),
    "asia-southeast1": ("a", "b", "c"),
}
ZONES: dict[str, str] = {f"{region}-{letter}": region for region, letters in REGIONS.items() for letter in letters}
"""zone -> region."""


@dataclass(frozen=True)
class MachineType:
    """A machine type; `gpu` is what it brings by itself."""

    name: str
    cpus: int
    memory_mb: int
    gpu: str = ""
    gpus: int = 0
    hyperdisk: bool = False

    @property
    def family(self) -> str:
        """n1, a2, …"""
        return self.name.split("-", 1)[0]


def _types() -> dict[str, MachineType]:
    made = [_of_table(machine) for machine in packaged_machines("gce").machines.values() if machine.gpu is None]
    made += [MachineType("e2-micro", 2, 1024), MachineType("e2-small", 2, 2048), MachineType("e2-medium", 2, 4096)]
    made += [MachineType(f"a2-highgpu-{n}g", 12 * n, 87040 * n, "nvidia-tesla-a100", n) for n in (1, 2, 4, 8)]
    made += [MachineType(f"a2-ultragpu-{n}g", 12 * n, 174080 * n, "nvidia-a100-80gb", n) for n in (1, 2, 4, 8)]
    made += [MachineType(f"a3-highgpu-{n}g", 26 * n, 239616 * n, "nvidia-h100-80gb", n) for n in (1, 2, 4, 8)]
    made += [MachineType("a3-megagpu-8g", 208, 1916928, "nvidia-h100-mega-80gb", 8)]
    made += [MachineType("a3-ultragpu-8g", 224, 3022848, "nvidia-h200-141gb", 8, hyperdisk=True)]
    made += [MachineType("a4-highgpu-8g", 224, 4063232, "nvidia-b200", 8, hyperdisk=True)]
    made += [
        MachineType(f"g2-standard-{n}", n, n * 4096, "nvidia-l4", g)
        for n, g in ((4, 1), (8, 1), (12, 1), (16, 1), (24, 2), (32, 1), (48, 4), (96, 8))
    ]
    made += [MachineType("a2-megagpu-16g", 96, 1392640, "nvidia-tesla-a100", 16)]
    return {one.name: one for one in made}


def _of_table(machine: Machine) -> MachineType:
    hyperdisk = all(disk.startswith("hyperdisk") for disk in machine.boot_disks)
    return MachineType(machine.name, machine.cores, machine.memory >> 20, hyperdisk=hyperdisk)


MACHINE_TYPES = _types()
"""Those without GPUs are the platform's own table; those that bring GPUs are written down here once more."""
ACCELERATORS = {
    "nvidia-tesla-t4": ("NVIDIA T4", 4), "nvidia-tesla-v100": ("NVIDIA V100", 8),
    "nvidia-tesla-a100": ("NVIDIA A100 40GB", 16),
    "nvidia-a100-80gb": ("NVIDIA A100 80GB", 8), "nvidia-h100-80gb": ("NVIDIA H100 80GB", 8),
    "nvidia-h100-mega-80gb": ("NVIDIA H100 80GB MEGA", 8), "nvidia-h200-141gb": ("NVIDIA H200 141GB", 8),
    "nvidia-b200": ("NVIDIA B200", 8), "nvidia-l4": ("NVIDIA L4", 8),
}  # fmt: skip
"""name -> (description, most of them on one VM)."""
ATTACHED_TO_N1 = ("nvidia-tesla-t4", "nvidia-tesla-v100")
_SCARCE: dict[str, tuple[str, ...]] = {
    "a2": (
        "us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f", "us-west1-b", "europe-west4-a",
        "europe-west4-b", "asia-southeast1-b",
    ),
    "a3": ("us-central1-a", "us-central1-c", "europe-west4-b"),
    "a4": ("us-central1-b",),
}  # fmt: skip
"""Families that only some zones have."""

QUOTA_METRICS = {
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS", "nvidia-tesla-v100": "NVIDIA_V100_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
    "nvidia-a100-80gb": "NVIDIA_A100_80GB_GPUS", "nvidia-h100-80gb": "NVIDIA_H100_GPUS",
    "nvidia-h100-mega-80gb": "NVIDIA_H100_MEGA_GPUS", "nvidia-h200-141gb": "NVIDIA_H200_GPUS",
    "nvidia-b200": "NVIDIA_B200_GPUS", "nvidia-l4": "NVIDIA_L4_GPUS",
}  # fmt: skip
REGION_QUOTAS: dict[str, float] = {
    "CPUS": 4000, "PREEMPTIBLE_CPUS": 0, "N2_CPUS": 4000, "C3_CPUS": 4000, "A2_CPUS": 4000, "INSTANCES": 6000,
    "DISKS_TOTAL_GB": 1_000_000, "SSD_TOTAL_GB": 1_000_000, "HDB_TOTAL_GB": 1_000_000,
    **{prefix + metric: 256 for metric in QUOTA_METRICS.values() for prefix in ("", "PREEMPTIBLE_")},
}  # fmt: skip
PROJECT_QUOTAS: dict[str, float] = {"GPUS_ALL_REGIONS": 1024, "CPUS_ALL_REGIONS": 40_000, "SNAPSHOTS": 1000}

IMAGES: dict[str, dict[str, str]] = {
    "debian-cloud": {"debian-12": "debian-12-bookworm-v20261014", "debian-13": "debian-13-trixie-v20261014"},
    "ubuntu-os-cloud": {"ubuntu-2404-lts-amd64": "ubuntu-2404-noble-amd64-v20261020"},
    "cos-cloud": {"cos-stable": "cos-stable-121-18867-90-4"},
    "deeplearning-platform-release": {
        "common-cu128-ubuntu-2204-nvidia-570": "common-cu128-ubuntu-2204-nvidia-570-v20261001",
    },
}
"""project -> family -> the newest image of it."""


def offered(machine: str, zone: str) -> bool:
    """Whether the zone has the machine type at all."""
    known = MACHINE_TYPES.get(machine)
    return known is not None and zone in _SCARCE.get(known.family, tuple(ZONES))
