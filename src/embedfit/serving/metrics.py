"""Counters and histograms under TEI's names, in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from embedfit.serving.scheduling.batcher import Batcher
from embedfit.serving.search.query_log import QueryLog
from embedfit.serving.service import Timing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOKENS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)
#: Endings that the client library adds to names: TEI's counters end without them, and nobody needs their start.
_ADDED = re.compile(rb"^(?:# \w+ )?\w+_created\b.*\n|_total\b", re.MULTILINE)


class Metrics:
    """The numbers that /metrics shows of one server. batchers: the running ones, none before the model is warm."""

    def __init__(self, batchers: Callable[[], Sequence[Batcher]]) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, bounds: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, buckets=bounds, registry=registry)

        def gauge(name: str, text: str, read: Callable[[Batcher], int]) -> None:
            Gauge(name, text, registry=registry).set_function(lambda: sum(map(read, batchers())))

        self._requests = counter("te_request_count", "Requests that came in", "method")
        self._successes = counter("te_request_success", "Requests that were answered", "method")
        self._failures = counter("te_request_failure", "Requests that were answered with an error", "err")
        self._duration = histogram("te_request_duration", "Seconds of a request")
        self._tokenization = histogram("te_request_tokenization_duration", "Seconds of tokenising a request")
        self._queue = histogram("te_request_queue_duration", "Seconds that a request waited for a batch")
        self._inference = histogram("te_request_inference_duration", "Seconds of a request in batches")
        self._length = histogram("te_request_input_length", "Tokens of an input", _TOKENS)
        self._queries = counter("embedfit_search_queries", "Queries that were answered")
        self._empty = counter("embedfit_search_queries_without_hits", "Queries that found nothing")
        self._search = histogram("embedfit_search_duration", "Seconds of a request of /search")
        self._steps = Histogram(
            "embedfit_search_step_duration",
            "Seconds of a step of a search",
            ("step",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._rerank = histogram("embedfit_rerank_duration", "Seconds of a request of /rerank")
        self._reloads = counter("embedfit_reloads", "Reloads of the model and the index", "result")
        gauge("te_queue_size", "Rows that wait for a batch", lambda one: one.queued_rows)
        gauge("te_batch_next_size", "Rows of the last batch", lambda one: one.last_rows)
        gauge("te_batch_next_tokens", "Tokens of the last batch, padding included", lambda one: one.last_tokens)

    def received(self, method: str) -> None:
        """A request of a kind ("single", "batch", …) has come in."""
        self._requests.labels(method).inc()

    def succeeded(self, method: str) -> None:
        """The request was answered."""
        self._successes.labels(method).inc()

    def failed(self, label: str) -> None:
        """The request was answered with an error of a kind ("validation", "overloaded", …)."""
        self._failures.labels(label).inc()

    def computed(self, timing: Timing, seconds: float) -> None:
        """Vectors were computed; the whole request took so many seconds."""
        self._duration.observe(seconds)
        self._tokenization.observe(timing.tokenization)
        self._queue.observe(timing.queue)
        self._inference.observe(timing.inference)
        for length in timing.lengths:
            self._length.observe(length)

    def searched(self, queries: int, empty: int, seconds: float, steps: Mapping[str, float]) -> None:
        """A request of so many queries was answered; so many of them found nothing. steps: seconds of each step."""
        self._queries.inc(queries)
        self._empty.inc(empty)
        self._search.observe(seconds)
        for name, took in steps.items():
            self._steps.labels(name).observe(took)

    def reranked(self, seconds: float) -> None:
        """A request of /rerank was answered."""
        self._rerank.observe(seconds)

    def reloaded(self, *, worked: bool) -> None:
        """The model and the index were loaded again, or could not be."""
        self._reloads.labels("done" if worked else "failed").inc()

    def watch(self, log: QueryLog) -> None:
        """Show how many queries a log got."""
        for name, text, read in (
            ("embedfit_queries_logged", "Queries that --log-queries wrote", lambda: log.written),
            ("embedfit_queries_not_logged", "Queries that --log-queries could not write", lambda: log.dropped),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return _ADDED.sub(b"", generate_latest(self._registry))
