"""The stage `adapt`: passages, questions and an embedder that can't be changed → a query map and moved vectors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from embedfit.adapting.gate import decide
from embedfit.adapting.measuring import Rows, measured
from embedfit.adapting.moving import MovedVectors, moved
from embedfit.adapting.questions import FEWEST, Questions, gather, queries_of
from embedfit.asked.log import cut, key_of
from embedfit.asked.reading import rows_of
from embedfit.config import ARRAYS, Config
from embedfit.embedders.arrays import ArrayEmbedder
from embedfit.embedders.registry import PaidEmbedder, open_embedder, opened_embedders
from embedfit.errors import ArtifactMissing, InputError, UsageError
from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.generators import generator
from embedfit.index.written import Written, written_of
from embedfit.llm.ledger.spent import cost_of
from embedfit.llm.licences import writers
from embedfit.models import query_map
from embedfit.models.local import base_model
from embedfit.models.query_map import MapCard, QueryMap
from embedfit.models.store.vectors import PROBES, Embedder
from embedfit.numerics.arrays import Vectors
from embedfit.path.artefacts import AdaptData, AdaptDecision, Adapted, Cost, Passage, Query
from embedfit.path.workspace import Workspace, encode_whole
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import covered
from embedfit.teaching.query_map import MapSettings, fit
from embedfit.teaching.scores import TeacherScores, TeacherWeights, corpus_scores

MOVED, RESULT = "moved.safetensors", "adapt.json"
#: Steps of the map's training, and the temperatures of the teacher's scores. People's questions are short and say what
#: they mean, so the teacher's best passages count more; a written query has its own passage beside them.
STEPS, TEMPERATURE_ASKED, TEMPERATURE_WRITTEN = 400, 0.5, 0.7
#: Standard errors above zero that the vectors' opinion of the teacher's best passages must lie.
_SURE = 2.0
#: Numbers of vectors that are nearer than this are equal.
_ALIKE = 1e-4
#: Questions that the check for two models needs.
_ENOUGH_TO_TELL = 30


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write adapt/: adapt.json, the query map if it ships, and the moved vectors if they are asked for."""
    if config.adapt.vectors is None:
        raise UsageError("No vectors are named.", remedy="For example: embedfit adapt --run DIR --vectors titan-v2")
    with opened_embedders() as opened:
        _Adaptation(workspace, config, runtime, opened).run(config.adapt.vectors)


@dataclass
class _Adaptation:
    """One run of the stage. opened: the embedder that is closed at the end. seconds: by step. notes: for people."""

    workspace: Workspace
    config: Config
    runtime: Runtime
    opened: dict[str, Embedder]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self, vectors: str) -> None:
        config, workspace = self.config, self.workspace
        passages = workspace.read(Passage)
        ids, contents = [one.passage_id for one in passages], [one.content for one in passages]
        queries = queries_of(workspace, config)
        eval_set = self._eval_set(passages)
        asked_there = {key_of(text) for text in eval_set.queries} if eval_set else set()
        questions = gather(workspace, config, passages, queries, self.runtime, leave_out=asked_there)
        embedder = self._open(vectors, passages, queries, eval_set)
        questions = self._known(questions, embedder)
        texts = [one.text for one in questions.training]
        with self._timed("vectors"):
            frozen = self._embedded(embedder, contents, is_query=False)
            trained = self._embedded(embedder, texts, is_query=True)
            held_out = self._embedded(embedder, [one.text for one in questions.held_out], is_query=True)
        with self._timed("teacher"):
            scores = self._taught(contents, texts)
            share_covered = covered(contents, texts[: questions.asked or None])
        self._check_one_model(embedder, trained, frozen, scores)
        with self._timed("map"):
            number = {one: place for place, one in enumerate(ids)}
            labels = [{number[source]: 1.0 for source in one.sources if source in number} for one in questions.training]
            settings = MapSettings(seed=config.seed, steps=STEPS, teacher_temperature=1.0)
            taught = _tempered(scores, questions.asked)
            fitted = fit(trained, frozen, taught, settings, labels=labels, report=self.runtime.report)
            decision, evidence = decide(
                fitted,
                questions,
                held_out,
                frozen,
                ids,
                covered=share_covered,
                fixed=config.adapt.share,
                seed=config.seed,
            )
        self.runtime.report.log(f"adapt: {decision.why}")
        made = fitted.blended(decision.share)
        with self._timed("move"):
            written = written_of(ids, queries)
            new = self._moved(embedder, written, ids, frozen)
        with self._timed("measure"):
            rows = self._rows(eval_set, embedder, fitted.blended(decision.share or 1.0), new)
        data = AdaptData(
            passages=len(passages), width=frozen.shape[1], asked=questions.asked,
            written=len(texts) - questions.asked, with_queries=len(new), covered=round(share_covered, 4),
            eval_queries=len(eval_set.queries) if eval_set else 0, eval_kind=eval_set.kind if eval_set else "none",
        )  # fmt: skip
        used = [one.usage for one in self.opened.values() if isinstance(one, PaidEmbedder)]
        cost = cost_of(self.runtime.ledger, workspace, used)
        terms = self._terms(cost) if data.written or new else []
        result = Adapted(
            vectors=embedder.name, map=decision, move=self._move_decision(written), evidence=evidence, data=data,
            systems=rows.systems if rows else {}, comparisons=rows.comparisons if rows else (),
            cluster_by=rows.cluster_by if rows else "", notes=tuple(self.notes), timings_s=self.seconds,
            cost=cost,
        )  # fmt: skip
        self._write(result, made, embedder, new, terms)

    # --- what goes in

    def _eval_set(self, passages: Sequence[Passage]) -> EvalSet | None:
        """The questions that the report measures on: people's, else written ones that did not train, else none."""
        folder, kind = self.workspace.path("eval"), "synthetic"
        if self.config.eval_beir is not None:
            folder, kind = Path(self.config.eval_beir), "human"
            if not folder.is_dir():
                raise ArtifactMissing(f"There is no evaluation folder {folder}.", remedy="Give another --eval-beir.")
        elif self.config.adapt.written == "no" or not folder.is_dir():
            self._note("Nothing was measured: give people's questions and their answers with --eval-beir.")
            return None
        found = read_eval_set(folder, "human" if kind == "human" else "synthetic", passages=passages)
        for note in found.notes:
            self.runtime.report.log(f"adapt: {note}")
        return found

    def _open(
        self, vectors: str, passages: Sequence[Passage], queries: Sequence[Query], eval_set: EvalSet | None
    ) -> Embedder:
        run, max_cost = str(self.workspace.root.resolve()), self.config.generate.max_cost
        if not vectors.startswith(ARRAYS):
            # The calls are booked as the stage `generate` books its own, so that --max-cost covers both.
            self.opened[vectors] = open_embedder(vectors, self.runtime, max_cost=max_cost, run=run)
            return self.opened[vectors]
        texts = {one.passage_id: one.content for one in passages}
        asked = [*asked_texts(self.config), *((query.query_id, query.text) for query in queries)]
        if eval_set is not None:
            texts |= dict(zip(eval_set.passage_ids, eval_set.contents, strict=True))
            asked += zip(eval_set.query_ids, eval_set.queries, strict=True)
        return ArrayEmbedder(vectors, passages=texts, questions=_by_id(asked))

    def _known(self, questions: Questions, embedder: Embedder) -> Questions:
        """The questions that have vectors: all, unless vectors come from files."""
        if not isinstance(embedder, ArrayEmbedder):
            return questions
        training = [one for one in questions.training if embedder.knows(one.text)]
        held_out = [one for one in questions.held_out if embedder.knows(one.text)]
        lost = len(questions.training) + len(questions.held_out) - len(training) - len(held_out)
        if lost:
            self._note(f"{lost:,} questions have no vector in the file and were left out.")
        if len(training) < FEWEST:
            raise InputError(
                f"{len(training):,} training questions have a vector; at least {FEWEST} are needed.",
                remedy="Embed the questions with the model of the index. The id of a question is the _id of its line, "
                "or else the line's number; that of a written query is its query_id in queries.jsonl.",
            )
        return replace(questions, training=training, held_out=held_out)

    def _embedded(self, embedder: Embedder, texts: Sequence[str], *, is_query: bool) -> Vectors:
        if not texts:
            return np.zeros((0, 0), np.float32)
        try:
            return self.runtime.vectors.embed(embedder, texts, is_query=is_query, report=self.runtime.report)
        finally:
            embedder.release()

    def _taught(self, contents: Sequence[str], texts: Sequence[str]) -> TeacherScores:
        model, seed = base_model(self.config), self.config.seed
        try:
            return corpus_scores(model, contents, texts, TeacherWeights(), self.runtime, seed=seed)
        except InputError as error:
            raise InputError(
                error.message,
                remedy="See whether the documents differ: embedfit search. Or name another model to teach: --model",
            ) from error

    def _check_one_model(
        self, embedder: Embedder, questions: Vectors, passages: Vectors, scores: TeacherScores
    ) -> None:
        """Raise InputError if all passages have one vector, or if arrays seem to be of two models of one width.

        Of one model, a question's vector is nearer to the passage that the teacher likes best than to most others.
        """
        if float(np.ptp(passages, axis=0).max()) < _ALIKE:
            raise InputError(
                f"All passages have the same vector from {embedder.name}, so no map can tell them apart.",
                remedy="See what the embedder answers, and whether the documents differ.",
            )
        if not isinstance(embedder, ArrayEmbedder) or len(questions) < _ENOUGH_TO_TELL:
            return
        rows = np.arange(len(questions))
        liked = scores.columns[rows, scores.scores.argmax(1)]
        sample = passages[:: max(1, len(passages) // 1000)]
        cosines = questions @ sample.T
        own = (questions * passages[liked]).sum(1)
        deviations = (own - cosines.mean(1)) / np.maximum(cosines.std(1), 1e-6)
        error = float(deviations.std()) / np.sqrt(len(questions))
        if float(deviations.mean()) < _SURE * error:
            raise InputError(
                f"The questions' vectors of {embedder.name} are no nearer to the passages that answer them than to "
                "others: questions and passages were embedded by two models.",
                remedy="Embed both with the model of the index.",
            )

    # --- what comes out

    def _moved(self, embedder: Embedder, written: Written, ids: Sequence[str], frozen: Vectors) -> dict[str, Vectors]:
        """Passage id → moved vector (H,), for passages whose written queries have vectors."""
        knows = embedder.knows if isinstance(embedder, ArrayEmbedder) else lambda text: True
        queries = {n: [one for one in of if knows(one)] for n, of in enumerate(written.queries)}
        own = [number for number, of in queries.items() if of]
        if not own:
            return {}
        flat = self._embedded(embedder, [text for number in own for text in queries[number]], is_query=True)
        ends = np.cumsum([len(queries[number]) for number in own])
        new = moved(frozen[own], np.split(flat, ends[:-1]), self.config.adapt.move_weight)
        return {ids[number]: row for number, row in zip(own, new, strict=True)}

    def _move_decision(self, written: Written) -> AdaptDecision:
        share = self.config.adapt.move_weight
        strong = generator(self.config.generate.generator).strong
        if not written.count:
            return AdaptDecision(share=share, why="no passage has written queries, so none was moved.")
        have = f"{written.covered:.0%} of the passages have written queries"
        if not written.enough:
            return AdaptDecision(
                share=share, why=f"keep the passages' vectors: {have}, and the others would fall back."
            )
        if not strong:
            why = f"keep the passages' vectors: {have}, but a small model's queries gain nothing here."
            return AdaptDecision(share=share, why=why)
        return AdaptDecision(ship=True, share=share, why=f"{have}, written by a strong model.")

    def _rows(
        self, eval_set: EvalSet | None, embedder: Embedder, shown: QueryMap, new: Mapping[str, Vectors]
    ) -> Rows | None:
        if eval_set is None:
            return None
        if eval_set.kind == "synthetic" and new:
            self._note(
                "Moved vectors are not measured: written questions would judge vectors that they themselves moved. "
                "Give people's questions with --eval-beir."
            )
            new = {}
        draws, seed = self.config.evaluate.bootstrap, self.config.seed
        return measured(eval_set, embedder, shown, new, self.runtime, draws=draws, seed=seed)

    def _terms(self, cost: Cost) -> list[str]:
        """What the licences of the models ask that wrote queries, each in a sentence. The page notes them too."""
        generate = self.config.generate
        found = writers(cost.models or [f"{generate.generator}:{generate.llm or ''}"])
        for one in found:
            self._note(f"Queries were written by {one.sentence}")
        return [one.sentence for one in found]

    def _write(
        self, result: Adapted, made: QueryMap, embedder: Embedder, new: Mapping[str, Vectors], terms: list[str]
    ) -> None:
        facts: dict[str, JsonValue] = {
            "passages": result.data.passages,
            "asked": result.data.asked,
            "written": result.data.written,
            "share": result.map.share,
            "why": result.map.why,
            "seed": self.config.seed,
            "licences": [*terms],
        }
        with self.workspace.writing_folder("adapt") as folder:
            if result.map.ship:
                known = None if isinstance(embedder, ArrayEmbedder) else self._embedded(embedder, PROBES, is_query=True)
                card = MapCard(embedder=embedder.name, made=facts)
                replace(made, card=card, probes=known).save(folder / query_map.FILE)
            if self.config.adapt.move and new:
                about = {"embedder": embedder.name, "weight": f"{result.move.share:g}", "licences": " ".join(terms)}
                MovedVectors(list(new), np.stack(list(new.values())), about).save(folder / MOVED)
            (folder / RESULT).write_text(encode_whole(result), "utf-8")

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        self.runtime.report.log(f"adapt: {sentence}")

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[step] = round(time.monotonic() - started, 3)


def _tempered(scores: TeacherScores, asked: int) -> TeacherScores:
    """The scores divided by their temperatures. asked: the first so many questions are people's."""
    divisors = np.where(np.arange(len(scores)) < asked, TEMPERATURE_ASKED, TEMPERATURE_WRITTEN)
    return replace(scores, scores=(scores.scores / divisors[:, None]).astype(np.float32))


def asked_texts(config: Config) -> Iterator[tuple[str, str]]:
    """(id, text) of every question of the files, as the log keeps its text."""
    for name in config.queries:
        for row in rows_of(Path(name)):
            if not row.problem:
                yield row.identifier, cut(row.text)[0]


def _by_id(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Questions by id. Raises InputError for an id of two questions."""
    found: dict[str, str] = {}
    for identifier, text in pairs:
        if found.setdefault(identifier, text) != text:
            raise InputError(
                f"The id {identifier!r} is that of two questions, so their vectors can't be told apart.",
                remedy='Give the questions of files their own ids: {"_id": "log-1", "text": "how do I …"}',
            )
    return found
