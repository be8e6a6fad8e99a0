"""What Prometheus reads at `/metrics`, of this process; each copy of the service has its own."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4)


class Measures:
    """Counters of requests by route and status, and a histogram for each phase of an answer."""

    def __init__(self, replica: str) -> None:
        self._registry = CollectorRegistry()
        self._phase = Histogram(
            "ucdr_phase_seconds",
            "Time of a phase of an answer.",
            ["phase", "replica"],
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._requests = Counter(
            "ucdr_requests", "Requests answered.", ["route", "status", "replica"], registry=self._registry
        )
        self._under_way = Gauge(
            "ucdr_requests_under_way",
            "Requests taken in and not answered yet.",
            ["replica"],
            registry=self._registry,
        )
        self._replica = replica

    def phases(self, ms: Mapping[str, float]) -> None:
        """Phases that took no time were not there."""
        for phase, took in ms.items():
            if took:
                self._phase.labels(phase, self._replica).observe(took / 1e3)

    def request(self, route: str, status: int) -> None:
        """One was answered."""
        self._requests.labels(route, str(status), self._replica).inc()

    def under_way(self, count: int) -> None:
        """How many are now."""
        self._under_way.labels(self._replica).set(count)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self._registry)
