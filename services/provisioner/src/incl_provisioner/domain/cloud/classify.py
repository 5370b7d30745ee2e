"""From errors to the next step."""

from __future__ import annotations

import re
from collections.abc import Sequence

from incl_provisioner.domain.cloud.error_table import BY_CODE, BY_MESSAGE, BY_STATUS, UNKNOWN
from incl_provisioner.domain.cloud.errors import CloudError, Meaning, Rule, Scope, Verdict

_PLACE = re.compile(r"\bin (?:region|zone) (?P<place>[a-z0-9-]+)", re.IGNORECASE)
_QUOTA = re.compile(r"quota ['\"](?P<name>[A-Za-z0-9_./-]{1,120})['\"]", re.IGNORECASE)
_LIMIT = re.compile(r"\blimit:? (?P<limit>\d{1,12}(?:\.\d{1,6})?)", re.IGNORECASE)
_GLOBAL = re.compile(r"\bglobally\b|_ALL_REGIONS\b", re.IGNORECASE)
_NONE_AT_ALL = 6
"""A quota of zero is cooled so many times longer: somebody must ask for it first."""

_ORDER = (
    Meaning.CREDENTIALS,
    Meaning.PERMISSION,
    Meaning.QUOTA,
    Meaning.NEXT_REGION,
    Meaning.NEXT_ZONE,
    Meaning.BACK_OFF,
    Meaning.BAD_REQUEST,
    Meaning.ADOPT,
    Meaning.CLEAN_UP,
    Meaning.TRANSIENT,
)
_WEIGHT = {meaning: place for place, meaning in enumerate(_ORDER)}


def classify(errors: Sequence[CloudError]) -> Verdict:
    """What to do: of several errors the one that says the most about it.

    Words that are telling win over a code or status that is not: a stockout comes as a 503 that looks like one to
    repeat. A code that nobody knows means the next zone, with a short cooldown; without a code the status decides.
    """
    judged = [_judge(error) for error in errors or (CloudError(),)]
    return min(judged, key=lambda pair: (not pair[0], _WEIGHT[pair[1].meaning]))[1]


def _judge(error: CloudError) -> tuple[bool, Verdict]:
    """(whether something known was recognised, what it means)."""
    key = normal(error.code)
    rule, reason = BY_CODE.get(key), key.lower()
    known = rule is not None
    if rule is None or not rule.telling:
        for pattern, name, better in BY_MESSAGE:
            if pattern.search(error.message):
                rule, reason, known = better, name, True
                break
    if rule is None and not key and error.status is not None:
        rule, reason = BY_STATUS.get(error.status), f"http_{error.status}"
    if rule is None:
        rule, reason = UNKNOWN, key.lower() or "unknown"
    return known, _quota(error, rule) if rule.meaning is Meaning.QUOTA else _verdict(error, rule, reason)


def _verdict(error: CloudError, rule: Rule, reason: str) -> Verdict:
    return Verdict(
        rule.meaning, rule.scope, rule.ttl_s, reason, rule.message, rule.hint, error.message, rule.any_machine
    )


def _quota(error: CloudError, rule: Rule) -> Verdict:
    """Which quota, how far it reaches, and whether there is any of it at all."""
    name, limit, place = (pattern.search(error.message) for pattern in (_QUOTA, _LIMIT, _PLACE))
    everywhere = _GLOBAL.search(error.message) is not None
    what = f"quota {name['name']}" if name is not None else "quota"
    where = "everywhere" if everywhere else f"in {place['place']}" if place is not None else "in the region"
    scope = Scope.EVERYWHERE if everywhere else Scope.REGION
    if limit is not None and float(limit["limit"]) == 0:
        return Verdict(
            Meaning.QUOTA, scope, rule.ttl_s * _NONE_AT_ALL, "quota_zero", f"the account's {what} is 0 {where}",
            "ask the provider for it (IAM & Admin, Quotas), or name other machines or regions", error.message,
        )  # fmt: skip
    return Verdict(Meaning.QUOTA, scope, rule.ttl_s, "quota", f"{what} is used up {where}", rule.hint, error.message)


def normal(code: str) -> str:
    """A code in one spelling: quotaExceeded, QUOTA_EXCEEDED and a/b.quota-exceeded are QUOTA_EXCEEDED."""
    last = code.rpartition("/")[2].rpartition(".")[2]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last)
    return re.sub(r"[^A-Za-z0-9]+", "_", words).strip("_").upper()
