"""What an operator sees: one trace through three daemons, metrics for each hop, logs with the job's id."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cli.local_swarm import LocalSwarm, until
from tests.e2e.asking import LONG, MODEL, a_swarm, client_of, stream, wait_served

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP collector that keeps (service instance, span name, parent id, span id) of one trace."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, str, str, str]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    if span.trace_id.hex() == TRACE_ID:
                        who = attributes["service.instance.id"]
                        self.server.spans.append(
                            (who, span.name, span.parent_span_id.hex(), span.span_id.hex())
                        )
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_clients_traceparent_becomes_one_trace_through_gateway_orchestrator_and_worker(
    swarm: LocalSwarm, collector: Collector
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    gateway_home = swarm.start("founder", roles="orchestrator", environ=environ).wait_ready()
    ticket = swarm.invite(gateway_home)
    worker = swarm.start("worker", ticket=ticket, roles="worker", environ=environ).wait_ready()
    gateway = swarm.start("gateway", ticket=ticket, roles="gateway", environ=environ).wait_ready()
    wait_served(gateway)
    client_of(gateway).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hello!"}],
        temperature=0,
        extra_headers={"traceparent": TRACEPARENT},
    )

    def names() -> set[tuple[str, str]]:
        return {(who, name) for who, name, _, _ in collector.spans}

    wanted = {
        (gateway.node_id, "gateway.request"),
        (gateway_home.node_id, "orchestrator.place"),
        (worker.node_id, "worker.infer"),
    }
    until(lambda: wanted <= names(), f"the spans {wanted}")
    known = {span for _, _, _, span in collector.spans} | {"00f067aa0ba902b7"}
    assert all(parent in known for _, _, parent, _ in collector.spans), "a span hangs in the air"


def test_every_hop_counts_its_requests_errors_and_seconds(swarm: LocalSwarm) -> None:
    founder, [worker] = a_swarm(swarm)
    answer = stream(founder, LONG)
    at_gateway = founder.metrics()
    at_worker = worker.metrics()
    assert at_gateway['tether_gateway_requests_total{outcome="done"}'] == 1
    assert at_gateway["tether_gateway_first_token_seconds_count"] == 1
    assert at_gateway["tether_gateway_inter_token_seconds_count"] > 0
    assert at_gateway['tether_orchestrator_placements_total{outcome="granted"}'] == 1
    assert at_gateway['tether_peers{path="direct"}'] >= 1
    assert at_gateway['tether_reachability{state="unknown"}'] == 1
    assert at_worker["tether_worker_sampled_tokens_total"] == sum(answer.tether["tokens"])
    assert at_worker["tether_worker_first_token_seconds_count"] == 1
    assert any(name.startswith("tether_rpc_calls_total") for name in at_worker)


def test_logs_carry_the_job_and_the_trace(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm)
    raw = client_of(founder).chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hello!"}],
        extra_headers={"traceparent": TRACEPARENT},
    )
    job = raw.headers["x-tether-job"]
    line = founder.wait_event("gateway.answered", job=job)
    assert line["trace_id"] == TRACE_ID
