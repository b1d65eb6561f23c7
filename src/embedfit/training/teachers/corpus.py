"""The teacher of corpus distillation in a run: the untuned model's windows and one vector, and BM25, over all passages.

The passages keep the untuned model's vectors while queries train. So the teacher's scores and the passages' vectors are
computed once and stored, and a step encodes queries only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedfit.config import Config, TrainConfig
from embedfit.models.local import LocalModel, base_model
from embedfit.numerics.arrays import Floats, Ints, Vectors
from embedfit.path.artefacts import Passage
from embedfit.path.workspace import Workspace, sha256_json
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import CAREFUL_TEACHER, COVERED
from embedfit.teaching.scores import TeacherScores, TeacherWeights, corpus_scores, stored_scores
from embedfit.teaching.targets import Labels, common_columns, targets
from embedfit.training.batches import TrainingBatch
from embedfit.training.store import Example, TrainingData

#: The most often that a question of a log comes in an epoch, so that a map does not learn a few by heart
#: (docs/recipe.md).
MOST_TIMES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusTeacher:
    """Scores and labels of every example.

    base: the untuned model. queries: (Q, H) its vectors of the examples' queries. passages: (N, H) its vectors of all
    passages. labels: passages that are known to answer each example's query. temperature, share: see targets().
    covered: as covered_log() has it, if questions that people asked train; else None.
    """

    base: LocalModel
    queries: Vectors
    passages: Vectors
    scores: TeacherScores
    labels: Sequence[Labels]
    temperature: float
    share: float
    covered: float | None = None

    def lesson(self, chosen: Ints) -> tuple[Ints, Floats]:
        """Numbers (P,) of the passages that some examples learn from, and target probabilities: (B, P)."""
        wanted = targets(chosen, self.scores, self.labels, temperature=self.temperature, share=self.share)
        return common_columns(chosen, self.scores, wanted)


def corpus_teacher(
    workspace: Workspace, config: Config, data: TrainingData, covered: float | None, runtime: Runtime
) -> CorpusTeacher:
    """The teacher of the examples. It reads no passage of the evaluation documents.

    covered: as in CorpusTeacher. Vectors come from the store, or go into it. The scores are kept in the stage's
    scratch folder.
    """
    settings = config.training
    corpus = [passage for passage in workspace.read(Passage) if passage.split != "test"]
    contents = [passage.content for passage in corpus]
    texts = [data.texts[example.query].content for example in data.examples]
    base = base_model(config)
    parts = settings.corpus_teacher
    by_default = parts == TrainConfig().corpus_teacher  # a teacher that somebody named stays
    if by_default and covered is not None and covered < COVERED:
        parts = CAREFUL_TEACHER
        runtime.report.log(
            f"train: a passage covers {covered:.0%} of a question that people asked, on average, so words count less "
            "in the teacher"
        )
    weights = TeacherWeights(**dict(zip(("one", "windows", "words"), parts, strict=True)))
    facts = {"model": base.key, "passages": contents, "queries": texts, "weights": weights.parts, "seed": config.seed}
    scores = stored_scores(
        workspace.scratch("train") / "teacher.safetensors",
        sha256_json(facts),
        lambda: corpus_scores(base, contents, texts, weights, runtime, seed=config.seed),
    )
    passages, queries = runtime.vectors.embed_both(base, contents, texts, report=runtime.report)
    base.release()
    number = {content: row for row, content in reversed(list(enumerate(contents)))}
    return CorpusTeacher(
        base=base,
        queries=queries,
        passages=passages,
        scores=scores,
        labels=[_labels(example, data, number, judged=config.mine.teacher == "judge") for example in data.examples],
        temperature=settings.teacher_temperature,
        share=settings.label_share,
        covered=covered,
    )


def times_of(examples: Sequence[Example], covered: float | None) -> Ints:
    """(Q,) how often each query trains the map in an epoch.

    People's questions, which have no positive, come as often as the written ones if the passages hold their words.
    """
    asked = np.array([not example.positives for example in examples], np.bool_)
    times = np.ones(len(examples), np.int64)
    if covered is not None and covered >= COVERED and asked.any():
        times[asked] = min(MOST_TIMES, max(1, round((~asked).sum() / asked.sum())))
    return times


def _labels(example: Example, data: TrainingData, number: dict[str, int], *, judged: bool) -> Labels:
    """The passages that are known to answer an example's query: its writer's, or with a judge's scores as weights."""
    known = dict.fromkeys(example.positives, 1.0)
    if judged and example.positive_scores:
        scored = [*zip(example.positives, example.positive_scores, strict=True)]
        scored += zip(example.negatives, example.negative_scores, strict=False)
        known = {text: score for text, score in scored if score > 0}
    found = {data.texts[text].content: weight for text, weight in known.items()}
    return {number[content]: weight for content, weight in found.items() if content in number}


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusComposer:
    """Makes batches whose only texts are queries."""

    examples: Sequence[Example]
    teacher: CorpusTeacher

    def compose(self, chosen: Ints, rng: np.random.Generator) -> TrainingBatch:
        """The batch of these examples. It draws nothing."""
        rows = [self.examples[index] for index in chosen]
        places: dict[int, int] = {}
        queries = [places.setdefault(row.query, len(places)) for row in rows]
        columns, wanted = self.teacher.lesson(chosen)
        passages = self.teacher.passages
        return TrainingBatch(
            rows=np.array([row.row for row in rows], np.int64),
            texts=np.array(list(places), np.int64),
            queries=np.array(queries, np.int64),
            passages=np.zeros(0, np.int64),
            group=np.zeros((len(rows), 0), np.int64),
            allowed=np.ones(wanted.shape, np.bool_),
            teacher=np.zeros((len(rows), 0), np.float32),
            soft_labels=wanted,
            frozen=passages if len(columns) == len(passages) else passages[columns],
        )
