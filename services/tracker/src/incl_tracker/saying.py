"""What records say that are no points: configuration and alerts, in the transaction that stores their batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from incl_tracker import counters
from incl_tracker import store_experiments as experiments
from incl_tracker.domain.extras import Alert, Said
from incl_tracker.settling import raise_alerts

if TYPE_CHECKING:
    from incl_shared.db import Transaction
    from incl_shared.subjects import Origin
    from incl_tracker.memory import Writer

MAX_METRICS = 100_000
"""Of an experiment; what it logs beyond is counted, and told once."""
MAX_ALERTS = 1_000
"""Of an experiment; what it says beyond is counted, and told once."""
_MANY_METRICS, _MANY_ALERTS = ".limit", ".alerts"
"""In place of a writer, of whom the tracker itself warns; no writer has such a name."""
_WARNINGS = {
    _MANY_METRICS: Alert(
        0,
        f"more than {MAX_METRICS} metrics",
        "An experiment keeps so many; what it logs under further names is not stored, and its records count as gaps.",
        "warn",
    ),
    _MANY_ALERTS: Alert(
        0,
        f"more than {MAX_ALERTS} alerts",
        "An experiment keeps so many; further ones are neither kept nor sent, and count as gaps.",
        "warn",
    ),
}
_Config = dict[str, tuple[float, str]]


class Word(NamedTuple):
    """What the extras of a batch say. received: seconds since the epoch."""

    origin: Origin
    writer: Writer
    said: Said
    received: float


def tell(tx: Transaction, words: Sequence[Word]) -> set[str]:
    """Set parameters and raise alerts. Returns the experiments whose views changed."""
    configs: dict[tuple[str, int], _Config] = {}
    changed = set()
    for word in words:
        origin, said = word.origin, word.said
        counters.UNREADABLE.inc(said.unreadable)
        if said.config:
            _merge(configs.setdefault((origin.experiment, origin.attempt), {}), said.config)
        if said.alerts:
            _raise(tx, word)
            changed.add(origin.experiment)
    for (experiment, attempt), config in configs.items():
        experiments.set_params(tx.connection, experiment, "config", config, attempt)
        experiments.update(tx.connection, experiment, {})
        changed.add(experiment)
    return changed


def tell_refused(tx: Transaction, refused: Sequence[tuple[Origin, int]]) -> set[str]:
    """Records were refused as their metrics are too many: say it once of each rank. Experiments whose views changed."""
    for _, count in refused:
        counters.REFUSED.inc(count)
    return {origin.experiment for origin, _ in refused if _warn(tx, origin, _MANY_METRICS)}


def _merge(into: _Config, config: Mapping[str, tuple[float, str]]) -> None:
    for name, (time, text) in config.items():
        if name not in into or into[name][0] <= time:
            into[name] = (time, text)


def _raise(tx: Transaction, word: Word) -> None:
    """Those for which there is room; the others count as dropped."""
    origin, writer, alerts = word.origin, word.writer, word.said.alerts
    room = max(0, MAX_ALERTS - experiments.alerts_of(tx.connection, origin.experiment))
    kept = alerts[:room]
    experiments.add_alerts(tx.connection, origin, writer.key.writer, kept, word.received)
    raise_alerts(tx, origin, writer.key.writer, kept)
    if len(kept) < len(alerts):
        writer.dropped += len(alerts) - len(kept)
        counters.REFUSED_ALERTS.inc(len(alerts) - len(kept))
        _warn(tx, origin, _MANY_ALERTS)


def _warn(tx: Transaction, origin: Origin, what: str) -> bool:
    """Whether it is said now, for the first time of this rank."""
    if experiments.has_alerts(tx.connection, origin, what):
        return False
    experiments.add_alerts(tx.connection, origin, what, [_WARNINGS[what]], tx.clock.now())
    raise_alerts(tx, origin, what, [_WARNINGS[what]])
    return True
