"""Data that a job reads: what may be named, where it may be mounted, how each is called. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

KINDS = ("source", "snapshot", "nfs", "bucket", "scratch")
"""What an entry of `data` names, one of them."""
CLOUD_KINDS = frozenset({"snapshot", "nfs", "bucket", "scratch"})
"""What only a machine that was made for the experiment mounts."""
_SYSTEM = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var",
)
_WHOLE = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp")  # noqa: S108 - names of folders, none is used
_BUCKET = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/([^\x00-\x1f\x7f]{0,1000}))?")
_MOUNT = re.compile(r"/[A-Za-z0-9._@+/-]{1,255}")


def device_name(index: int) -> str:
    """How the disk of the index-th snapshot of an experiment is known to its machines: /dev/disk/by-id/google-…"""
    return f"incl-data-{index}"


def bucket_parts(url: str) -> tuple[str, str]:
    """(bucket, prefix without slashes around it) of gs://bucket/prefix.

    Raises:
        ValueError: it is none.
    """
    match = _BUCKET.fullmatch(url)
    prefix = (match[2] or "").strip("/") if match is not None else ""
    if match is None or ".." in prefix.split("/"):
        raise ValueError(f"{url[:120]!r} is not a bucket: write gs://bucket or gs://bucket/folder")
    return match[1], prefix


def export_parts(text: str) -> tuple[str, str]:
    """(host, path) of host:/export.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"([A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):(/[A-Za-z0-9._@+/-]{0,500})", text)
    if match is None or ".." in match[2].split("/"):
        raise ValueError(f"{text[:120]!r} is not an NFS export: write host:/export")
    return match[1], match[2]


def mount_point(path: str) -> str:
    """A path where data may be mounted.

    Raises:
        ValueError: it is not absolute, or would hide what the machine needs.
    """
    parts = path.split("/")[1:]
    if _MOUNT.fullmatch(path) is None or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path[:120]!r} is not a place to mount data at: write an absolute path such as /data")
    if path in _WHOLE or any(path == each or path.startswith(f"{each}/") for each in _SYSTEM):
        raise ValueError(f"{path[:120]!r} belongs to the system: choose another place, such as /data")
    return path


def default_target(values: Mapping[str, Any]) -> str | None:
    """How an entry is called below INCL_DATA_DIR where its author says nothing; None: as every folder is."""
    if isinstance(snapshot := values.get("snapshot"), str):
        return snapshot
    if isinstance(bucket := values.get("bucket"), str):
        return bucket.removeprefix("gs://").strip("/").rpartition("/")[2] or None
    if isinstance(export := values.get("nfs"), str):
        return export.strip("/").rpartition("/")[2].rpartition(":")[2] or None
    return "scratch" if "scratch" in values else None


def one_inside_another(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two of these that are the same, or one of which lies in the other."""
    ordered = sorted(path.split("/") for path in paths)
    for first, second in itertools.pairwise(ordered):
        if second[: len(first)] == first:
            return "/".join(first), "/".join(second)
    return None
