"""Lists: filters as far as a backend uses them, and pages."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

from incl_provisioner.fakes.gce.catalog import ZONES
from incl_provisioner.fakes.gce.model import State, last
from incl_provisioner.fakes.gce.problems import JSON, invalid

_TERM = re.compile(
    r"\s*\(?\s*(?P<field>[A-Za-z][\w.\-]*)\s*(?P<op>!=|>=|<=|=|:|<|>|\bne\b|\beq\b)\s*"
    r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s()]+)\s*\)?\s*(?P<join>AND|OR)?\s*"
)
MOST = 500
Term = Callable[[JSON], bool]


def _value(item: JSON, field: str) -> Any:
    value: Any = item
    head, _, rest = field.partition(".")
    if head == "labels":
        return (item.get("labels") or {}).get(rest)
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _same(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() == wanted.lower()
    text = "" if value is None else str(value)
    if "*" in wanted:
        return value is not None and re.fullmatch(re.escape(wanted).replace(r"\*", ".*"), text) is not None
    # A resource may be named by its full URL, or by the last part of it.
    return text == wanted or (text.startswith("https://") and text.endswith("/" + wanted))


def _term(field: str, op: str, wanted: str) -> Term:
    if op in (">", "<", ">=", "<="):
        compare = {
            ">": lambda a: a > wanted,
            "<": lambda a: a < wanted,
            ">=": lambda a: a >= wanted,
            "<=": lambda a: a <= wanted,
        }
        return lambda item: bool(compare[op](str(_value(item, field) or "")))
    if op in ("eq", "ne"):
        return lambda item: (re.fullmatch(wanted, str(_value(item, field) or "")) is not None) == (op == "eq")
    if op == "!=":
        return lambda item: not _same(_value(item, field), wanted)
    return lambda item: _same(_value(item, field), wanted)


def matcher(expression: str) -> Term:
    """The filter of a list: `labels.x=y`, `name=a*`, `(status=RUNNING) (labels.x:*)`, AND, OR, eq, ne, <, >.

    Raises:
        ApiError: 400, this is no filter.
    """
    groups: list[list[Term]] = [[]]
    at = 0
    while at < len(expression.rstrip()):
        found = _TERM.match(expression, at)
        if found is None:
            raise invalid("filter", expression, "Invalid list filter expression.")
        groups[-1].append(_term(found["field"], found["op"], found["value"].strip("\"'")))
        if found["join"] == "OR":
            groups.append([])
        at = found.end()
    return lambda item: any(all(term(item) for term in group) for group in groups)


def page(items: list[JSON], query: Mapping[str, str]) -> tuple[list[JSON], str]:
    """(the page that was asked for, the token of the next one or "").

    Raises:
        ApiError: 400.
    """
    if query.get("filter"):
        wanted = matcher(query["filter"])
        items = [item for item in items if wanted(item)]
    try:
        most = int(query.get("maxResults") or MOST)
        begin = int(base64.urlsafe_b64decode(query["pageToken"])) if query.get("pageToken") else 0
    except (ValueError, binascii.Error):
        raise invalid("pageToken", query.get("pageToken"), "The page token is not valid.") from None
    if not 0 <= most <= MOST:
        raise invalid("maxResults", most, f"Values must be within the range: [0, {MOST}]")
    end = begin + (most or MOST)
    token = base64.urlsafe_b64encode(str(end).encode()).decode() if end < len(items) else ""
    return items[begin:end], token


def listed(kind: str, items: list[JSON], query: Mapping[str, str]) -> JSON:
    """A list as the API gives it; no `items` where there are none."""
    shown, token = page(items, query)
    answer: JSON = {"kind": f"compute#{kind}", "id": kind}
    if shown:
        answer["items"] = shown
    if token:
        answer["nextPageToken"] = token
    return answer


def aggregated(kind: str, bodies: list[JSON], query: Mapping[str, str], lost: list[str], state: State) -> JSON:
    """An aggregatedList. A zone that cannot be reached (`lost`) is said to be so, and is not empty.

    Args:
        kind: instance or disk.
        bodies: of all zones.
    """
    shown, token = page([body for body in bodies if last(body["zone"]) not in lost], query)
    items: dict[str, Any] = {}
    for body in shown:
        items.setdefault(f"zones/{last(body['zone'])}", {f"{kind}s": []})[f"{kind}s"].append(body)
    for zone in ZONES:
        scope = f"zones/{zone}"
        if zone in lost:
            items[scope] = {"warning": _warning("UNREACHABLE", f"The scope '{scope}' cannot be reached.", scope)}
        elif scope not in items:
            message = f"There are no results for scope '{scope}' on this page."
            items[scope] = {"warning": _warning("NO_RESULTS_ON_PAGE", message, scope)}
    answer: JSON = {"kind": f"compute#{kind}AggregatedList", "id": f"{kind}s", "items": items}
    if token:
        answer["nextPageToken"] = token
    if lost:
        answer["unreachables"] = [state.at(f"zones/{zone}") for zone in lost]
    return answer


def _warning(code: str, message: str, scope: str) -> JSON:
    return {"code": code, "message": message, "data": [{"key": "scope", "value": scope}]}
