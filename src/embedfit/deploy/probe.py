"""The test of an endpoint: whether it gives the local model's vectors, and its speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedfit.deploy.account.calls import Aws
from embedfit.deploy.artefact import run_folder_of
from embedfit.embedders.sagemaker import sagemaker
from embedfit.index.retriever import DENSE_PARTS
from embedfit.index.scoring import Asked, Rows, Scores, find
from embedfit.index.store.folder import Stored, read
from embedfit.index.store.golden import LEAST_SAME, share_found
from embedfit.index.store.manifest import IN_RUN, is_index
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import Embedder
from embedfit.numerics.arrays import Vectors
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
class ProbeTexts:
    """The texts that are sent to an endpoint: each query with the passage that answers it."""

    queries: tuple[str, ...] = _QUERIES
    passages: tuple[str, ...] = _PASSAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The measurements.

    lowest_cosine, mean_cosine: between the endpoint's and the local vector of the same text, queries with the
    instruction, passages without. similar_mean, different_mean: cosines, by the endpoint, of queries with their own
    passage and with another one. separated: share of queries that are nearer to their own passage.
    texts_per_second: with all passages, in the largest requests that the endpoint takes. same_ten: the mean share of
    the ten best passages of a query in the run's index that are the same with the endpoint's vectors and with the local
    ones, by the first stage of its retriever; None if the run has no index of this model. golden: the share of the
    index' golden answers that are found with the endpoint's vectors; None if it has none.
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
    same_ten: float | None = None
    golden: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether endpoint and local model are the same model, and find the same."""
        shares = [one for one in (self.same_ten, self.golden) if one is not None]
        return self.lowest_cosine > LEAST_COSINE and all(one >= LEAST_SAME for one in shares)


def texts_of(model: Path, limit: int = 64) -> ProbeTexts:
    """Texts of the model's run folder, its test part first; built-in texts if there are none."""
    workspace = Workspace(run_folder_of(model))
    if not all(workspace.path(FILES[kind]).exists() for kind in (Query, Passage)):
        return ProbeTexts()
    passages = {one.passage_id: one.content for one in workspace.read(Passage)}
    kept = [one for one in written(workspace.read(Query)) if one.kept and one.passage_id in passages]
    kept.sort(key=lambda one: one.split != "test")
    by_passage = list({one.passage_id: one for one in reversed(kept)}.values())[::-1][:limit]
    if len(by_passage) < 2:
        return ProbeTexts()
    return ProbeTexts(
        queries=tuple(one.text for one in by_passage), passages=tuple(passages[one.passage_id] for one in by_passage)
    )


def probe(
    aws: Aws,
    endpoint: str,
    model: Path,
    texts: ProbeTexts,
    *,
    requests: int = 100,
    concurrency: int = 4,
    rows: int = 32,
    report: Reporter | None = None,
) -> ProbeResult:
    """Compare and time an endpoint against the model folder that it was made from.

    requests: how many, of one query each, are timed. rows: texts in one request at most; a lower limit of the container
    is found out. Raises CallError if the endpoint does not answer, ModelError if the folder can't be read.
    """
    report = report or Silent()
    report.log(f"loading {model} to compare with")
    local = LocalModel("local", model)
    # The text that the local model puts before a query or a passage, so that both see the same input.
    remote = sagemaker(
        endpoint,
        client=aws.client("sagemaker-runtime"),
        rows=rows,
        query_instruction=local.layout.query_instruction,
        document_instruction=local.layout.document_instruction,
        concurrency=concurrency,
    )
    query_vectors, passage_vectors = remote.embed(texts.queries, is_query=True), remote.embed(texts.passages)
    local_queries = local.embed(texts.queries, is_query=True)
    local_passages = local.embed(texts.passages, is_query=False)
    stored = _index_of(model, query_vectors.shape[1])
    agreement = np.concatenate([_cosines(local_queries, query_vectors), _cosines(local_passages, passage_vectors)])
    similar = _cosines(query_vectors, passage_vectors)
    different = _cosines(query_vectors, np.roll(passage_vectors, -1, axis=0))
    milliseconds = _latencies(remote, texts.queries, requests, report)
    p50, p95, p99 = map(float, np.percentile(milliseconds, [50, 95, 99]))
    return ProbeResult(
        endpoint=endpoint,
        queries=len(texts.queries),
        passages=len(texts.passages),
        dimensions=int(query_vectors.shape[1]),
        lowest_cosine=float(agreement.min()),
        mean_cosine=float(agreement.mean()),
        similar_mean=float(similar.mean()),
        different_mean=float(different.mean()),
        separated=float((similar > different).mean()),
        requests=requests,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=float(np.mean(milliseconds)),
        concurrency=concurrency,
        requests_per_second=_rate(remote, texts.queries, requests, concurrency),
        texts_per_second=_texts_a_second(remote, texts.passages),
        same_ten=_same_ten(stored, texts.queries, local_queries, query_vectors),
        golden=_golden(stored, remote),
    )


def _index_of(model: Path, width: int) -> Stored | None:
    """The run's index, if its vectors have so many numbers."""
    folder = run_folder_of(model) / IN_RUN
    if not is_index(folder):
        return None
    stored = read(folder)
    dense = [getattr(stored.parts, name) for name in DENSE_PARTS]
    widths = {one.vectors.shape[1] if isinstance(one, Rows) else one.shape[1] for one in dense if one is not None}
    return stored if widths == {width} else None  # words alone, or another model's


def _golden(stored: Stored | None, remote: Embedder) -> float | None:
    if stored is None or not stored.manifest.golden:
        return None
    golden = stored.manifest.golden
    vectors = remote.embed([one.query for one in golden], is_query=True)
    return share_found(stored.parts, stored.retriever, golden, vectors)


def _same_ten(stored: Stored | None, queries: Sequence[str], local: Vectors, remote: Vectors) -> float | None:
    """How alike the index ranks with both vectors of the queries. local, remote: (Q, H)."""
    if stored is None or local.shape != remote.shape:
        return None
    first = stored.retriever.without_tokens()
    ranked = [
        [one.passages.tolist() for one in find(Scores(stored.parts, Asked(texts=queries, vectors=vectors)), first, 10)]
        for vectors in (local, remote)
    ]
    shares = [len({*ours} & {*theirs}) / max(1, len(ours)) for ours, theirs in zip(*ranked, strict=True)]
    return float(np.mean(shares))


def _cosines(one: Vectors, other: Vectors) -> Vectors:
    """Cosines of unit rows: (N,). 0 if the widths differ, because that is another model."""
    return (one * other).sum(1) if one.shape == other.shape else np.zeros(len(one), np.float32)


def _latencies(remote: Embedder, queries: Sequence[str], requests: int, report: Reporter) -> list[float]:
    """Milliseconds of requests with one query each, one after the other."""
    taken = []
    with report.task("timing", requests, "requests") as task:
        for index in range(requests):
            started = time.perf_counter()
            remote.embed([queries[index % len(queries)]], is_query=True)
            taken.append((time.perf_counter() - started) * 1000)
            task.advance()
    return taken


def _rate(remote: Embedder, queries: Sequence[str], requests: int, concurrency: int) -> float:
    """Requests a second with so many at the same time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(lambda index: remote.embed([queries[index % len(queries)]], is_query=True), range(requests)))
    return requests / max(time.perf_counter() - started, 1e-9)


def _texts_a_second(remote: Embedder, passages: Sequence[str]) -> float:
    started = time.perf_counter()
    remote.embed(passages, is_query=False)
    return len(passages) / max(time.perf_counter() - started, 1e-9)
