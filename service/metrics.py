"""What is counted. Labels are words from our own tables: nothing that a tenant or a provider wrote."""

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.states import Json

LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)


class Metrics:
    """One registry per process; `render` is what `/metrics` answers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._facts = Counter(
            "callsheet_facts", "What arrived about jobs", ("source", "verdict"), registry=self._registry
        )
        self._callbacks = Counter(
            "callsheet_callbacks", "Callbacks by provider", ("provider", "verdict"), registry=self._registry
        )
        self._attempts = Histogram(
            "callsheet_attempt_seconds", "Attempts", ("outcome",), buckets=LATENCIES, registry=self._registry
        )
        self._due = Gauge("callsheet_due", "Rows that wait for a loop", ("work",), registry=self._registry)
        self._oldest = Gauge(
            "callsheet_oldest_due_seconds", "Age of the oldest due row", ("work",), registry=self._registry
        )

        # Finding a label's child costs more than counting on it.
        self._fact, self._callback = lru_cache(256)(self._facts.labels), lru_cache(256)(self._callbacks.labels)
        self._attempt = lru_cache(256)(self._attempts.labels)

    def fact(self, source: str, verdict: str) -> None:
        self._fact(source, verdict).inc()

    def callback(self, provider: str, verdict: str) -> None:
        self._callback(provider, verdict).inc()

    def attempt(self, outcome: str, seconds: float) -> None:
        self._attempt(outcome).observe(seconds)

    def render(self, backlog: Json) -> bytes:
        """The text exposition, with what waits in the database now."""
        for work, waiting in backlog.items():
            self._due.labels(work).set(waiting["count"])
            self._oldest.labels(work).set(waiting["oldest_ms"] / 1000)
        return generate_latest(self._registry)
