"""Prometheus metrics: each part's events, under one registry a daemon.

Labels are few and bounded: outcomes and codes of the catalogue, methods that this node knows, kinds of topic. Nothing
is labelled by tenant, job, peer or model name from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tetherd import __version__
from tetherd.telemetry.ledger_metrics import LetterCounters, UsageCounters

HOP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TOKEN_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
ANSWER_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What all parts of one daemon count."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rpc = RpcCounters(self.registry)
        self.swarm = SwarmCounters(self.registry)
        self.gateway = GatewayCounters(self.registry)
        self.orchestrator = OrchestratorCounters(self.registry)
        self.letters = LetterCounters(self.registry)
        self.usage = UsageCounters(self.registry)
        self.worker = WorkerCounters(self.registry)
        self.models = ModelCounters(self.registry)
        self.room = RoomCounters(self.registry)
        Gauge("tether_build_info", "The version that runs.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)

    def watch_swarm(
        self,
        reachability: Callable[[], str],
        peers: Callable[[], Mapping[str, int]],
        members: Callable[[], Mapping[str, int]],
    ) -> None:
        """Show, at each scrape, whether this node can be dialled, its peers by path and the members known by state."""
        verdict = Gauge(
            "tether_reachability", "1 for what is found of this node.", ["state"], registry=self.registry
        )
        for state in ("public", "private", "unknown"):
            verdict.labels(state).set_function(partial(_is, reachability, state))
        by_path = Gauge(
            "tether_peers", "Peers with an open connection, by path.", ["path"], registry=self.registry
        )
        for path in ("direct", "relayed"):
            by_path.labels(path).set_function(partial(_count, peers, path))
        by_state = Gauge("tether_members", "Members known, by state.", ["state"], registry=self.registry)
        for state in ("alive", "suspect", "dead"):
            by_state.labels(state).set_function(partial(_count, members, state))

    def text(self) -> bytes:
        """The exposition format of /metrics."""
        return generate_latest(self.registry)


def _count(members: Callable[[], Mapping[str, int]], state: str) -> float:
    return float(members().get(state, 0))


def _is(found: Callable[[], str], state: str) -> float:
    return float(found() == state)


class RpcCounters:
    """Implements p2p.rpc.RpcMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["side", "method"]
        self._running = Gauge("tether_rpc_running", "Calls under way.", labels, registry=registry)
        self._calls = Counter(
            "tether_rpc_calls", "Calls that ended, by code.", [*labels, "code"], registry=registry
        )
        self._seconds = Histogram(
            "tether_rpc_seconds", "How long calls took.", labels, buckets=HOP_BUCKETS, registry=registry
        )
        self._bytes = Counter(
            "tether_rpc_bytes", "Bytes of messages.", [*labels, "direction"], registry=registry
        )

    def call_started(self, side: str, method: str) -> None:
        self._running.labels(side, method).inc()

    def call_ended(
        self, side: str, method: str, code: str, *, seconds: float, sent_bytes: int, received_bytes: int
    ) -> None:
        self._running.labels(side, method).dec()
        self._calls.labels(side, method, code).inc()
        self._seconds.labels(side, method).observe(seconds)
        self._bytes.labels(side, method, "sent").inc(sent_bytes)
        self._bytes.labels(side, method, "received").inc(received_bytes)


class SwarmCounters:
    """Implements topics.settings.SwarmMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._dropped = Counter(
            "tether_announcements_dropped", "Announcements refused.", ["reason"], registry=registry
        )
        self._lookups = Counter(
            "tether_dht_lookups", "Provider lookups on the DHT.", ["kind", "outcome"], registry=registry
        )
        self._found = Counter(
            "tether_dht_providers_found", "Nodes that provider lookups found.", ["kind"], registry=registry
        )
        self._seconds = Histogram(
            "tether_dht_lookup_seconds", "Provider lookups.", ["kind"], buckets=HOP_BUCKETS, registry=registry
        )
        self._elections = Counter(
            "tether_leader_changes", "Changes of the region's first leader.", registry=registry
        )

    def announcement_dropped(self, reason: str) -> None:
        self._dropped.labels(reason).inc()

    def dht_lookup(self, kind: str, found: int, seconds: float) -> None:
        self._lookups.labels(kind, "found" if found else "empty").inc()
        self._found.labels(kind).inc(found)
        self._seconds.labels(kind).observe(seconds)

    def leader_changed(self, region: str) -> None:
        self._elections.inc()


class GatewayCounters:
    """Implements tetherd.gateway.ports.GatewayMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._running = Gauge("tether_gateway_running", "Answers under way.", registry=registry)
        self._requests = Counter(
            "tether_gateway_requests", "Requests, by outcome.", ["outcome"], registry=registry
        )
        self._attempts = Counter(
            "tether_gateway_attempts", "Attempts, by cause of end.", ["cause"], registry=registry
        )
        self._hops = Histogram(
            "tether_gateway_hop_seconds", "Time to a grant, and to a worker.", ["hop"], buckets=HOP_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._first = Histogram(
            "tether_gateway_first_token_seconds", "From request to first token.", buckets=HOP_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._between = Histogram(
            "tether_gateway_inter_token_seconds",
            "From token to token.",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self._refused = Counter(
            "tether_gateway_receipts_refused",
            "Receipts that did not agree with the answer.",
            registry=registry,
        )
        self._unsettled = Gauge(
            "tether_gateway_unsettled", "Settlements that the ledger has not taken yet.", registry=registry
        )

    def unsettled(self, jobs: int) -> None:
        self._unsettled.set(jobs)

    def request_started(self) -> None:
        self._running.inc()

    def request_ended(self, outcome: str) -> None:
        self._running.dec()
        self._requests.labels(outcome).inc()

    def attempt_ended(self, cause: str) -> None:
        self._attempts.labels(cause).inc()

    def hop(self, hop: str, seconds: float) -> None:
        self._hops.labels(hop).observe(seconds)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def inter_token(self, seconds: float) -> None:
        self._between.observe(seconds)

    def receipt_refused(self) -> None:
        self._refused.inc()


class OrchestratorCounters:
    """Implements tetherd.orchestrator.ports.OrchestratorMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._placements = Counter(
            "tether_orchestrator_placements", "Placements, by outcome.", ["outcome"], registry=registry
        )
        self._seconds = Histogram(
            "tether_orchestrator_place_seconds", "Placements.", buckets=HOP_BUCKETS, registry=registry
        )
        self._waiting = Gauge(
            "tether_orchestrator_waiting", "Requests that wait for a slot.", registry=registry
        )
        self._settled = Counter(
            "tether_orchestrator_settled", "Jobs that ended here.", ["end"], registry=registry
        )
        self._tokens = Counter(
            "tether_orchestrator_billed_tokens", "Tokens billed.", ["kind"], registry=registry
        )
        self._dead = Counter(
            "tether_orchestrator_dead_lettered", "Jobs that nobody ended.", registry=registry
        )
        self._copied = Counter(
            "tether_orchestrator_ledger_commits",
            "Embedded ledger: rows that another candidate had in time, or not.",
            ["copied"],
            registry=registry,
        )

    def placed(self, outcome: str, seconds: float) -> None:
        self._placements.labels(outcome).inc()
        self._seconds.observe(seconds)

    def waiting(self, requests: int) -> None:
        self._waiting.set(requests)

    def settled(self, end: str, prompt_tokens: int, tokens: int) -> None:
        self._settled.labels(end).inc()
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("answer").inc(tokens)

    def dead_lettered(self, jobs: int) -> None:
        self._dead.inc(jobs)

    def copied(self, acknowledged: bool) -> None:
        self._copied.labels("yes" if acknowledged else "no").inc()


class WorkerCounters:
    """Implements inference.worker_metrics.WorkerMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._prompt = Counter(
            "tether_worker_prompt_tokens", "Tokens of accepted prompts.", registry=registry
        )
        self._sampled = Counter("tether_worker_sampled_tokens", "Tokens sampled here.", registry=registry)
        self._active = Gauge("tether_worker_active", "Slots in use.", registry=registry)
        self._capacity = Gauge("tether_worker_capacity", "Slots in all.", registry=registry)
        self._requests = Counter(
            "tether_worker_requests", "Attempts, by outcome.", ["outcome"], registry=registry
        )
        self._first = Histogram(
            "tether_worker_first_token_seconds", "From request to first token.", buckets=HOP_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._between = Histogram(
            "tether_worker_inter_token_seconds",
            "From token to token.",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self._seconds = Histogram(
            "tether_worker_seconds", "How long attempts took.", buckets=ANSWER_BUCKETS, registry=registry
        )

    def requested(self, prompt_tokens: int) -> None:
        self._prompt.inc(prompt_tokens)

    def sampled(self, tokens: int) -> None:
        self._sampled.inc(tokens)

    def slots(self, used: int, capacity: int) -> None:
        self._active.set(used)
        self._capacity.set(capacity)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def between_tokens(self, seconds: float) -> None:
        self._between.observe(seconds)

    def finished(self, outcome: str, seconds: float) -> None:
        self._requests.labels(outcome).inc()
        self._seconds.observe(seconds)


class RoomCounters:
    """Implements inference.engine_room.RoomMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._loads = Counter(
            "tether_engine_loads", "Loads of models, by outcome.", ["outcome"], registry=registry
        )
        self._seconds = Histogram(
            "tether_engine_load_seconds", "Loads.", buckets=ANSWER_BUCKETS, registry=registry
        )
        self._unloads = Counter("tether_engine_unloads", "Models that made room.", registry=registry)
        self._progress = Gauge(
            "tether_engine_load_progress", "Of the load under way, 0 to 1.", registry=registry
        )
        self._models = Gauge(
            "tether_engine_models", "Models lent, by whether they are loaded.", ["loaded"], registry=registry
        )
        self._waiting = Gauge(
            "tether_engine_waiting", "Requests that wait for a model to be loaded.", registry=registry
        )
        self._bytes = Gauge(
            "tether_engine_memory_bytes",
            "Memory of engines: what those loaded need, and what they may take.",
            ["kind"],
            registry=registry,
        )

    def loads(self, outcome: str, seconds: float) -> None:
        self._loads.labels(outcome).inc()
        self._seconds.observe(seconds)

    def unloaded(self) -> None:
        self._unloads.inc()

    def room(self, loaded: int, models: int, waiting: int, used_bytes: int, budget_bytes: int) -> None:
        self._models.labels("yes").set(loaded)
        self._models.labels("no").set(models - loaded)
        self._waiting.set(waiting)
        self._bytes.labels("used").set(used_bytes)
        self._bytes.labels("budget").set(budget_bytes)

    def progress(self, fraction: float) -> None:
        self._progress.set(fraction)


class ModelCounters:
    """Implements inference.artifacts.metrics.ShelfMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._lent = Counter(
            "tether_models_lent_bytes", "Bytes of files that went to peers.", registry=registry
        )
        self._fetched = Counter(
            "tether_models_fetched_bytes", "Verified bytes of files that came.", ["kind"], registry=registry
        )
        self._lies = Counter(
            "tether_models_lies", "Sources that sent what was not signed.", ["kind"], registry=registry
        )

    def watch(self, kept_bytes: Callable[[], float]) -> None:
        """Show, at each scrape, what the cache takes."""
        kept = Gauge("tether_models_kept_bytes", "Whole files in the cache.", registry=self._registry)
        kept.set_function(kept_bytes)

    def lent(self, count: int) -> None:
        self._lent.inc(count)

    def fetched(self, kind: str, count: int) -> None:
        self._fetched.labels(kind).inc(count)

    def lied(self, kind: str) -> None:
        self._lies.labels(kind).inc()
