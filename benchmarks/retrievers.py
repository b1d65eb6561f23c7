"""What each retriever finds, what it costs, and whether an index on disk finds the same.

    python benchmarks/retrievers.py --quick                # emanual, stackfaq, feedbackqa_cdc
    python benchmarks/retrievers.py                        # all corpora, and LlamaIndex's published Uber passages
    python benchmarks/retrievers.py --corpora emanual --model mpnet

For each corpus of $EMBEDFIT_DATA (default ../shared/data): nDCG@10 on every question of qrels/test.tsv, the difference
to the base's one vector with its 95% interval (paired bootstrap by cluster), bytes a passage, and milliseconds a query
(one at a time, median). Nothing is trained, and no question or label is read before the scores are taken. The index is
written, opened again and searched; `index - row` is the difference of its nDCG@10 to the row's, which must be 0. Where
a strong writer's queries lie beside a corpus (strong_queries.jsonl), the last row has them in the index. `holm` is the
p-value of the default against the base after Holm's correction over the corpora of the run.

The questions of 10k_published were written by GPT-3.5 (LlamaIndex's guide, validation set); all others are people's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from corpora import corpus, covering, difference, holm, ranked

from embedfit.evaluation.evalset import EvalSet
from embedfit.files.atomic import atomic_file
from embedfit.index import retriever as retrievers
from embedfit.index.build import Built, Source, build
from embedfit.index.retriever import Retriever
from embedfit.index.scoring import Scores, find
from embedfit.index.search import Asker, Index
from embedfit.index.store.folder import Origin, write
from embedfit.index.store.manifest import Identity
from embedfit.models.local import LocalModel, local_model
from embedfit.numerics.machine import cores, encoding_precision, gemm_rate
from embedfit.path.artefacts import Passage
from embedfit.progress import reporter_for
from embedfit.runtime import default_vectors

HERE = Path(__file__).parent
CORPORA = ("emanual", "stackfaq", "feedbackqa_cdc", "annual_reports", "covid_qa", "xquad_en", "10k_published")
QUICK = CORPORA[:3]
TIMED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A retriever on a corpus. values: (Q,) nDCG@10; hits: (Q,) hit@5."""

    name: str
    values: np.ndarray[Any, np.dtype[np.float64]]
    hits: np.ndarray[Any, np.dtype[np.float64]]
    bytes_a_passage: float
    ms: float


def sizes(built: Built) -> dict[str, float]:
    """Bytes a passage of each part."""
    parts = built.parts
    found = {"one": parts.one.nbytes if parts.one is not None else 0}
    for name in ("windows", "queries", "tokens"):
        rows = getattr(parts, name)
        found[name] = rows.vectors.nbytes + rows.starts.nbytes if rows is not None else 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("words", "words_and_queries"):
            words = getattr(parts, name)
            if words is not None:
                words.save(Path(folder) / name)
                found[name] = sum(path.stat().st_size for path in (Path(folder) / name).rglob("*"))
    return {name: count / parts.size for name, count in found.items()}


def measure(retriever: Retriever, built: Built, asker: Asker, eval_set: EvalSet) -> Row:
    """All questions of a corpus, in blocks; TIMED of them once more, one at a time."""
    chosen = retriever.with_deviations({part.name: part.deviation for part in built.retriever.parts})
    found = []
    for start in range(0, len(eval_set.queries), 64):
        scores = Scores(built.parts, asker.ask(eval_set.queries[start : start + 64]))
        found += [best.passages for best in find(scores, chosen, 20)]
    took = []
    for query in eval_set.queries[:TIMED]:
        started = time.perf_counter()
        find(Scores(built.parts, asker.ask([query])), chosen, 10)
        took.append(1000 * (time.perf_counter() - started))
    each = sizes(built)
    names = [part.name for part in retriever.parts] + (["tokens"] if retriever.rerank else [])
    rankings = [[eval_set.passage_ids[number] for number in row] for row in found]
    return Row(
        name=retriever.name, values=ranked(rankings, eval_set), hits=ranked(rankings, eval_set, "hit@5"),
        bytes_a_passage=sum(each[name] for name in names),
        ms=statistics.median(took),
    )  # fmt: skip


def on_disk(built: Built, model: LocalModel, name: str, eval_set: EvalSet) -> float:
    """Mean nDCG@10 of the index after it was written and opened again."""
    passages = [
        Passage(passage_id=identifier, document_id=document, title=title, text=text)
        for identifier, document, title, text in zip(
            eval_set.passage_ids, eval_set.documents, eval_set.titles, eval_set.texts, strict=True
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        identity = Identity(name=name, key=model.key, instruction=model.instruction)
        write(Path(folder), built, passages, Origin(model=identity))
        hits = list(Index.open(folder).search_all(eval_set.queries, 20))
    return float(ranked([[hit.passage_id for hit in row] for row in hits], eval_set).mean())


def rows_of(corpus_name: str, name: str) -> Iterator[dict[str, Any]]:
    """Every retriever on one corpus, as a row of the result."""
    report = reporter_for(sys.stderr)
    eval_set = corpus(corpus_name)
    model = local_model(name, name)
    started = time.perf_counter()
    built = build(Source(contents=eval_set.contents), model, retrievers.DEFAULT, default_vectors(), report)
    seconds = time.perf_counter() - started
    asker = Asker(model, built.tokens)
    plain = replace(retrievers.DEFAULT.without_tokens(), name="default, one stage")
    systems = (retrievers.BASE, retrievers.WINDOWS, retrievers.BM25, retrievers.RRF, plain, retrievers.DEFAULT)
    rows = [measure(system, built, asker, eval_set) for system in systems]
    disk = {"default": on_disk(built, model, name, eval_set)}
    written = covering(corpus_name, eval_set.passage_ids)
    if written is not None:
        more = build(
            Source(contents=eval_set.contents, queries=written), model, retrievers.EXPANDED, default_vectors(), report
        )
        rows.append(measure(retrievers.EXPANDED, more, Asker(model, more.tokens), eval_set))
        disk["expanded"] = on_disk(more, model, name, eval_set)
    clusters, _ = eval_set.clusters()
    for row in rows:
        yield {
            "corpus": corpus_name,
            "retriever": row.name,
            "passages": len(eval_set.passage_ids),
            "queries": len(eval_set.queries),
            "ndcg@10": float(row.values.mean()),
            "hit@5": float(row.hits.mean()),
            **difference(row.values, rows[0].values, clusters),
            "bytes_a_passage": row.bytes_a_passage,
            "ms_a_query": row.ms,
            "index_minus_row": disk[row.name] - float(row.values.mean()) if row.name in disk else None,
            "build_s": seconds if row.name == "default" else None,
        }


def corrected(rows: Sequence[dict[str, Any]]) -> None:
    """Give each row of the default `holm`: Holm's corrected p-value over the corpora (Holm 1979)."""
    tested = [row for row in rows if row["retriever"] == "default"]
    for row, p_value in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["holm"] = p_value


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table, for people."""
    print(f"{'corpus':16}{'retriever':22}{'nDCG@10':>8}{'hit@5':>7}  {'points against the base':26}{'B/passage':>10}"
          f"{'ms':>7}  index - row")  # fmt: skip
    for row in rows:
        low, high = (100 * bound for bound in row["ci95"])
        points = f"{100 * row['delta']:+.1f} [{low:+.1f}, {high:+.1f}]"
        disk = "" if row["index_minus_row"] is None else f"{row['index_minus_row']:+.1e}"
        print(f"{row['corpus']:16}{row['retriever']:22}{row['ndcg@10']:8.3f}{row['hit@5']:7.3f}  {points:26}"
              f"{row['bytes_a_passage']:10,.0f}{row['ms_a_query']:7.1f}  {disk}")  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} alone")
    parser.add_argument("--corpora", help="comma-separated")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    names = options.corpora.split(",") if options.corpora else QUICK if options.quick else CORPORA
    load = os.getloadavg()[0]
    rows = [row for name in names for row in rows_of(name, options.model)]
    corrected(rows)
    show(rows)
    ours = [row for row in rows if row["retriever"] == "default"]
    print(f"default: mean {100 * statistics.mean(row['delta'] for row in ours):+.1f} points over {len(ours)} corpora, "
          f"worst {100 * min(row['delta'] for row in ours):+.1f}")  # fmt: skip
    result = {
        "rows": rows,
        "model": options.model,
        "versions": {name: version(name) for name in ("embedfit", "torch", "transformers", "numpy", "bm25s")},
        "hardware": {
            "machine": platform.machine(), "cores": cores(), "gemm_tflops": gemm_rate("fp32") / 1e12,
            "precision": encoding_precision(), "load_at_start": load, "load_at_end": os.getloadavg()[0],
        },
    }  # fmt: skip
    out = options.out or HERE / "results" / f"retrievers{'_quick' if options.quick else ''}_{options.model}.json"
    with atomic_file(out) as file:
        json.dump(result, file, indent=1)
    print(out)


if __name__ == "__main__":
    main()
