"""How states look, and how a person's word for an experiment is found."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from incl_cli.text import Cell

if TYPE_CHECKING:
    from incl_cli.platform import Platform
    from incl_shared.queries.tracker import AlertView, ExperimentView, MetricSummary

STATE_STYLES = {
    "queued": "yellow",
    "starting": "cyan",
    "running": "blue",
    "stopping": "yellow",
    "lost": "red",
    "finished": "green",
    "failed": "red",
    "stopped": "magenta",
}
STAGE_STYLES = {
    "packing": "cyan",
    "upload": "cyan",
    "queued": "yellow",
    "machine": "magenta",
    "data": "cyan",
    "unpacking": "cyan",
    "running": "green",
    "uploading": "blue",
}
ALERT_STYLES = {"info": "cyan", "warn": "yellow", "error": "red"}
_TOLD = 20
FAILED = 3
"""The exit code when the experiment itself did not finish."""


def state_cell(state: str, reason: str | None = None) -> Cell:
    """A state in its colour, with the reason where it adds something."""
    extra = f" ({reason})" if reason and reason not in ("completed", "stopped", "error") else ""
    return Cell(state + extra, STATE_STYLES.get(state, ""))


def alert_text(alert: AlertView, *, ranks: bool = False) -> str:
    """'warn: loss is NaN — at step 5' on one line; ranks: with the rank that told it."""
    from incl_cli.text import plain

    where = f" (rank {alert.rank})" if ranks else ""
    title, text = (plain(" ".join(words.split())) for words in (alert.title, alert.text))
    return f"{alert.level}: {title}{where}" + (f" — {text}" if text else "")


def is_own(metric: str) -> bool:
    """Whether the experiment logged this metric itself; `system/…` are the node's samples."""
    from incl_shared.queries.tracker import SYSTEM_PREFIX

    return not metric.startswith(SYSTEM_PREFIX)


_TELLING = ("loss", "acc", "accuracy")


@functools.lru_cache(maxsize=1 << 14)
def telling(metric: str) -> tuple[int, int, str]:
    """A key to sort metrics by: loss, acc and accuracy, then names with one of these words, then all others by name."""
    words = [word for word in re.split(r"[^a-z]+", metric.casefold()) if word in _TELLING]
    if not words:
        return 2, 0, metric
    return int(metric.casefold() not in _TELLING), min(map(_TELLING.index, words)), metric


def outcome(state: str) -> int:
    """The exit code that tells of a state."""
    return 0 if state == "finished" else FAILED


async def find(platform: Platform, reference: str) -> ExperimentView:
    """The experiment that is meant by an id, a piece of one, a name, or @last.

    Raises:
        NotFoundError, AmbiguousError: by the tracker.
        InvalidInput: no such word can be one.
    """
    from incl_shared.errors import InvalidInput, NotFoundError
    from incl_shared.queries.tracker import GetExperiment

    if not 0 < len(reference) <= 200:
        raise InvalidInput("an experiment is named by its id, the end of it, its name, or @last", hint="incl ls")
    try:
        return await platform.ask(GetExperiment(ref=reference))
    except NotFoundError as error:
        raise NotFoundError(
            error.message, cause=error.cause, hint=error.hint or "incl ls shows what there is"
        ) from None


def called(view: ExperimentView) -> str:
    """The short id, and the name where it has one of its own."""
    from incl_shared.ids import short

    name = short(view.row.id)
    return name if view.row.name == name else f"{name} {view.row.name}"


async def find_all(platform: Platform, references: Sequence[str]) -> list[ExperimentView]:
    """Several, asked at once, in their order, each once."""
    import asyncio

    found = await asyncio.gather(*(find(platform, reference) for reference in references))
    return list({view.row.id: view for view in found}.values())


async def metrics_of(platform: Platform, view: ExperimentView, contains: str = "") -> list[MetricSummary]:
    """Every metric of an experiment whose name has this text, by name: a view shows only the first of very many."""
    from incl_shared.queries.tracker import ListMetrics

    found: list[MetricSummary] = []
    cursor: str | None = None
    while True:
        page = await platform.ask(ListMetrics(experiment=view.row.id, contains=contains, limit=1000, cursor=cursor))
        found += page.metrics
        cursor = page.cursor
        if cursor is None:
            return found


async def known_metrics(
    platform: Platform, views: Sequence[ExperimentView], wanted: Sequence[str], *, every: bool = False
) -> dict[str, list[str]]:
    """experiment -> those of the wanted metrics that it has; none wanted: its own ones, every: though they be many.

    Raises:
        NotFoundError: nobody logged one of them; with the names that there are.
    """
    from incl_cli.arguments import did_you_mean
    from incl_shared.errors import NotFoundError

    found = {view.row.id: await _names(platform, view, wanted, every=every) for view in views}
    for name in wanted:
        if not any(name in names for names in found.values()):
            have = [metric.name for view in views for metric in view.metrics]
            alike = [metric.name for view in views for metric in await metrics_of(platform, view, name[:250])]
            shown = list(dict.fromkeys(sorted(set(alike)) + sorted(set(have), key=lambda one: (not is_own(one), one))))
            more = max(len(shown), *(view.metric_count for view in views)) - _TOLD
            names = ", ".join(shown[:_TOLD]) or "none yet"
            raise NotFoundError(
                f"there is no metric {name[:80]!r}",
                cause=f"logged are: {names}" + (f" and {more:,} more" if more > 0 else ""),
                hint=did_you_mean(name, alike or have) or f"incl metrics {views[0].row.id[-8:]} --list shows them all",
            )
    return found


async def _names(platform: Platform, view: ExperimentView, wanted: Sequence[str], *, every: bool) -> list[str]:
    shown = [metric.name for metric in view.metrics]
    more = view.metric_count > len(shown)
    if not wanted:
        if every and more:
            shown = [metric.name for metric in await metrics_of(platform, view)]
        return [name for name in shown if is_own(name)] or shown
    have = set(shown)
    for name in wanted if more else ():
        if name not in have:
            have |= {metric.name for metric in await metrics_of(platform, view, name[:250])}
    return [name for name in wanted if name in have]
