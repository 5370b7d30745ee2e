"""What becomes of experiments that ended long ago: the operator's rules. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from incl_shared.states import ExperimentState

DAY_S = 86_400.0
Action = Literal["archive", "trash"]


class Rule(BaseModel):
    """Experiments of these projects and states, so many days after their end. The first rule that fits decides.

    archive: points and lines go to the artifact store; summaries, charts of fewer points and files stay. trash: as by
    `incl rm`, so it can be restored for a while.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str = Field("*", description="A name, or a pattern such as team-*.")
    states: tuple[ExperimentState, ...] = Field((), description="None: every final one.")
    after_days: float = Field(ge=0)
    action: Action = "archive"
    except_tags: tuple[str, ...] = Field(("keep",), description="What has one of these tags is left alone.")


def action(
    rules: Sequence[Rule], project: str, state: ExperimentState, tags: Collection[str], age_s: float
) -> Action | None:
    """What is due for an experiment that ended age_s seconds ago; none: nothing yet."""
    for rule in rules:
        if fnmatchcase(project, rule.project) and (not rule.states or state in rule.states):
            if not tags or not set(tags) & set(rule.except_tags):
                return rule.action if age_s >= rule.after_days * DAY_S else None
            return None
    return None


def soonest(rules: Sequence[Rule]) -> float:
    """The least age, in seconds, at which any rule does anything."""
    return min((rule.after_days * DAY_S for rule in rules), default=float("inf"))
