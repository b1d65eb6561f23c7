"""What a log of questions tells the writer: examples of how people ask, and the passages that nobody asks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedfit.asked import personal
from embedfit.asked.log import Log
from embedfit.asked.overlap import Embed
from embedfit.asked.rows import apart, other_language, rows_of_log
from embedfit.asked.sampling import drawn
from embedfit.config import Config
from embedfit.files.beir import judged_queries
from embedfit.llm.quoting import as_data
from embedfit.models.local import local_model
from embedfit.numerics.arrays import Vectors
from embedfit.path.artefacts import Passage, Query
from embedfit.queries.filters import (
    first_reason,
    malformed,
    repeats_an_instruction,
    talks_about_the_text,
    wrong_length,
)
from embedfit.queries.plan import limited
from embedfit.queries.rules.candidate import Candidate
from embedfit.retrieval.bm25 import Bm25
from embedfit.retrieval.topk import top_k
from embedfit.runtime import Runtime

#: An example has so many characters at most: a longer question is a story, and each call pays for it.
MOST_CHARACTERS = 120
#: Examples are drawn from so many questions at most, and so many tell which passages are asked about.
CANDIDATES, TELLING = 1_000, 5_000
#: Makes, beside the seed, the random stream that draws the examples.
_STREAM = 11
#: The rules that say whether a question can be an example. It has no passage.
_RULES = (malformed, wrong_length, talks_about_the_text, repeats_an_instruction)


def examples(rows: Sequence[Query], embed: Embed, *, count: int, seed: int) -> list[str]:
    """At most `count` questions of the log for the writer's prompt, some of every kind that people ask.

    Those that judge, seem to hold personal data, are malformed or long, or would steer a model are left out.
    embed: questions → (N, H) unit rows.
    """
    fit = [row for row in rows if row.split == "log" and row.kept and _is_fit(row.text)][:CANDIDATES]
    if not fit or count < 1:
        return []
    chosen = drawn(
        embed([row.text for row in fit]),
        np.array([row.times for row in fit], np.int64),
        count,
        rng=np.random.default_rng([seed, _STREAM]),
    )
    return [_quoted(fit[number].text) for number in chosen.tolist()]


def _is_fit(text: str) -> bool:
    return (
        len(text) <= MOST_CHARACTERS
        and not personal.kinds_in(text)
        and as_data(text) == text
        and not first_reason(Candidate(text, "", ""), _RULES)
    )


def _quoted(text: str) -> str:
    """A text that can stand between double quotes."""
    return text.replace('"', "'")


def asked_about(rows: Sequence[Query], contents: Sequence[str], vectors: Vectors, embed: Embed) -> frozenset[int]:
    """The numbers of the passages that a question of the log seems to ask about: the best by the base model or BM25.

    contents, vectors: of the passages, the latter (N, H) unit rows. embed: questions → (N, H) unit rows.
    """
    texts = [row.text for row in rows if row.split == "log" and row.kept][:TELLING]
    if not texts or not len(contents):
        return frozenset()
    best, _ = top_k(embed(texts), vectors, 1)
    index = Bm25(contents)
    words = [scores for text in texts if (scores := index.scores(text)).max() > 0]
    return frozenset([*best[:, 0].tolist(), *(int(scores.argmax()) for scores in words)])


@dataclass(frozen=True, slots=True)
class FromLog:
    """What a run takes from a log.

    rows: of queries.jsonl. examples: for the writer's prompt. about: the numbers of the passages that questions seem to
    ask about, if not all passages get written queries.
    """

    rows: Sequence[Query] = ()
    examples: Sequence[str] = ()
    about: frozenset[int] = frozenset()


def from_log(log: Log, passages: Sequence[Passage], config: Config, runtime: Runtime) -> FromLog:
    """The rows of a log, and what the writer is told of it."""
    base = local_model("base", config.model, query_instruction=config.query_instruction)

    def embed(texts: Sequence[str]) -> Vectors:
        return runtime.vectors.embed(base, texts, is_query=True, report=runtime.report)

    measured = judged_queries(Path(config.eval_beir)) if config.eval_beir is not None else []
    try:
        rows = rows_of_log(log, passages, embed, runtime.report, judged=config.choose.questions, seed=config.seed)
        rows = apart(rows, measured, embed, runtime.report)
        about: frozenset[int] = frozenset()
        if limited(passages, config.generate):
            contents = [passage.content for passage in passages]
            vectors = runtime.vectors.embed(base, contents, is_query=False, report=runtime.report)
            about = asked_about(rows, contents, vectors, embed)
            runtime.report.log(
                f"generate: passages that no question of the log seems to ask about come first; {len(about):,} of "
                f"{len(passages):,} are asked about"
            )
        count = 0 if config.generate.examples else config.generate.log_examples
        foreign = other_language([row.text for row in rows], passages)
        shown = [] if foreign else examples(rows, embed, count=count, seed=config.seed)
        if shown:
            runtime.report.log(
                f"generate: the writer is shown {len(shown)} questions of the log as examples "
                "(none with --set generate.log_examples=0)"
            )
        return FromLog(rows, shown, about)
    finally:
        base.release()
