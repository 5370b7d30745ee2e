"""Structured logs: one JSON object a line on stderr, or readable lines where somebody looks (a terminal).

`setup_logs` is called once a process. Everything goes through the standard library's logging, so that lines of other
libraries have the same form. What names a secret is blotted out, whoever logs it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog

from incl_shared.bus.envelope import current_trace, trace_id

BLOT = "***"
_SECRET_KEY = re.compile(
    r"(jwt|seed|token|secret|password|passwd|credential|authorization|api_?key|cookie)", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"  # a JWT
    r"|\bS[NCOAUX][A-Z2-7]{56}\b"  # a seed of an nkey
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user:password of a URL
    r"|\bincl_[A-Za-z0-9_-]{16,}\b"  # a token of this platform
    r"|(?i:bearer\s+)[\w.~+/=-]{8,}"
)


def setup_logs(level: str = "info", *, stream: TextIO | None = None, json_lines: bool | None = None) -> None:
    """Send all logs of this process to stderr (or `stream`). json_lines: by default unless it is a terminal."""
    out = stream or sys.stderr
    as_json = not out.isatty() if json_lines is None else json_lines
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if not as_json:
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ending: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, redact, renderer]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("incl.bus.faststream", "alembic", "sqlalchemy", "asyncio", "nats"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for events with fields: log.info("placed", experiment=…, node=…)."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Every line logged inside carries these fields: experiment, attempt, node, service."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog that blots out secrets: by the name of a field, and by the form of a value."""
    for key, value in event.items():
        event[key] = BLOT if _SECRET_KEY.search(key) and value is not None else _clean(value)
    return event


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_VALUE.sub(BLOT, value)
    if isinstance(value, dict):
        return {k: BLOT if isinstance(k, str) and _SECRET_KEY.search(k) else _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _add_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    trace = trace_id(current_trace.get())
    if trace is not None:
        event.setdefault("trace", trace)
    return event
