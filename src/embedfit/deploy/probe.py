"""Does an endpoint give the local model's vectors, and how fast?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedfit.deploy.account.calls import Aws
from embedfit.deploy.artefact import run_folder_of
from embedfit.embedders.sagemaker import sagemaker
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import Embedder
from embedfit.path.artefacts import Passage, Query, written
from embedfit.path.workspace import FILES, Workspace
from embedfit.progress import Reporter, Silent

#: The least cosine between the endpoint's and the local vector of a text. Half precision on a GPU stays above it.
LEAST_COSINE = 0.999

_QUERIES = (
    "how do I reset the device to factory settings",
    "revenue growth compared with last year",
    "what is covered by the warranty",
    "connect a second display",
    "side effects of the medication",
    "when does the contract end",
    "opening hours on public holidays",
    "steps to change a password",
)
_PASSAGES = (
    "To restore the factory settings, open the menu, choose System, then Reset, and confirm with OK.",
    "Revenue rose by 12% over the previous year, driven by higher volumes in all three segments.",
    "The warranty covers defects in material and workmanship for two years from the date of purchase.",
    "Plug the second display into the USB-C port and choose Extend in the display settings.",
    "Common side effects are headache, tiredness and nausea; tell your doctor if they do not go away.",
    "This agreement ends on 31 December unless it is renewed in writing by both parties.",
    "On public holidays the counter is open from ten to four.",
    "Open your profile, choose Security, enter the old password once and the new one twice.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds of a request with one query."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What was measured.

    lowest_cosine, mean_cosine: between the endpoint's and the local vector of the same text, queries with the
    instruction, passages without. similar_mean, different_mean: cosines, by the endpoint, of queries with their own
    passage and with another one. separated: share of queries that are nearer to their own passage.
    texts_per_second: of all passages in as large requests as the endpoint takes.
    """

    endpoint: str
    queries: int
    passages: int
    dimensions: int
    lowest_cosine: float
    mean_cosine: float
    similar_mean: float
    different_mean: float
    separated: float
    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    concurrency: int
    requests_per_second: float
    texts_per_second: float

    @property
    def agrees(self) -> bool:
        """Whether endpoint and local model are the same model."""
        return self.lowest_cosine > LEAST_COSINE


def texts_of(model: Path, limit: int = 64) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Queries, passages and their pairs (row of query, row of passage) to probe with.

    From the model's run folder, test part first; a few built-in ones where it has none.
    """
    built_in = tuple((index, index) for index in range(len(_QUERIES)))
    workspace = Workspace(run_folder_of(model))
    if not all(workspace.path(FILES[kind]).exists() for kind in (Query, Passage)):
        return _QUERIES, _PASSAGES, built_in
    passages = {one.passage_id: one.content for one in workspace.read(Passage)}
    kept = [one for one in written(workspace.read(Query)) if one.kept and one.passage_id in passages]
    kept.sort(key=lambda one: one.split != "test")
    by_passage = list({one.passage_id: one for one in reversed(kept)}.values())[::-1][:limit]
    if len(by_passage) < 2:
        return _QUERIES, _PASSAGES, built_in
    return (
        tuple(one.text for one in by_passage),
        tuple(passages[one.passage_id] for one in by_passage),
        tuple((index, index) for index in range(len(by_passage))),
    )


def probe(
    aws: Aws,
    endpoint: str,
    model: Path,
    *,
    queries: Sequence[str],
    passages: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    requests: int = 100,
    concurrency: int = 4,
    report: Reporter | None = None,
    rows: int = 32,
    clock: Callable[[], float] = time.perf_counter,
) -> ProbeResult:
    """Compare and time an endpoint against the model folder that it was made from.

    rows: texts in one request at most; a lower limit of the container is found out. Raises CallError where the
    endpoint does not answer, ModelError where the folder can't be read.
    """
    report = report or Silent()
    report.log(f"loading {model} to compare with")
    local = LocalModel("local", model)
    # The very text that the local model puts before a query or a passage, so that both see the same input.
    remote = sagemaker(
        endpoint,
        client=aws.client("sagemaker-runtime"),
        rows=rows,
        query_instruction=local.layout.query_instruction,
        document_instruction=local.layout.document_instruction,
        concurrency=concurrency,
    )
    agreement = _cosines(local, remote, queries, passages)
    query_vectors, passage_vectors = remote.embed(queries, is_query=True), remote.embed(passages)
    similar, different = _pair_cosines(query_vectors, passage_vectors, pairs)
    latency = _latency(remote, queries, requests, clock, report)
    rate = _rate(remote, queries, requests, concurrency, clock)
    started = clock()
    remote.embed(passages)
    seconds = max(clock() - started, 1e-9)
    return ProbeResult(
        endpoint=endpoint,
        queries=len(queries),
        passages=len(passages),
        dimensions=int(query_vectors.shape[1]),
        lowest_cosine=float(agreement.min()),
        mean_cosine=float(agreement.mean()),
        similar_mean=float(similar.mean()),
        different_mean=float(different.mean()),
        separated=float((similar > different).mean()),
        requests=requests,
        p50_ms=latency.p50_ms,
        p95_ms=latency.p95_ms,
        p99_ms=latency.p99_ms,
        mean_ms=latency.mean_ms,
        concurrency=concurrency,
        requests_per_second=rate,
        texts_per_second=len(passages) / seconds,
    )


def _cosines(
    local: Embedder, remote: Embedder, queries: Sequence[str], passages: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Cosine of the two vectors of each text: (Q + N,)."""
    parts = []
    for texts, is_query in ((queries, True), (passages, False)):
        ours, theirs = local.embed(texts, is_query=is_query), remote.embed(texts, is_query=is_query)
        if ours.shape != theirs.shape:
            return np.zeros(len(queries) + len(passages), np.float32)  # another model altogether
        parts.append((ours * theirs).sum(1))
    return np.concatenate(parts)


def _pair_cosines(
    queries: npt.NDArray[np.float32], passages: npt.NDArray[np.float32], pairs: Sequence[tuple[int, int]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines of each pair, and of its query with the next pair's passage."""
    rows = np.asarray(pairs)
    similar = (queries[rows[:, 0]] * passages[rows[:, 1]]).sum(1)
    different = (queries[rows[:, 0]] * passages[np.roll(rows[:, 1], 1)]).sum(1)
    return similar, different


def _latency(
    remote: Embedder, queries: Sequence[str], requests: int, clock: Callable[[], float], report: Reporter
) -> Latency:
    taken = []
    with report.task("timing", requests, "requests") as task:
        for index in range(requests):
            started = clock()
            remote.embed([queries[index % len(queries)]], is_query=True)
            taken.append((clock() - started) * 1000)
            task.advance()
    p50, p95, p99 = np.percentile(taken, [50, 95, 99])
    return Latency(p50_ms=float(p50), p95_ms=float(p95), p99_ms=float(p99), mean_ms=float(np.mean(taken)))


def _rate(
    remote: Embedder, queries: Sequence[str], requests: int, concurrency: int, clock: Callable[[], float]
) -> float:
    """Requests a second with so many at the same time."""
    started = clock()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(lambda index: remote.embed([queries[index % len(queries)]], is_query=True), range(requests)))
    return requests / max(clock() - started, 1e-9)
