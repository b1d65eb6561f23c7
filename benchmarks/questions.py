"""What a log of people's questions tells about an index: its constants, and how much words should weigh.

    python benchmarks/questions.py                             # all corpora with people's questions
    python benchmarks/questions.py --corpora emanual,stackfaq --no-windows

Of each corpus of $EMBEDFIT_DATA (default ../shared/data) half of the questions, without labels, are the log and the
others judge; at most 300 of each. Two questions are asked. Are constants from the log as good as those from the
passages' sentences? And does the sign, the share of a question's idf mass that BM25's best passage covers, averaged
over the log, tell the weight of words? For the second, each corpus' weight is chosen by a rule that the other corpora
fix (below a bound one weight, above it another), and compared with the default's weight of 4.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpora
import numpy as np

from embedfit.evaluation.evalset import EvalSet
from embedfit.files.atomic import atomic_file
from embedfit.index.build import Source, build
from embedfit.index.constants import deviations
from embedfit.index.retriever import DEFAULT, Retriever
from embedfit.index.scoring import Asked, Scores, find
from embedfit.models.local import local_model
from embedfit.progress import reporter_for
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import default_vectors

HERE = Path(__file__).parent
CORPORA = ("emanual", "stackfaq", "feedbackqa_cdc", "covid_qa", "annual_reports", "xquad_en")
MOST = 300
WEIGHTS = (0, 1, 2, 3, 4, 5, 6, 8, 10)


def retriever(windows: bool, words: float = 4.0) -> Retriever:
    """The default's first stage, with or without windows, with a weight of words."""
    plain = DEFAULT.without_tokens()
    parts = [
        replace(part, weight=words if part.name == "words" else part.weight if windows else 1.0)
        for part in plain.parts
        if windows or part.name != "windows"
    ]
    return replace(plain, parts=tuple(parts))


def sign(words: Bm25, contents: Sequence[str], log: Sequence[str]) -> float:
    """The share of a question's idf mass that stands in BM25's best passage, as a set of stems: mean over a log."""
    shares, stems = [], {}
    for question in log:
        terms = list(dict.fromkeys(words.analysis.query(question)))
        if not terms:
            continue
        best = int(words.scores(question).argmax())
        if best not in stems:
            stems[best] = set(words.analysis.query(contents[best]))
        idfs = [words.vocabulary.idf(term) for term in terms]
        shares.append(sum(idf for idf, term in zip(idfs, terms, strict=True) if term in stems[best]) / sum(idfs))
    return float(np.mean(shares))


def measured(corpus: str, *, windows: bool) -> dict[str, Any]:
    """nDCG@10 of every judging question by constants and by weight, the sign, and the clusters of the questions."""
    whole = corpora.corpus(corpus)
    numbers = list(range(len(whole.queries)))
    random.Random(11).shuffle(numbers)
    half = len(numbers) // 2
    log, eval_set = [whole.queries[n] for n in numbers[:half][:MOST]], corpora.only(whole, numbers[half:][:MOST])
    model, cache, report = local_model("minilm", "minilm"), default_vectors(), reporter_for(sys.stderr)
    plain = retriever(windows)
    built = build(Source(contents=eval_set.contents), model, plain, cache, report)

    def embed(texts: Sequence[str]) -> Any:  # noqa: ANN401 - an array
        return cache.embed(model, texts, is_query=True, report=report)

    scores = Scores(built.parts, Asked(texts=eval_set.queries, vectors=embed(eval_set.queries)))
    constants = {
        "sentences": {part.name: part.deviation for part in built.retriever.parts},
        "log": deviations(built.parts, eval_set.contents, embed, asked=log),
        "log of 50": deviations(built.parts, eval_set.contents, embed, asked=log[:50]),
    }
    assert isinstance(built.parts.words, Bm25)
    return {
        "constants": constants,
        "by_constants": {name: values(scores, plain.with_deviations(one), eval_set) for name, one in constants.items()},
        "by_weight": {
            weight: values(scores, retriever(windows, float(weight)).with_deviations(constants["sentences"]), eval_set)
            for weight in WEIGHTS
        },
        "sign": sign(built.parts.words, eval_set.contents, log),
        "clusters": corpora.clusters(eval_set),
    }


def values(scores: Scores, chosen: Retriever, eval_set: EvalSet) -> corpora.Values:
    """nDCG@10 of each question."""
    found = find(scores, chosen, 20)
    return corpora.ranked([[eval_set.passage_ids[row] for row in best.passages] for best in found], eval_set)


def against(one: corpora.Values, other: corpora.Values, clusters: corpora.Numbers) -> str:
    """The difference of two in points, with its 95% interval."""
    return corpora.points(corpora.difference(one, other, clusters))


def left_out(corpus: str, found: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """The weight that the sign gives a corpus by a rule of the other ones, and the best weight for those alike."""
    others = [name for name in found if name != corpus]
    means = {name: {w: float(found[name]["by_weight"][w].mean()) for w in WEIGHTS} for name in others}
    bounds = [0.0, *sorted(found[name]["sign"] for name in others)]

    def gained(rule: tuple[float, float, float]) -> float:
        bound, below, above = rule
        return sum(means[name][above if found[name]["sign"] > bound else below] for name in others)

    bound, below, above = max(itertools.product(bounds, WEIGHTS, WEIGHTS), key=gained)
    same = max(WEIGHTS, key=lambda weight: sum(means[name][weight] for name in others))
    return (above if found[corpus]["sign"] > bound else below), same


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpora", default=",".join(CORPORA), help="comma-separated")
    parser.add_argument("--no-windows", action="store_true", help="one vector and words alone, which is quicker")
    options = parser.parse_args()
    found = {name: measured(name, windows=not options.no_windows) for name in options.corpora.split(",")}
    rows = []
    for name, one in found.items():
        base, four = one["by_constants"]["sentences"], one["by_weight"][4]
        weight, same = left_out(name, found) if len(found) > 2 else (4, 4)
        row = {
            "corpus": name,
            "sentences": float(base.mean()),
            "log": against(one["by_constants"]["log"], base, one["clusters"]),
            "log of 50": against(one["by_constants"]["log of 50"], base, one["clusters"]),
            "sign": one["sign"],
            "best weight": max(WEIGHTS, key=lambda w, of=one: float(of["by_weight"][w].mean())),
            "by the sign": f"{weight}: {against(one['by_weight'][weight], four, one['clusters'])}",
            "one for all": f"{same}: {against(one['by_weight'][same], four, one['clusters'])}",
            "by weight": {str(w): float(one["by_weight"][w].mean()) for w in WEIGHTS},
        }
        rows.append(row)
        print(json.dumps(row))
    out = HERE / "results" / f"questions{'_one' if options.no_windows else ''}.json"
    with atomic_file(out) as file:
        json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
