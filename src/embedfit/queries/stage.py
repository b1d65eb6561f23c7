"""The generate stage: passages → queries, and a synthetic evaluation set if the user gave none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedfit.asked.log import read_log
from embedfit.config import Config
from embedfit.errors import BudgetExceeded, EmbedfitError, InputError, PaidInPart
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.index.plan import has_tokens
from embedfit.index.tokens import store_tokens
from embedfit.judging.judge import Judge, Pair
from embedfit.judging.opening import OWN_MODEL, opened_judge
from embedfit.llm.metered import OVER_BUDGET
from embedfit.llm.opening import opened_model
from embedfit.models.local import local_model
from embedfit.models.sources import resolve_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.numerics.arrays import Vectors
from embedfit.path.artefacts import Passage, Query
from embedfit.path.forgotten import read_forgotten
from embedfit.path.workspace import Workspace
from embedfit.queries import filters
from embedfit.queries.ask import FAILED, REJECTED, UNWRITTEN, ask, user_examples
from embedfit.queries.from_log import FromLog, from_log
from embedfit.queries.plan import plan
from embedfit.queries.rules.candidate import Candidate
from embedfit.queries.thinning import thinned
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.vocabulary import known
from embedfit.runtime import Runtime

#: The rank from which a dev or test query counts as unrelated to its passage, and is dropped. A smaller limit would
#: keep only the queries whose passage the base or BM25 finds easily. That flatters both, and every model that orders
#: passages otherwise would lose.
LOOSE_ROUND_TRIP = 200
#: Scores that a round trip holds at a time.
_SCORES = 1 << 26
#: The reason of queries that the round trip drops.
ROUND_TRIP = "round trip: neither BM25 nor the base model finds its passage"
#: Fewer training queries than this can't tune a model; fewer dev queries can't judge one.
MIN_TRAIN, MIN_DEV = 8, 4
#: Details of a reason, such as the judge's score: reasons that differ in them alone are counted as one.
_DETAIL = re.compile(r"\s*\([^()]*\)$")


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write queries.jsonl and, without --eval-beir, eval/ in BEIR layout.

    Raises PaidInPart, after everything was written, where --max-cost did not reach for all queries.
    """
    passages = workspace.read(Passage)
    _check_split(passages)
    # Read before anything is paid for, so that a file that can't be read costs nothing.
    leave_out = read_forgotten(workspace).queries
    _warn_of_language(passages, config, runtime)
    log = read_log(config.queries, runtime.report, seed=config.seed, leave_out=leave_out) if config.queries else None
    asked = from_log(log, passages, config, runtime) if log else FromLog()
    examples = user_examples(config.generate.examples) or asked.examples
    asks = plan(passages, config.generate, seed=config.seed, asked_about=asked.about)
    payer = str(workspace.root.resolve())
    judges = config.generate.judge is not None and config.generate.judge_min > 0
    if judges and config.generate.judge == OWN_MODEL:
        runtime.report.log("generate: the judge then reads each query that passes the filters, for more calls")
    with opened_model(config.generate, runtime, run=payer) as model:
        drafts = ask(model, passages, asks, config.generate, runtime, examples=examples)
    queries = filtered(passages, drafts, config, runtime, examples=examples)
    if judges:
        workspace.write(Query, queries)  # kept in case the judge fails or the user says no
        with opened_judge(config.generate, runtime, run=payer) as judge:
            queries = judged(passages, queries, judge, config.generate.judge_min)
    workspace.write(Query, [*queries, *asked.rows])
    _log_reasons(queries, runtime)
    short = _over_budget(queries, config.generate.max_cost)
    _check_enough(queries, short)
    if config.eval_beir is None:
        _write_eval(workspace.path("eval"), passages, queries, own_documents=bool(config.eval_docs))
    else:
        workspace.remove("eval")  # written by an earlier run with other settings
    if short:
        raise PaidInPart(
            f"{short} What was written is kept: {sum(query.kept for query in queries):,} queries.",
            remedy="For the rest, allow more with --max-cost; to go on with these, run the same command again.",
        )


def filtered(
    passages: Sequence[Passage],
    drafts: Sequence[Query],
    config: Config,
    runtime: Runtime,
    *,
    examples: Sequence[str] = (),
) -> list[Query]:
    """The drafts with every rule's verdict: kept, or dropped with its reason. examples: those in the prompt."""
    by_id = {passage.passage_id: row for row, passage in enumerate(passages)}
    reasons = _text_reasons(passages, by_id, drafts, examples, config.generate.language)
    base = local_model("base", config.model, query_instruction=config.query_instruction)
    contents = [passage.content for passage in passages]
    alive = [number for number, reason in enumerate(reasons) if not reason]
    texts = [drafts[number].text for number in alive]
    if config.adapt.vectors is None and has_tokens(len(passages), config.index.tokens):
        store_tokens(contents, base, runtime.vectors, runtime.report)  # later stages need them: this saves a pass
    vectors, query_vectors = runtime.vectors.embed_both(base, contents, texts, report=runtime.report)
    sources = np.array([by_id[drafts[number].passage_id] for number in alive], np.int64)
    for number, close in zip(
        alive, filters.near_duplicates(query_vectors, [drafts[n].passage_id for n in alive], texts), strict=True
    ):
        if close:
            reasons[number] = "near-duplicate of another query of this passage"
    of = np.unique(np.array([by_id[draft.passage_id] for draft in drafts], np.int64))
    twins = filters.twins(vectors, contents, of)
    k = config.generate.round_trip_k
    if k and alive:
        ranks = {
            "dense": _dense_ranks(query_vectors, vectors, sources),
            "bm25": _bm25_ranks(texts, contents, sources),
        }
        limits = round_trip_limits([drafts[number].split for number in alive], k)
        for number, lost in zip(alive, filters.lost_in_round_trip(ranks, limits), strict=True):
            if lost and not reasons[number]:
                reasons[number] = ROUND_TRIP
    found = [
        replace(
            draft,
            kept=not reasons[number],
            reason=reasons[number],
            also_relevant=tuple(passages[row].passage_id for row in twins.get(by_id[draft.passage_id], ())),
        )
        for number, draft in enumerate(drafts)
    ]
    for number, reason in thinned(passages, found, twins, config, runtime).items():
        found[number] = replace(found[number], kept=False, reason=reason)
    return found


def round_trip_limits(splits: Sequence[str], k: int) -> npt.NDArray[np.int64]:
    """The worst rank of its passage with which each query is kept. splits: the queries'; k: for training queries."""
    return np.array([k if split == "train" else max(k, LOOSE_ROUND_TRIP) for split in splits], np.int64)


def judged(passages: Sequence[Passage], queries: Sequence[Query], judge: Judge, lowest: float) -> list[Query]:
    """The queries with the judge's score of those that are kept: dropped if it is below `lowest`, of 1.

    A query without a score is dropped with its reason, because nobody knows whether its passage answers it.
    """
    content = {passage.passage_id: passage.content for passage in passages}
    alive = [number for number, query in enumerate(queries) if query.kept]
    verdicts = judge.judge([Pair(queries[number].text, content[queries[number].passage_id]) for number in alive])
    result = list(queries)
    for number, verdict in zip(alive, verdicts, strict=True):
        reason = ""
        if verdict.score is None:
            reason = f"judge: {verdict.reason}"
        elif verdict.score < lowest:
            reason = f"judge: its passage does not answer it (score {verdict.score:.2f})"
        result[number] = replace(
            queries[number],
            kept=not reason,
            reason=reason,
            judged=None if verdict.score is None else round(verdict.score, 4),
            judge_call_id=verdict.call_id,
        )
    return result


def _text_reasons(
    passages: Sequence[Passage], by_id: dict[str, int], drafts: Sequence[Query], examples: Sequence[str], language: str
) -> list[str]:
    """The reason to drop each draft by its text alone.

    examples: the user's own, which the prompt has shown. language: asked for; empty: the passages' own.
    """
    rules = filters.text_rules(examples, language)
    reasons = []
    for draft in drafts:
        passage = passages[by_id[draft.passage_id]]
        candidate = Candidate(draft.text, draft.style, passage.text, passage.title)
        reasons.append(draft.reason or filters.first_reason(candidate, rules))
    alive = [number for number, reason in enumerate(reasons) if not reason]
    for number, duplicate in zip(
        alive, filters.exact_duplicates([drafts[number].text for number in alive]), strict=True
    ):
        if duplicate:
            reasons[number] = "duplicate of another query"
    return reasons


def _dense_ranks(queries: Vectors, passages: Vectors, sources: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """1-based rank of each query's source. queries: (Q, H); passages: (N, H); sources: (Q,)."""
    ranks = np.empty(len(queries), np.int64)
    step = min(1024, max(16, _SCORES // max(1, len(passages))))  # Q × N scores at once would not fit for large corpora
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ passages.T
        own = np.take_along_axis(scores, sources[start : start + step, None], 1)
        ranks[start : start + step] = 1 + (scores > own).sum(1)
    return ranks


def _bm25_ranks(
    queries: Sequence[str], passages: Sequence[str], sources: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """1-based rank of each query's source; the last place if no word matches."""
    index = Bm25(passages)
    ranks = np.empty(len(queries), np.int64)
    for row, (query, source) in enumerate(zip(queries, sources, strict=True)):
        scores = index.scores(query)
        ranks[row] = 1 + int((scores > scores[source]).sum()) if scores[source] > 0 else len(passages)
    return ranks


def _warn_of_language(passages: Sequence[Passage], config: Config, runtime: Runtime) -> None:
    """Log a warning if the base does not seem to know the documents' language."""
    found = known(load_tokenizer(resolve_model(config.model)), [one.content for one in passages])
    if warning := found.warning(config.model):
        runtime.report.log(f"Warning: {warning}")


def _log_reasons(queries: Sequence[Query], runtime: Runtime) -> None:
    kept = sum(query.kept for query in queries)
    runtime.report.log(f"generate: {kept:,} of {len(queries):,} queries kept")
    dropped = [(_DETAIL.sub("", query.reason), query.text) for query in queries if not query.kept]
    examples = {reason: text for reason, text in reversed(dropped) if text}
    for reason, count in Counter(reason for reason, _ in dropped).most_common(8):
        example = f', such as "{examples[reason][:80]}"' if reason in examples else ""
        runtime.report.log(f"  {count:>6,} dropped: {reason}{example}")


def _check_split(passages: Sequence[Passage]) -> None:
    """Refuse passages that ingest could not split, before a query of them is paid for."""
    if not any(passage.split == "dev" for passage in passages):
        raise InputError(
            f"The {len(passages):,} passages are too few, or too much alike, to train, choose and measure a model.",
            remedy="Add documents, or cut shorter passages: --set ingest.max_tokens=64 --set ingest.min_characters=20. "
            "They can be searched as they are: embedfit index.",
        )


def _over_budget(queries: Sequence[Query], max_cost: float | None) -> str:
    """A sentence about the work that --max-cost left undone; empty if all was done."""
    unasked = sum(query.reason == OVER_BUDGET for query in queries)
    unjudged = sum(query.reason == f"judge: {OVER_BUDGET}" for query in queries)
    parts = [f"{unasked:,} queries were not written"] if unasked else []
    parts += [f"{unjudged:,} were not judged"] if unjudged else []
    return f"{' and '.join(parts)}: with them the cost could pass --max-cost ${max_cost:,.2f}." if parts else ""


def _check_enough(queries: Sequence[Query], short: str) -> None:
    counts = Counter(query.split for query in queries if query.kept)
    if counts["train"] >= MIN_TRAIN and counts["dev"] >= MIN_DEV:
        return
    few = (
        f"Only {counts['train']} training and {counts['dev']} dev queries were kept of {len(queries)}; "
        f"at least {MIN_TRAIN} and {MIN_DEV} are needed."
    )
    error: EmbedfitError
    if short:
        error = BudgetExceeded(
            f"{short} {few}", remedy="Every reply so far is in the ledger. Allow more with --max-cost."
        )
    else:
        error = InputError(few, remedy=_how_to_get_more(queries))
    raise error


def _how_to_get_more(queries: Sequence[Query]) -> str:
    """Advice for more queries; more documents don't help if the replies were of no use."""
    unwritten = sum(query.reason.startswith(UNWRITTEN) for query in queries)
    if 2 * unwritten > len(queries):
        return "Record queries of more passages, or name a generator that writes them, such as --generator local"
    useless = Counter(query.reason for query in queries if query.reason.startswith((REJECTED, FAILED)))
    if 2 * useless.total() < len(queries):
        return (
            "Give more documents, or more queries a passage: --set generate.queries_per_passage=4. The passages can be "
            "searched as they are: embedfit index."
        )
    return (
        f"Most replies were of no use ({useless.most_common(1)[0][0]}): choose another model "
        "(--set generate.llm=NAME), or allow longer replies (--set generate.max_reply_tokens=2048)."
    )


def _write_eval(folder: Path, passages: Sequence[Passage], queries: Sequence[Query], *, own_documents: bool) -> None:
    """A BEIR folder of the test queries.

    The corpus is the text that a user would search: the evaluation documents if the user named some, else all.
    """
    corpus = [passage for passage in passages if passage.split == "test" or not own_documents]
    test = [query for query in queries if query.split == "test" and query.kept]
    inside = {passage.passage_id for passage in corpus}
    relevant = {q.query_id: [pid for pid in (q.passage_id, *q.also_relevant) if pid in inside] for q in test}
    data = RetrievalData(
        corpus={passage.passage_id: Entry(text=passage.text, title=passage.title) for passage in corpus},
        queries={query.query_id: query.text for query in test},
        qrels={query_id: dict.fromkeys(pids, 1) for query_id, pids in relevant.items()},
    )
    write_beir(folder, data)
