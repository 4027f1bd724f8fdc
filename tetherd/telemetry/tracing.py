"""Traces over OTLP/HTTP when an endpoint is set; otherwise spans cost next to nothing and go nowhere.

Spans carry ids, counts and codes. They never carry a prompt or a completion.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tetherd import __version__

EXPORT_TIMEOUT_S: Final = 1
"""With the SDK's default a collector that is down holds the shutdown for half a minute (measured)."""
SHUTDOWN_TIMEOUT_MS: Final = 2_000


@contextmanager
def tracing(endpoint: str, node_id: str, region: str) -> Iterator[None]:
    """Export this process's spans to endpoint (http://host:4318) until the context ends. Empty: export nothing."""
    if not endpoint:
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    resource = Resource.create(
        {
            "service.name": "tetherd",
            "service.version": __version__,
            "service.instance.id": node_id,
            "tether.region": region,
        }
    )
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.force_flush(SHUTDOWN_TIMEOUT_MS)
        provider.shutdown()
