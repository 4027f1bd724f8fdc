"""Trace contexts as the wire carries them: W3C traceparent strings."""

from __future__ import annotations

from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR: Final = TraceContextTextMapPropagator()


def context_of(traceparent: str) -> Context:
    """The context to start a span in; an empty or broken traceparent starts a trace of its own."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=Context())


def current_traceparent() -> str:
    """The traceparent of the current span, or "" when there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")
