"""Structured logs on stderr: an event name and its fields, as text or as one JSON object a line."""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

_NOISY: Final = ("libp2p", "multiaddr", "zeroconf", "aioquic", "urllib3", "opentelemetry")


def configure(log_format: Literal["text", "json"], level: str) -> None:
    """Set up structlog for this process, once. level "": warning on a terminal, else info.

    Libraries may only speak up from ERROR on.
    """
    on_terminal = log_format == "text" and sys.stderr.isatty()
    level = level or ("warning" if on_terminal else "info")
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace_id,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(name)s: %(message)s")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "libp2p" else logging.ERROR)


def _add_trace_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid and "trace_id" not in event:
        event["trace_id"] = f"{context.trace_id:032x}"
    return event
