"""Counters and histograms under TEI's names, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Seconds, for durations.
DURATIONS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Tokens, for lengths.
LENGTHS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)


@dataclass(slots=True)
class Histogram:
    """Observations counted by upper bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """The histogram in text form."""
        running, lines = 0, [f"# TYPE {name} histogram"]
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {running}')
        return [*lines, f"{name}_sum {self.total!r}", f"{name}_count {running}"]


@dataclass(slots=True)
class Metrics:
    """What /metrics shows. Used from the event loop alone, so without locks."""

    requests: dict[str, int] = field(default_factory=dict)
    successes: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    duration: Histogram = field(default_factory=lambda: Histogram(DURATIONS))
    tokenization: Histogram = field(default_factory=lambda: Histogram(DURATIONS))
    queue: Histogram = field(default_factory=lambda: Histogram(DURATIONS))
    inference: Histogram = field(default_factory=lambda: Histogram(DURATIONS))
    input_length: Histogram = field(default_factory=lambda: Histogram(LENGTHS))
    searches: int = 0
    searches_without_hits: int = 0
    search: Histogram = field(default_factory=lambda: Histogram(DURATIONS))
    gauges: dict[str, Callable[[], float]] = field(default_factory=dict)

    def received(self, method: str) -> None:
        """A request of a kind ("single", "batch", …) has come in."""
        self.requests[method] = self.requests.get(method, 0) + 1

    def succeeded(self, method: str) -> None:
        """It was answered."""
        self.successes[method] = self.successes.get(method, 0) + 1

    def failed(self, label: str) -> None:
        """It was answered with an error of a kind ("validation", "overloaded", …)."""
        self.failures[label] = self.failures.get(label, 0) + 1

    def searched(self, queries: int, empty: int, seconds: float) -> None:
        """A request of so many queries was answered; so many of them found nothing."""
        self.searches += queries
        self.searches_without_hits += empty
        self.search.observe(seconds)

    def text(self) -> str:
        """Everything in Prometheus' text format."""
        lines: list[str] = []
        for name, label, values in (
            ("te_request_count", "method", self.requests),
            ("te_request_success", "method", self.successes),
            ("te_request_failure", "err", self.failures),
        ):
            lines.append(f"# TYPE {name} counter")
            lines += [f'{name}{{{label}="{key}"}} {value}' for key, value in sorted(values.items())]
        for name, count in (
            ("embedfit_search_queries", self.searches),
            ("embedfit_search_queries_without_hits", self.searches_without_hits),
        ):
            lines += [f"# TYPE {name} counter", f"{name} {count}"]
        for name, histogram in (
            ("embedfit_search_duration", self.search),
            ("te_request_duration", self.duration),
            ("te_request_tokenization_duration", self.tokenization),
            ("te_request_queue_duration", self.queue),
            ("te_request_inference_duration", self.inference),
            ("te_request_input_length", self.input_length),
        ):
            lines += histogram.lines(name)
        for name, read in sorted(self.gauges.items()):
            lines += [f"# TYPE {name} gauge", f"{name} {read():g}"]
        return "\n".join(lines) + "\n"
