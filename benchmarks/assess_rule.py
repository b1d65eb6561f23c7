"""What an untrained retriever shows about the gain by tuning: the figures behind `embedfit assess`.

For each corpus, with MiniLM untrained: nDCG@10 of one vector, of the same with windows and words (one stage), of BM25;
the gap between the first two with its interval; the share of a question that BM25's best passage covers; by people's
questions and by a strong writer's. docs/recipe.md holds these figures beside what tuning gained.

    python benchmarks/assess_rule.py --quick            two corpora, 100 questions each
    python benchmarks/assess_rule.py --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from corpora import DATA

from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.evaluation.measure import Group, measure, of_model, of_words
from embedfit.files.textfiles import json_lines
from embedfit.index.build import Source
from embedfit.index.retriever import BASE, BM25, DEFAULT
from embedfit.models.local import local_model
from embedfit.path.artefacts import METRIC
from embedfit.progress import reporter_for
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.significance import compare
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import covered

CORPORA = ("emanual", "annual_reports", "feedbackqa_cdc", "stackfaq", "covid_qa")
STYLES = ("question", "conversational")


def drawn(eval_set: EvalSet, count: int) -> EvalSet:
    """The evaluation set with at most `count` of its questions, evenly spaced."""
    step = max(1, -(-len(eval_set.query_ids) // count))
    return replace(
        eval_set,
        **{name: getattr(eval_set, name)[::step] for name in ("query_ids", "queries", "styles", "relevant")},
    )


def written(eval_set: EvalSet, path: Path, count: int) -> EvalSet:
    """The same passages with a strong writer's questions, each answered by its passage."""
    found = [
        (f"{row['id']}#{style}", str(row[style]), style, {str(row["id"]): 1.0})
        for _, row in json_lines(path)
        for style in STYLES
        if row.get(style) and str(row["id"]) in eval_set.numbers
    ]
    ids, texts, styles, relevant = (tuple(column) for column in zip(*found, strict=True))
    return drawn(replace(eval_set, query_ids=ids, queries=texts, styles=styles, relevant=relevant), count)


def measured(eval_set: EvalSet, runtime: Runtime, seed: int) -> dict[str, object]:
    """The figures of one set of questions."""
    words = Bm25(eval_set.contents)
    model = local_model("minilm", "minilm")
    rows = {"one": BASE, "fused": DEFAULT.without_tokens()}
    source = Source(contents=eval_set.contents)
    groups = [
        Group(open=lambda: of_model(model, source, rows, eval_set, runtime, words=lambda: words), rows=rows),
        Group(open=lambda: of_words(words, eval_set), rows={"bm25": BM25}),
    ]
    found = measure(groups, eval_set, runtime.report)
    clusters, by = eval_set.clusters()
    columns = {name: one.column(METRIC) for name, one in found.items()}
    rng = np.random.default_rng(seed)
    gap = compare(columns["fused"][:, None], columns["one"][:, None], clusters, rng=rng)[0]
    return {
        "questions": len(eval_set.queries),
        "clusters": f"{gap.clusters} {by}s",
        **{name: round(float(values.mean()), 4) for name, values in columns.items()},
        "gap": round(gap.delta, 4),
        "gap_ci95": [round(one, 4) for one in gap.ci95],
        "covered": round(covered(eval_set.contents, eval_set.queries), 4),
    }


def main(arguments: Sequence[str] | None = None) -> Mapping[str, object]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--corpora", default=",".join(CORPORA))
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    count = 100 if options.quick else options.questions
    runtime = Runtime(report=reporter_for(sys.stderr))
    result: dict[str, object] = {}
    for name in ("emanual", "stackfaq") if options.quick else options.corpora.split(","):
        folder = DATA / name
        whole = read_eval_set(folder, "human")
        found = {"passages": len(whole.passage_ids), "people": measured(drawn(whole, count), runtime, 13)}
        if (folder / "strong_queries.jsonl").is_file():
            found["written"] = measured(written(whole, folder / "strong_queries.jsonl", count), runtime, 13)
        result[name] = found
        print(json.dumps({name: found}), flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return result


if __name__ == "__main__":
    main()
