"""`embedfit benchmark`: any systems side by side on any BEIR folder."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embedfit.config import WINDOW_TOKENS
from embedfit.embedders.registry import PaidEmbedder, open_embedder, opened_embedders
from embedfit.errors import InputError, UsageError
from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.evaluation.measure import Group, Opened, measure, of_model, of_vectors, of_words
from embedfit.evaluation.summary import comparisons, systems_table
from embedfit.index.build import Source
from embedfit.index.retriever import BM25, RRF, Part, PartName, Retriever, single
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import Embedder
from embedfit.path.systems import parse
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.metrics import Convention
from embedfit.runtime import Runtime

Rows = Mapping[str, Retriever]

SCHEMA = 1
#: Before the name of a model that has a vector for every window of a passage.
WINDOWED = "windowed:"


def benchmark(
    models: Sequence[str],
    beir: str | Path,
    runtime: Runtime,
    *,
    draws: int = 2000,
    seed: int = 13,
    max_cost: float | None = None,
    windows: bool = False,
    window_tokens: int = WINDOW_TOKENS,
    convention: Convention = "sentence-transformers",
) -> dict[str, Any]:
    """Score systems (names as in embedfit.path.systems) on a BEIR folder's test queries.

    Every system reads the whole passages, each as far as its own window goes. windows: every model on this
    machine once more, "windowed:NAME" after "NAME", with a vector for every window of window_tokens of a
    passage, the best of which is its score; such names may be given too. The first system is what the
    others are compared with. max_cost: USD for paid systems. convention: how ties, grades and MAP are counted, see
    embedfit.retrieval.metrics; BEIR's own numbers are trec_eval's. Returns:

        {"schema": 1, "beir": …, "convention": …, "queries": N, "passages": N, "cluster_by": …,
         "systems": {name: {"metrics", "ci95", "model": {…}}}, "comparisons": [as in summary.json],
         "seconds": …}
    """
    if not models:
        raise UsageError("There is no model to benchmark.", remedy="For example: embedfit benchmark minilm bm25 …")
    if windows:
        models = [row for name in models for row in _with_windows(name) if row == name or row not in models]
    if len(set(models)) < len(models):
        raise UsageError("A model is named twice.", remedy="Name each model once.")
    for name in models:
        _check(name)
    folder = Path(beir)
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}.", remedy="Give a folder with corpus.jsonl, queries.jsonl, qrels/."
        )
    started = time.monotonic()
    eval_set = read_eval_set(folder, "human")
    for note in eval_set.notes:
        runtime.report.log(f"benchmark: {note}")
    if convention != "trec_eval" and len({grade for of_query in eval_set.relevant for grade in of_query.values()}) > 1:
        runtime.report.log(
            "benchmark: The judgements have grades. nDCG counts each relevant passage alike, as sentence-transformers "
            "does. For numbers to set beside BEIR's: --convention trec_eval"
        )
    with opened_embedders() as opened:
        groups = list(_groups(models, eval_set, runtime, max_cost, window_tokens, opened))
        found = measure(groups, eval_set, runtime.report, convention=convention)
        measured = {name: found[name] for name in models}
        described = {name: _described(embedder) for name, embedder in opened.items()}
    clusters, cluster_by = eval_set.clusters()
    rng = np.random.default_rng(seed)
    systems = systems_table(measured, clusters, draws=draws, rng=rng)
    pairs = [(name, models[0]) for name in models[1:]]
    return {
        "schema": SCHEMA,
        "beir": folder.name,
        "convention": convention,
        "queries": len(eval_set.queries),
        "passages": len(eval_set.passage_ids),
        "cluster_by": cluster_by,
        "systems": {name: {**table, "model": described.get(_embedder_of(name), {})} for name, table in systems.items()},
        "comparisons": comparisons(measured, pairs, clusters, draws=draws, rng=rng),
        "seconds": round(time.monotonic() - started, 3),
    }


def _dense(name: str) -> str:
    """The dense system of a hybrid, or the name itself."""
    return name.removeprefix("hybrid:")


def _embedder_of(name: str) -> str:
    """Whose vectors a system ranks by."""
    return _dense(name).removeprefix(WINDOWED)


def _with_windows(name: str) -> list[str]:
    dense = _dense(name)
    if dense.startswith(WINDOWED) or parse(dense).kind != "local":
        return [name]
    return [name, f"{name[: -len(dense)]}{WINDOWED}{dense}"]


def _check(name: str) -> None:
    """Raise UsageError for a name that is none."""
    dense = _dense(name)
    spec = parse(name.replace(WINDOWED, "", 1) if dense.startswith(WINDOWED) else name)
    if dense.startswith(WINDOWED) and spec.kind != "local":
        raise UsageError(f"{name!r}: windows are of a model on this machine.", remedy="For example: windowed:minilm")


def _groups(
    models: Sequence[str],
    eval_set: EvalSet,
    runtime: Runtime,
    max_cost: float | None,
    window_tokens: int,
    opened: dict[str, Embedder],
) -> Iterator[Group]:
    """The systems by embedder. opened: takes the embedders. Only rows of windows are of float16 vectors."""
    words = functools.cache(lambda: Bm25(eval_set.contents))
    if "bm25" in models:
        yield Group(open=lambda: of_words(words(), eval_set), rows={"bm25": BM25})
    dense = [name for name in models if name != "bm25"]
    for embedder in dict.fromkeys(map(_embedder_of, dense)):
        rows = {name: _retriever(name) for name in dense if _embedder_of(name) == embedder}
        plain = {name: row for name, row in rows.items() if not row.has("windows")}
        windowed = {name: row for name, row in rows.items() if row.has("windows")}

        def open_it(name: str = embedder) -> Embedder:
            if name not in opened:
                opened[name] = open_embedder(name, runtime, max_cost=max_cost)
            return opened[name]

        def open_plain(open_it: Callable[[], Embedder] = open_it, rows: Rows = plain) -> Opened:
            lexical = words if any(row.has("words") for row in rows.values()) else None
            return of_vectors(open_it(), eval_set, runtime.vectors, runtime.report, words=lexical)

        def open_windowed(open_it: Callable[[], Embedder] = open_it, rows: Rows = windowed) -> Opened:
            model = open_it()
            assert isinstance(model, LocalModel)  # _check has refused the others
            source = Source(contents=eval_set.contents)
            return of_model(
                model, source, rows, eval_set, runtime.vectors, runtime.report, words=words, window_tokens=window_tokens
            )

        if plain:
            yield Group(open=open_plain, rows=plain)
        if windowed:
            yield Group(open=open_windowed, rows=windowed)


def _retriever(name: str) -> Retriever:
    dense: PartName = "windows" if _dense(name).startswith(WINDOWED) else "one"
    if name == _dense(name):
        return single(name, dense)
    return replace(RRF, parts=(Part(name=dense, weight=0.5), Part(name="words", weight=0.5)))


def _described(embedder: Embedder) -> Mapping[str, Any]:
    """What decides a system's vectors, so that a result can be traced."""
    if isinstance(embedder, LocalModel):
        return {
            "vectors": embedder.key[:16],
            "query_instruction": embedder.layout.query_instruction,
            "max_tokens": embedder.layout.max_tokens,
        }
    if isinstance(embedder, PaidEmbedder):
        used = embedder.usage
        return {"calls": used.calls, "input_tokens": used.input_tokens, "usd": round(used.usd, 6)}
    return {}
