"""What an orchestrator counts beside its ledger: dead letters, and usage events that leave."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class LetterCounters:
    """Implements tetherd.dead_letters.shelf.LetterMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._added = Counter(
            "tether_dead_letters", "Dead letters that came, by cause.", ["cause"], registry=registry
        )
        self._kept = Gauge("tether_dead_letters_kept", "Dead letters there are.", registry=registry)
        self._waiting = Gauge(
            "tether_dead_letters_waiting", "Dead letters that wait for Redis.", registry=registry
        )
        self._held = Gauge("tether_inputs_quarantined", "Inputs that are refused.", registry=registry)

    def letter_added(self, cause: str) -> None:
        self._added.labels(cause).inc()

    def letters(self, kept: int, waiting: int) -> None:
        self._kept.set(kept)
        self._waiting.set(waiting)

    def quarantined(self, inputs: int) -> None:
        self._held.set(inputs)


class UsageCounters:
    """Implements tetherd.usage.delivery.DeliveryMetrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "tether_usage_events",
            "Tries to deliver usage events, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._waiting = Gauge("tether_usage_events_waiting", "Events not taken yet.", registry=registry)
        self._dead = Gauge("tether_usage_events_dead", "Events that were given up.", registry=registry)
        self._age = Gauge(
            "tether_usage_events_oldest_seconds", "Age of the oldest that waits.", registry=registry
        )

    def event(self, outcome: str) -> None:
        self._events.labels(outcome).inc()

    def backlog(self, waiting: int, dead: int, age_s: float) -> None:
        self._waiting.set(waiting)
        self._dead.set(dead)
        self._age.set(age_s)
