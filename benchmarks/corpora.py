"""The corpora that benchmarks share: passages, people's questions, a log and a judging half, a strong writer's queries.

They lie in $EMBEDFIT_DATA (default ../shared/data). 10k_published is LlamaIndex's guide: to judge, Uber's passages with
GPT-3.5's questions; to train, Lyft's passages with GPT-3.5's questions. Every other corpus has people's. A tuned model
is judged with `judged`, which is the code that search uses, and two systems are compared with `difference`.
"""

from __future__ import annotations

import functools
import json
import os
import random
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.files.atomic import atomic_file
from embedfit.files.beir import write_beir
from embedfit.files.llamaindex import read_llamaindex
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.index.build import Source, build
from embedfit.index.retriever import Retriever, union
from embedfit.index.scoring import Scores, find
from embedfit.index.search import Asker
from embedfit.llm.providers.recorded import read_rows
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.progress import Reporter, Silent
from embedfit.retrieval.metrics import judge, score
from embedfit.retrieval.significance import bootstrap_means, compare, interval
from embedfit.runtime import default_vectors

DATA = Path(os.environ.get("EMBEDFIT_DATA") or Path(__file__).resolve().parent.parent.parent / "shared" / "data")
#: The seed of ../shared/data/halves.py.
HALVES = 11
METRIC = "ndcg@10"
PUBLISHED = "10k_published"

Values = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """People's questions of a corpus in two halves.

    log: questions without labels. judging: the corpus with the other half's questions. apart: (Q,) whether a judging
    question shares no relevant passage with the log; what is gained on such questions is not remembered.
    """

    log: tuple[str, ...]
    judging: EvalSet
    apart: npt.NDArray[np.bool_]


def corpus(name: str) -> EvalSet:
    """A corpus with all of its questions: `contents`, `queries` and `relevant`, among others."""
    return _published("val") if name == PUBLISHED else read_eval_set(DATA / name, "human")


def known(name: str, own: EvalSet) -> EvalSet:
    """The passages from which a model is tuned for a corpus: its own, but Lyft's for 10k_published."""
    return _published("train") if name == PUBLISHED else own


def _published(half: str) -> EvalSet:
    with tempfile.TemporaryDirectory() as folder:
        write_beir(Path(folder), read_llamaindex(DATA / PUBLISHED / f"{half}_dataset.json"))
        return read_eval_set(Path(folder), "human")


def only(whole: EvalSet, queries: Sequence[int]) -> EvalSet:
    """The corpus with some of its questions, in the order given."""
    return replace(
        whole,
        query_ids=tuple(whole.query_ids[row] for row in queries),
        queries=tuple(whole.queries[row] for row in queries),
        styles=tuple(whole.styles[row] for row in queries),
        relevant=tuple(whole.relevant[row] for row in queries),
    )


def halves(name: str) -> Halves:
    """The halves that ../shared/data/halves.py makes."""
    return halves_of(corpus(name))


def halves_of(whole: EvalSet) -> Halves:
    """The halves of a corpus' questions by the rule of ../shared/data/halves.py."""
    order = sorted(range(len(whole.queries)), key=whole.query_ids.__getitem__)
    random.Random(HALVES).shuffle(order)
    log, judging = order[: len(order) // 2], order[len(order) // 2 :]
    seen = {passage for row in log for passage in whole.relevant[row]}
    return Halves(
        log=tuple(" ".join(whole.queries[row].split()) for row in log),
        judging=only(whole, judging),
        apart=np.array([not seen & whole.relevant[row].keys() for row in judging]),
    )


def part(name: str, folder: Path, passages: int) -> EvalSet:
    """Write some passages of a corpus, by seed, and the questions that they answer, as a BEIR folder, and read it."""
    whole = corpus(name)
    ids = set(random.Random(HALVES).sample(sorted(whole.passage_ids), min(passages, len(whole.passage_ids))))
    entries = {
        key: Entry(text=text, title=title)
        for key, title, text in zip(whole.passage_ids, whole.titles, whole.texts, strict=True)
        if key in ids
    }
    qrels: dict[str, dict[str, float]] = {
        query: {key: 1.0 for key in relevant if key in ids}
        for query, relevant in zip(whole.query_ids, whole.relevant, strict=True)
        if ids & relevant.keys()
    }
    texts = dict(zip(whole.query_ids, whole.queries, strict=True))
    write_beir(folder, RetrievalData(corpus=entries, queries={key: texts[key] for key in qrels}, qrels=qrels))
    return read_eval_set(folder, "human")


def strong_file(name: str) -> Path:
    """The queries that a strong writer wrote, in the form of `--generator recorded:FILE`."""
    return _published_queries() if name == PUBLISHED else DATA / name / "strong_queries.jsonl"


@functools.cache
def _published_queries() -> Path:
    """GPT-3.5's two questions of each of Lyft's passages. Their form is one, so the styles are names alone."""
    path = Path(platformdirs.user_cache_dir("embedfit")) / "benchmarks" / f"{PUBLISHED}.jsonl"
    train = _published("train")
    asked: dict[str, list[str]] = {}
    for query, relevant in zip(train.queries, train.relevant, strict=True):
        for key in relevant:
            asked.setdefault(key, []).append(query)
    with atomic_file(path) as file:
        for key, (first, *others) in asked.items():
            last = others[-1] if others else first
            row = {"id": key, "question": first, "keywords": last, "conversational": first, "problem": last}
            file.write(json.dumps(row) + "\n")
    return path


def strong(name: str) -> dict[str, list[str]]:
    """The strong writer's queries of each passage; a passage without any is not among them."""
    queries: dict[str, list[str]] = {}
    for key, rows in read_rows(strong_file(name)).items():
        found = [query for row in rows for query in row.queries.values()]
        if found:
            queries[key] = found
    return queries


def covering(name: str, ids: Sequence[str], share: float = 0.95) -> list[list[str]] | None:
    """The strong writer's queries of passages in their order; None if fewer than `share` of them have any."""
    if not strong_file(name).exists():
        return None
    of = strong(name)
    found = [of.get(key, []) for key in ids]
    return found if sum(map(bool, found)) >= share * len(ids) else None


def ranked(rankings: Sequence[Sequence[str]], questions: EvalSet, metric: str = METRIC) -> Values:
    """(Q,) values of rankings of passage ids, best first. As in BEIR, no query finds the passage of its own id."""
    others = [[one for one in ids if one != query] for ids, query in zip(rankings, questions.query_ids, strict=True)]
    return score(judge(others, questions.relevant), (metric,))[metric]


def judged(
    questions: EvalSet,
    model: LocalModel,
    retrievers: Collection[Retriever],
    *,
    written: Sequence[Sequence[str]] = (),
    store: VectorStore | None = None,
    report: Reporter | None = None,
) -> dict[str, Values]:
    """The nDCG@10 (Q,) of each retriever over a model, by the retriever's name.

    written: the written queries of each passage; retrievers over an index with them and without them need two calls.
    store: keeps vectors; default: the user's.
    """
    source = Source(contents=questions.contents, queries=written)
    built = build(source, model, union(retrievers), store or default_vectors(), report or Silent())
    deviations: dict[str, float] = {one.name: one.deviation for one in built.retriever.parts}
    known = [one.with_deviations(deviations if len(one.parts) > 1 else {}) for one in retrievers]
    found: dict[str, list[list[str]]] = {one.name: [] for one in known}
    asker = Asker(model, built.tokens)
    for start in range(0, len(questions.queries), 64):
        scores = Scores(built.parts, asker.ask(questions.queries[start : start + 64]))
        for one in known:
            best = find(scores, one, 20)
            found[one.name] += [[questions.passage_ids[number] for number in row.passages] for row in best]
    model.release()
    return {name: ranked(rankings, questions) for name, rankings in found.items()}


def clusters(questions: EvalSet) -> Numbers:
    """(Q,) the cluster of each question: its document, or its passage where documents are few."""
    return questions.clusters()[0]


def difference(a: Values, b: Values, of: Numbers) -> dict[str, Any]:
    """The mean of a - b with its 95% interval and p: paired, by clusters `of` the questions. a, b, of: (Q,)."""
    found = compare(a[:, None], b[:, None], of, rng=np.random.default_rng(0))[0]
    return {"delta": found.delta, "ci95": list(found.ci95), "p_value": found.p_value}


def mean_difference(pairs: Sequence[tuple[Values, Values, Numbers]]) -> dict[str, Any]:
    """The mean over corpora of a - b. Each corpus is (a, b, clusters) and weighs the same.

    The interval comes from resamples within each corpus: it takes the corpora as given.
    """
    rng = np.random.default_rng(0)
    deltas = [(a - b, of) for a, b, of in pairs]
    draws = [bootstrap_means(delta[:, None], of, draws=2000, rng=rng) for delta, of in deltas]
    fewest = min(len(np.unique(of)) for _, of in deltas)
    low, high = interval(np.mean(draws, axis=0), fewest, bounds=(-1.0, 1.0))[0]
    return {"delta": float(np.mean([delta.mean() for delta, _ in deltas])), "ci95": [float(low), float(high)]}


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for several comparisons (Holm 1979), in the order given."""
    result, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        result[place] = highest
    return result


def points(found: Mapping[str, Any] | None) -> str:
    """A difference in points with its interval, for a table."""
    if found is None:
        return "–"
    low, high = found["ci95"]
    return f"{100 * found['delta']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
