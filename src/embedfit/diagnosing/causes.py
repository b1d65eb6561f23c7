"""The causes that are looked for, one function each: what speaks for it in the run, and one command to try.

A cause has a weight from 0 to 1: how much of the run it touches, and how surely it harms. Below LEAST it is not named.
The bounds stand far from what healthy runs have (docs/assessing.md), because a wrong accusation costs a run.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedfit.config.tuning import CORPUS_LOSS
from embedfit.diagnosing.facts import LOOKED_AT, Facts
from embedfit.generators import generator
from embedfit.path.artefacts import TrainingStep
from embedfit.retrieval.vocabulary import known
from embedfit.retrieval.words import word_set, words

Part = Literal[
    "queries", "filters", "negatives", "length", "prompt", "rate", "α", "too little data", "the base", "evaluation"
]
#: Causes of a smaller weight are not named.
LEAST = 0.2
#: With fewer rows a model learns little (128 rows gained half of what 1,650 did); with fewer than the second, nothing.
ENOUGH_ROWS, FEWEST_ROWS = 120, 40
#: A query of at least so many words that stands in its passage as it is, is a copy.
COPIED_WORDS = 4
#: A passage that shares this much of its words with the positive, by Jaccard, says the same.
SAME_WORDS = 0.8
#: A rank by BM25 behind which a query does not ask for its passage, if it shares little with it besides.
LOST_RANK, LOST_COVERAGE = 50, 0.1
#: Of rows whose queries ask about what training cut off, this share is a cause.
MOST_CUT = 0.2
#: Points of nDCG@10 on dev, or of agreement on general text, by which a whole tuned model may fall behind the base.
MOST_LOST = 0.03
#: The share by which the loss must fall, or nothing was learned.
LEAST_FALL = 0.02
#: A test that can't see differences below this many points of nDCG@10 shows nothing of tuning's usual size.
BLIND = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A part that may be to blame. evidence: sentences about the run's files. command: what to try."""

    part: Part
    weight: float
    evidence: str
    command: str


def _again(facts: Facts, settings: str) -> str:
    return f"embedfit run --run {shlex.quote(facts.run)} {settings}"


def few_rows(facts: Facts) -> Cause | None:
    """Too few training rows."""
    rows, steps = facts.evidence.summary.data.train_rows, facts.evidence.training.steps
    if rows >= ENOUGH_ROWS:
        return None
    weight = 0.97 if rows < FEWEST_ROWS else 0.35 + 0.4 * (ENOUGH_ROWS - rows) / ENOUGH_ROWS
    kept = facts.evidence.funnel
    passages = kept.splits.get("train", 0)
    limited = facts.config.generate.max_passages
    settings = "--set generate.max_passages=0" if limited else "--set generate.queries_per_passage=8"
    return Cause(
        part="too little data",
        weight=weight,
        evidence=f"{rows:,} training rows of {passages:,} passages, in {steps:,} steps; about {ENOUGH_ROWS} are the "
        f"fewest that showed a gain",
        command=_again(facts, settings),
    )


def copied_queries(facts: Facts) -> Cause | None:
    """Queries that stand in their passages word by word teach nothing but matching words."""
    texts = [" ".join(words(one.content)) for one in facts.passages]
    long = [one for one in facts.kept if len(words(one.text)) >= COPIED_WORDS]
    copies = [one for one in long if " ".join(words(one.text)) in texts[one.passage]]
    share = len(copies) / max(1, len(facts.kept))
    if share < LEAST:
        return None
    return Cause(
        part="queries",
        weight=min(1.0, 0.5 + share / 2),
        evidence=f"{share:.0%} of the kept training queries stand in their passages word by word, such as "
        f'"{copies[0].text[:80]}"',
        command=_writer(facts),
    )


def repeated_queries(facts: Facts) -> Cause | None:
    """Queries that ask the same for many passages have no one answer."""
    counts = Counter(" ".join(words(row.query)) for row in facts.rows)
    repeated = sum(count for count in counts.values() if count > 1)
    share = repeated / max(1, len(facts.rows))
    if share < LEAST:
        return None
    text, times = counts.most_common(1)[0]
    return Cause(
        part="queries",
        weight=min(1.0, 0.5 + share / 2),
        evidence=f'{share:.0%} of the training rows ask what another row asks, such as "{text[:80]}" ({times:,} times)',
        command=_writer(facts),
    )


def lost_queries(facts: Facts) -> Cause | None:
    """Queries that share nothing with their passages ask for something else."""
    if not facts.kept:
        return None
    far = min(LOST_RANK, max(2, len(facts.passages) // 4))
    lost = [
        one
        for one, rank, covered in zip(facts.kept, facts.ranks, facts.own_coverage, strict=True)
        if rank > far and covered < LOST_COVERAGE
    ]
    share = len(lost) / len(facts.kept)
    if share < 2 * LEAST:  # people paraphrase too
        return None
    off = facts.config.generate.round_trip_k == 0
    return Cause(
        part="filters" if off else "queries",
        weight=min(1.0, 0.4 + share / 2),
        evidence=f"{share:.0%} of the kept training queries share less than {LOST_COVERAGE:.0%} of their words with "
        f'their own passage, which BM25 has behind rank {far}, such as "{lost[0].text[:80]}"'
        + ("; the round trip, which drops such queries, is off" if off else ""),
        command=_again(facts, "--set generate.round_trip_k=20") if off else _writer(facts),
    )


def dropped_queries(facts: Facts) -> Cause | None:
    """Filters that drop most of what was written."""
    funnel = facts.evidence.funnel
    if not funnel.queries_written or not funnel.query_reasons:
        return None
    dropped = 1 - funnel.queries_kept / funnel.queries_written
    if dropped < 0.6:
        return None
    reason, count, example = funnel.query_reasons[0]
    settings = "--set generate.round_trip_k=50" if reason.startswith("round trip") else ""
    shown = f', such as "{example[:80]}"' if example else ""
    return Cause(
        part="filters",
        weight=0.3 + 0.6 * (dropped - 0.6) / 0.4,
        evidence=f"the filters dropped {dropped:.0%} of {funnel.queries_written:,} written queries, {count:,} for one "
        f"reason ({reason}){shown}",
        command=_again(facts, settings) if settings else _writer(facts),
    )


def _writer(facts: Facts) -> str:
    """The command that has another model write, or shows the writer how people ask."""
    if not generator(facts.config.generate.generator).strong:
        return _again(facts, "--generator bedrock")
    return _again(facts, "--set generate.examples=QUESTIONS.txt")


def false_negatives(facts: Facts) -> Cause | None:
    """Negatives that answer their query."""
    if not facts.train.hard_negatives or facts.train.loss == CORPUS_LOSS:
        return None
    rows = [row for row in facts.rows if row.neg][:LOOKED_AT]
    if not rows:
        return None
    wrong = []
    for row in rows:
        answers = [word_set(text) for text in row.pos]
        scored = row.pos_scores and max(row.neg_scores) >= max(row.pos_scores)
        if scored or any(_jaccard(word_set(text), one) >= SAME_WORDS for text in row.neg for one in answers):
            wrong.append(row)
    share = len(wrong) / len(rows)
    if share < LEAST:
        return None
    return Cause(
        part="negatives",
        weight=min(1.0, 0.55 + share / 2),
        evidence=f"in {share:.0%} of the rows a hard negative says what the positive says, or scores as high, such as "
        f'for "{wrong[0].query[:80]}"',
        command=_again(facts, "--set train.hard_negatives=0 --set mine.negatives=0"),
    )


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / max(1, len(first | second))


def cut_texts(facts: Facts) -> Cause | None:
    """Passages that are cut before the place that their queries ask about."""
    tokenizer, most = facts.tokenizer, _read_tokens(facts)
    if tokenizer is None or not most or not facts.kept:
        return None
    heads: dict[int, str] = {}
    lost = 0
    asked = [(one, word_set(one.text)) for one in facts.kept]
    for one, query in asked:
        content = facts.passages[one.passage].content
        if one.passage not in heads:
            encoding = tokenizer.encode(content, add_special_tokens=False)
            whole = len(encoding.ids) <= most
            heads[one.passage] = content if whole else content[: encoding.offsets[most - 1][1]]
        there = query & word_set(content)
        lost += bool(there) and 2 * len(there & word_set(heads[one.passage])) < len(there)
    share = lost / len(asked)
    if share < MOST_CUT:
        return None
    ours = facts.train.passage_max_tokens
    settings = "--set train.passage_max_tokens=0" if ours else "--set ingest.max_tokens=200"
    # A teacher reads the whole passage, so a cut costs it less than it costs pairs alone.
    return Cause(
        part="length",
        weight=min(1.0, 0.5 + share / 2) if facts.train.loss == "infonce" else 0.3 + share / 4,
        evidence=f"{share:.0%} of the training queries ask about a part of their passage behind the {most:,} tokens "
        + ("that training reads (train.passage_max_tokens)" if ours else "that the model reads"),
        command=_again(facts, settings),
    )


def _read_tokens(facts: Facts) -> int:
    """Tokens of a passage that training reads; 0 if it encodes none."""
    if facts.train.tuned != "both" or facts.base is None:
        return 0
    ours, window = facts.train.passage_max_tokens, facts.base[1].max_tokens
    return (min(ours, window) if ours else window) - 2


def wrong_prompt(facts: Facts) -> Cause | None:
    """Another instruction before queries than the one that the model's authors prescribe."""
    given = facts.config.query_instruction
    if given is None or facts.base is None or given == (own := facts.base[1].query_instruction):
        return None
    shown = f'its own is "{own[:60]}"' if own else "it has none of its own"
    return Cause(
        part="prompt",
        weight=0.75 if own else 0.45,
        evidence=f'queries are encoded behind "{given[:60]}", and the model {facts.config.model} does not know that: '
        f"{shown}",
        command=_again(facts, f"--set {shlex.quote(f'query_instruction={own}')}"),
    )


def wrong_rate(facts: Facts) -> Cause | None:
    """A rate at which the model forgets, or at which it learns nothing."""
    learned, used = facts.evidence.training, facts.train
    key = "map_learning_rate" if used.tuned == "map" else "learning_rate"
    now = float(getattr(used, key)) or _highest_rate(facts)
    lost, why = _forgot(facts)
    if lost > MOST_LOST:
        return Cause(
            part="rate",
            weight=min(1.0, 0.5 + 3 * lost),
            evidence=f"{why}: the steps are too large (train.{key}={now:g}, {learned.steps:,} steps)",
            command=_again(facts, f"--set train.{key}={now / 5:g}"),
        )
    losses = [loss for _, loss in facts.evidence.losses]
    few = max(1, len(losses) // 5)
    if len(losses) >= 10 and now:
        first, last = float(np.mean(losses[:few])), float(np.mean(losses[-few:]))
        if first > 0 and (first - last) / first < LEAST_FALL:
            return Cause(
                part="rate",
                weight=0.8,
                evidence=f"the loss was {first:.3f} in the first fifth of the steps and {last:.3f} in the last: "
                f"nothing was learned (train.{key}={now:g})",
                command=_again(facts, f"--set train.{key}={now * 10:g}"),
            )
    return None


def _highest_rate(facts: Facts) -> float:
    if not facts.workspace.has(TrainingStep):
        return 0.0
    return max((one.lr for one in facts.workspace.read(TrainingStep)), default=0.0)


def _forgot(facts: Facts) -> tuple[float, str]:
    """(how far the tuned model fell behind the base, where that shows), by the largest α that was tried."""
    kept = {one.alpha: one.retention for one in facts.evidence.merge.alphas if one.retention is not None}
    found = [(0.0, "")]
    for where, by_alpha in (("dev queries", facts.dev), ("general text", kept)):
        if 0.0 in by_alpha and (most := max(by_alpha)) > 0:
            fell = by_alpha[0.0] - by_alpha[most]
            found.append((fell, f"on {where} the tuned model (α = {most:g}) lost {100 * fell:.1f} points to the base"))
    return max(found)


def held_back(facts: Facts) -> Cause | None:
    """A weight of the tuned model that keeps its gain out of what ships."""
    decision, merge = facts.evidence.merge.decision, facts.config.merge
    alpha = 1.0 if decision.ship == "finetuned" else 0.0 if decision.ship == "base" else decision.alpha
    if alpha is None or alpha > 0.35:
        return None
    gain = facts.comparison(("finetuned", "base"))
    better = gain is not None and gain.better
    dev_gain = max(facts.dev.values(), default=0.0) - facts.dev.get(0.0, 0.0)
    if merge.alpha is None and not better and dev_gain < 0.005:
        return None
    chosen = f"merge.alpha={merge.alpha:g} was set" if merge.alpha is not None else decision.why.rstrip(".")
    shown = f"; the tuned model alone (α = 1) gained {100 * gain.delta:+.1f} points" if gain is not None else ""
    return Cause(
        part="α",
        weight=0.96 if merge.alpha is not None else 0.85 if better else 0.4,
        evidence=f"what ships has {alpha:.0%} of the tuned model ({chosen}){shown}",
        command=_again(facts, "--set merge.alpha=0.5"),
    )


def strange_language(facts: Facts) -> Cause | None:
    """A base that does not know the documents' language."""
    if facts.tokenizer is None:
        return None
    warning = known(facts.tokenizer, [one.content for one in facts.passages]).warning(facts.config.model)
    if not warning:
        return None
    docs = " ".join(shlex.quote(one) for one in facts.config.docs)
    return Cause(
        part="the base",
        weight=0.7,
        evidence=warning.partition(" A model that knows")[0],
        command=f"embedfit run {docs} --model e5-multilingual --run {shlex.quote(f'{facts.run}-multilingual')}",
    )


def nothing_to_teach(facts: Facts) -> Cause | None:
    """A base whose one vector already finds what windows and words find."""
    gap = facts.comparison(("default_base", "base"))
    if gap is None or gap.ci95 is None or gap.ci95[1] >= 0.05 or not facts.evidence.summary.human:
        return None
    return Cause(
        part="the base",
        weight=0.45,
        evidence=f"windows, words and late interaction add {100 * gap.delta:+.1f} points "
        f"[{100 * gap.ci95[0]:+.1f}, {100 * gap.ci95[1]:+.1f}] to the base's one vector: it already knows what a "
        "teacher could teach it",
        command=f"embedfit index --run {shlex.quote(facts.run)}",
    )


def blind_test(facts: Facts) -> Cause | None:
    """An evaluation that could not see a gain of the usual size."""
    found = facts.comparison(("default", "default_base"), ("merged", "base"), ("finetuned", "base"))
    if found is None or (found.minimum_detectable or 0) < BLIND:
        return None
    return Cause(
        part="evaluation",
        weight=0.3,
        evidence=f"{found.queries:,} questions in {found.clusters:,} clusters show differences from "
        f"{100 * (found.minimum_detectable or 0):.1f} points on; tuning mostly gains 1 to 7",
        command=_again(facts, "--eval-beir DIR"),
    )


#: Every cause that is looked for.
CAUSES: tuple[Callable[[Facts], Cause | None], ...] = (
    few_rows,
    copied_queries,
    repeated_queries,
    lost_queries,
    dropped_queries,
    false_negatives,
    cut_texts,
    wrong_prompt,
    wrong_rate,
    held_back,
    strange_language,
    nothing_to_teach,
    blind_test,
)
