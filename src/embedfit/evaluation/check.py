"""The stage `check`: a quick local test that similar texts are closer than different ones, before and after tuning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import StrictBool, ValidationError

from embedfit.config import Config
from embedfit.errors import CheckFailed, InputError
from embedfit.files.textfiles import json_lines
from embedfit.models.local import LocalModel, base_model
from embedfit.models.store.vectors import Embedder, VectorStore
from embedfit.numerics.arrays import Doubles
from embedfit.path.artefacts import CheckedPair, CheckResult, Passage, Query, Separation, Whole, written
from embedfit.path.workspace import Workspace
from embedfit.progress import Reporter
from embedfit.runtime import Runtime

_KEPT_PAIRS = 200
_KEPT_CHARACTERS = 300
_FORM = 'A line is {"query": "…", "passage": "…", "similar": true}; give similar and different pairs.'


class CheckPair(Whole):
    """A query, a passage, and whether they belong together. One line of check.pairs."""

    query: str
    passage: str
    similar: StrictBool


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write check.json. Raises CheckFailed if similar pairs don't score above different ones after tuning."""
    merged = workspace.existing("merged")
    if config.check.pairs:
        pairs, source = read_pairs(Path(config.check.pairs)), Path(config.check.pairs).name
    else:
        queries, passages = written(workspace.read(Query)), workspace.read(Passage)
        split, pairs = draw_pairs(queries, passages, config.check.count, rng=np.random.default_rng(config.seed))
        source = f"{split} queries"
    if not pairs:
        workspace.store(CheckResult(passed=None, verdict="There were no pairs to check."))
        runtime.report.log("check: no pairs to check: no query was kept, or there is a single passage")
        return
    models: dict[str, Embedder] = {"base": base_model(config), "merged": LocalModel("merged", merged)}
    cosines = {name: pair_cosines(model, pairs, runtime.vectors, runtime.report) for name, model in models.items()}
    similar = np.array([pair.similar for pair in pairs])
    systems = {name: separation(values[similar], values[~similar]) for name, values in cosines.items()}
    passed, verdict = verdict_on(systems)
    kept = [
        CheckedPair(
            query=pair.query,
            passage=pair.passage[:_KEPT_CHARACTERS],
            similar=pair.similar,
            base=round(float(cosines["base"][number]), 6),
            merged=round(float(cosines["merged"][number]), 6),
        )
        for number, pair in enumerate(pairs[:_KEPT_PAIRS])
    ]
    workspace.store(CheckResult(passed=passed, verdict=verdict, source=source, systems=systems, pairs=tuple(kept)))
    runtime.report.log(f"check: {verdict}")
    if not passed:
        raise CheckFailed(
            f"The check failed: {verdict}",
            remedy=f"See {workspace.path('check.json')}. Other pairs: --set check.pairs=FILE; another model:"
            f" embedfit train --run {workspace.root} --force --set train.learning_rate=1e-5",
        )


def read_pairs(path: Path) -> list[CheckPair]:
    """The user's pairs. Raises InputError with file and line, or if similar or different pairs are missing."""
    if not path.is_file():
        raise InputError(f"The file of pairs {path} is missing.", remedy=_FORM)
    pairs = []
    for number, record in json_lines(path):
        try:
            pairs.append(CheckPair.model_validate(record))
        except ValidationError as error:
            wrong = error.errors()[0]
            raise InputError(f"{path}, line {number}: {wrong['loc'][0]}: {wrong['msg']}.", remedy=_FORM) from error
    kinds = {pair.similar for pair in pairs}
    if kinds != {True, False}:
        lacking = "pairs" if not kinds else "different pairs" if True in kinds else "similar pairs"
        raise InputError(f"{path} holds no {lacking}.", remedy=_FORM)
    return pairs


def draw_pairs(
    queries: Iterable[Query], passages: Sequence[Passage], count: int, *, rng: np.random.Generator
) -> tuple[str, list[CheckPair]]:
    """Similar and different pairs, at most `count` of each. Returns (split, pairs).

    The queries are dev queries or, without any, train queries. A query's similar passage is its source; its different
    one is drawn from the other documents or, in a corpus of one document, from the other passages.
    """
    by_id = {passage.passage_id: passage for passage in passages}
    kept = [query for query in queries if query.kept and query.passage_id in by_id]
    split = next((name for name in ("dev", "train", "test") if any(query.split == name for query in kept)), "dev")
    candidates = [query for query in kept if query.split == split]
    chosen = [candidates[index] for index in sorted(rng.permutation(len(candidates))[:count].tolist())]
    pairs = []
    for query in chosen:
        source = by_id[query.passage_id]
        other = _other_passage(query, source, passages, rng)
        if other is not None:
            pairs.append(CheckPair(query=query.text, passage=source.content, similar=True))
            pairs.append(CheckPair(query=query.text, passage=other.content, similar=False))
    return split, pairs


def _other_passage(
    query: Query, source: Passage, passages: Sequence[Passage], rng: np.random.Generator
) -> Passage | None:
    answers = {query.passage_id, *query.also_relevant}

    def fits(passage: Passage) -> bool:
        return passage.passage_id not in answers and passage.content != source.content

    # A random passage is nearly always of another document; only a corpus of one document needs the second look.
    for _ in range(20):
        passage = passages[int(rng.integers(len(passages)))]
        if fits(passage) and passage.document_id != source.document_id:
            return passage
    others = [passage for passage in passages if fits(passage)]
    return others[int(rng.integers(len(others)))] if others else None


def pair_cosines(embedder: Embedder, pairs: Sequence[CheckPair], cache: VectorStore, report: Reporter) -> Doubles:
    """Cosine of query and passage of each pair. (P,)."""
    try:
        queries = cache.embed(embedder, [pair.query for pair in pairs], is_query=True, report=report)
        passages = cache.embed(embedder, [pair.passage for pair in pairs], is_query=False, report=report)
    finally:
        embedder.release()
    cosines: Doubles = (queries.astype(np.float64) * passages).sum(1)
    return cosines


def auc(similar: Doubles, different: Doubles) -> float:
    """Chance that a similar pair scores higher than a different one; ties count half (Mann-Whitney U / mn)."""
    ordered = np.sort(different)
    below = np.searchsorted(ordered, similar, side="left")
    up_to = np.searchsorted(ordered, similar, side="right")
    return float((below + up_to).sum() / (2 * len(similar) * len(different)))


def separation(similar: Doubles, different: Doubles) -> Separation:
    """Both sets of cosines, their means, and their AUC."""
    return Separation(
        similar=tuple(np.round(similar, 6).tolist()),
        different=tuple(np.round(different, 6).tolist()),
        mean_similar=float(similar.mean()),
        mean_different=float(different.mean()),
        auc=auc(similar, different),
    )


def verdict_on(systems: Mapping[str, Separation]) -> tuple[bool, str]:
    """(whether similar pairs are above different ones under the merged model, a sentence that says it)."""
    base, merged = systems["base"], systems["merged"]
    passed = merged.mean_similar > merged.mean_different and merged.auc > 0.5
    above = "above" if passed else "not above"
    return passed, (
        f"similar pairs are {above} different ones: mean cosine {merged.mean_similar:.3f} and"
        f" {merged.mean_different:.3f}, a similar pair scores higher in {merged.auc:.1%} of all cases"
        f" (base: {base.mean_similar:.3f} and {base.mean_different:.3f}, {base.auc:.1%})."
    )
