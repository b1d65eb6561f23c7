"""Saved runs as measured systems: TREC runs, and the scores.jsonl of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedfit.errors import InputError, UsageError
from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import DEPTH, Measured, judged
from embedfit.files.trec import is_trec_run, read_trec_run, token
from embedfit.path.artefacts import Score
from embedfit.path.workspace import read_jsonl
from embedfit.retrieval.metrics import METRICS, Convention

#: The system of scores.jsonl that is meant if none is named: the retriever that ships.
SHIPS = "chosen"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """A saved run, measured on an evaluation set.

    measured: `found` is empty if the file holds scores and no rankings. lacking: the numbers of the set's queries that
    the file does not have; they count as 0. notes: sentences for people about what was not used.
    """

    measured: Measured
    lacking: Sequence[int]
    notes: Sequence[str] = ()


def saved_file(name: str) -> tuple[Path, str] | None:
    """(the file of a saved run, the system that is meant in it, "" for none named); None if no such file is there."""
    for text, system in ((name, ""), name.rpartition("#")[::2]):
        if text and Path(text).is_file():
            return Path(text), system
    return None


def read_saved(name: str, eval_set: EvalSet, convention: Convention) -> SavedRun:
    """A saved run on the queries of an evaluation set. Raises InputError for another format or other queries."""
    found = saved_file(name)
    assert found is not None  # the caller has asked
    path, system = found
    if is_trec_run(path):
        if system:
            raise UsageError(f"{name!r}: a TREC run holds one system.", remedy=f"Name the file alone: {path}")
        return _of_trec(path, eval_set, convention)
    if convention != "sentence-transformers":
        raise UsageError(
            f"{path} holds metrics, which were counted as sentence-transformers does.",
            remedy="Leave out --convention, or name a TREC run: embedfit search --run DIR --queries FILE --trec OUT",
        )
    return _of_scores(path, system, eval_set)


def _of_trec(path: Path, eval_set: EvalSet, convention: Convention) -> SavedRun:
    run = read_trec_run(path)
    of_query = {token(query): row for row, query in enumerate(eval_set.query_ids)}
    of_passage = {token(passage): passage for passage in eval_set.passage_ids}
    rankings: list[list[str]] = [[] for _ in eval_set.query_ids]
    strange, unknown = [], 0
    for query, scores in run.items():
        if (row := of_query.get(token(query))) is None:
            strange.append(query)
            continue
        known = {of_passage[token(one)]: score for one, score in scores.items() if token(one) in of_passage}
        known.pop(eval_set.query_ids[row], None)  # a query's own passage, as everywhere
        unknown += len(scores) - len(known)
        rankings[row] = _ordered(known, convention)
    lacking = [row for query, row in of_query.items() if query not in {token(one) for one in run}]
    _check_any(path, len(run) - len(strange), list(run), eval_set)
    notes = _extra(path, strange)
    if unknown:
        notes.append(f"{path}: {unknown:,} results are no passages of the corpus, or the query itself: left out")
    return SavedRun(measured=judged(rankings, eval_set, convention), lacking=lacking, notes=notes)


def _ordered(scores: Mapping[str, float], convention: Convention) -> list[str]:
    """Passages by falling score; equal scores in the convention's order."""
    if convention == "trec_eval":
        order = sorted(scores, reverse=True)
        return sorted(order, key=lambda one: float(np.float32(scores[one])), reverse=True)[:DEPTH]
    return sorted(sorted(scores), key=lambda one: scores[one], reverse=True)[:DEPTH]


def _of_scores(path: Path, system: str, eval_set: EvalSet) -> SavedRun:
    systems: dict[str, dict[str, dict[str, Score]]] = {}
    for one in read_jsonl(path, Score):
        systems.setdefault(one.system, {}).setdefault(one.query_id, {})[one.metric] = one
    if not systems:
        raise InputError(f"{path} holds no scores.", remedy="Name a TREC run, or the scores.jsonl of a run folder.")
    wanted = system or (SHIPS if SHIPS in systems else next(iter(systems)) if len(systems) == 1 else "")
    if wanted not in systems:
        what = f"has no system {wanted!r}" if wanted else "holds several systems"
        raise UsageError(f"{path} {what}: {', '.join(systems)}.", remedy=f"Name one: {path}#{next(iter(systems))}")
    scores = systems[wanted]
    number = {query: row for row, query in enumerate(eval_set.query_ids)}
    strange = [query for query in scores if query not in number]
    _check_any(path, len(scores) - len(strange), list(scores), eval_set)
    values, ranks = np.zeros((len(number), len(METRICS))), np.zeros(len(number), np.int64)
    for query, of_query in scores.items():
        if query not in number:
            continue
        if absent := [metric for metric in METRICS if metric not in of_query]:
            raise InputError(f"{path}: the query {query!r} of {wanted} has no {absent[0]}.", remedy=_AGAIN)
        values[number[query]] = [of_query[metric].value for metric in METRICS]
        ranks[number[query]] = of_query[METRICS[0]].rank
    lacking = [row for query, row in number.items() if query not in scores]
    measured = Measured(found=(), ranks=ranks, values=values)
    return SavedRun(measured=measured, lacking=lacking, notes=_extra(path, strange))


_AGAIN = "Make it anew: embedfit evaluate --run DIR --force"


def _check_any(path: Path, shared: int, queries: Sequence[str], eval_set: EvalSet) -> None:
    """Raise InputError if a saved run shares no query with the evaluation set."""
    if shared:
        return
    theirs = f", such as {queries[0]!r}" if queries else ""
    raise InputError(
        f"{path} has {len(queries):,} queries{theirs}, and none of them is among the {len(eval_set.query_ids):,} "
        f"judged queries of the folder, such as {eval_set.query_ids[0]!r}.",
        remedy="Name the BEIR folder that the run was made with: --beir DIR",
    )


def _extra(path: Path, strange: Sequence[str]) -> list[str]:
    if not strange:
        return []
    return [f"{path}: {len(strange):,} queries have no judgement in the folder, such as {strange[0]!r}: left out"]
