"""Whether the artifacts lie in a bucket: chosen by the environment at a start, and kept for all later ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from incl_local.layout import Layout
from incl_local.processes import write_private
from incl_registry.address import parse

NAMES = ("store", "store_endpoint", "signer")
_SKEW_S = 60.0


def choose(layout: Layout, environment: Mapping[str, str]) -> None:
    """Keep what INCL_REGISTRY_STORE says; empty: the folder again. Without it the choice of an earlier start holds, so
    that no start looks for the artifacts in another place by mistake.

    Raises:
        InvalidInput: it is no address of a bucket.
    """
    said = {name: environment.get(f"INCL_REGISTRY_{name.upper()}") for name in NAMES}
    if said["store"] is None:
        return
    if not said["store"]:
        (layout.root / "store.json").unlink(missing_ok=True)
        return
    parse(said["store"])
    write_private(layout.root / "store.json", json.dumps({name: value for name, value in said.items() if value}))


def chosen(layout: Layout) -> dict[str, Any]:
    """Of the settings of the registry: where the artifacts lie; nothing when it is the folder."""
    try:
        kept: dict[str, Any] = json.loads((layout.root / "store.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: str(value) for name, value in kept.items() if name in NAMES}


def look(layout: Layout) -> Iterator[tuple[str, str, str]]:
    """(level, text, what mends it) of what is to be said of the bucket; it is written to and read.

    Raises:
        InclError: it cannot be used.
    """
    kept = chosen(layout)
    if not kept:
        return
    from incl_registry.gcs.connect import connect, probe
    from incl_registry.gcs.opening import credentials_for

    bucket = connect(kept["store"], kept.get("store_endpoint"), found=credentials_for(kept.get("signer")))
    ahead = probe(bucket)
    if abs(ahead) > _SKEW_S:
        way = "behind" if ahead > 0 else "ahead of"
        text = f"this machine's clock is {abs(ahead):.0f} s {way} Cloud Storage's: signed addresses may be refused"
        yield "warning", text, "set the clock (NTP)"
    yield "ok", f"artifacts in {bucket.url}: written, read, changed and deleted", ""
    left = sum(1 for _ in (layout.artifacts / "sha256").glob("??/*"))
    if left:
        yield (
            "warning",
            f"{left} artifacts lie in {layout.artifacts}, where nobody looks for them now",
            f"gcloud storage cp -r {layout.artifacts}/sha256 {bucket.url}/",
        )
