"""The filter grammar of `incl ls`, the page and the API: parse, print, evaluate. `docs/mechanisms/filters.md`."""

from incl_shared.filters.ast import (
    COLUMNS,
    EVERYTHING,
    Ago,
    And,
    Compare,
    Field,
    Filter,
    Kind,
    Not,
    Number,
    Op,
    Or,
    Period,
    SortKey,
    Span,
    Text,
    Today,
    Type,
    Value,
    fields_of,
)
from incl_shared.filters.evaluate import FilterRow, fold, matches, ordered, values_of
from incl_shared.filters.moments import resolve
from incl_shared.filters.parser import parse, parse_field, parse_sort
from incl_shared.filters.printer import field_text, sort_text, to_text
from incl_shared.filters.suggest import unknown_metric
from incl_shared.filters.values import as_number

__all__ = [
    "COLUMNS",
    "EVERYTHING",
    "Ago",
    "And",
    "Compare",
    "Field",
    "Filter",
    "FilterRow",
    "Kind",
    "Not",
    "Number",
    "Op",
    "Or",
    "Period",
    "SortKey",
    "Span",
    "Text",
    "Today",
    "Type",
    "Value",
    "as_number",
    "field_text",
    "fields_of",
    "fold",
    "matches",
    "ordered",
    "parse",
    "parse_field",
    "parse_sort",
    "resolve",
    "sort_text",
    "to_text",
    "unknown_metric",
    "values_of",
]
