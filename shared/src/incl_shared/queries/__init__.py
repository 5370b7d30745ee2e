"""Typed questions over the bus, one module a service."""

from incl_shared.queries.base import QUERIES, Answer, Done, Query

__all__ = ["QUERIES", "Answer", "Done", "Query"]
