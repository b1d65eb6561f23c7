"""The stage `assess`: passages, models and questions → assess/: the rows, what is advised, and the page."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedfit.assessing import questions as asking
from embedfit.assessing.measuring import Key, Room, graded_values, labelled_values
from embedfit.assessing.page import render
from embedfit.assessing.verdict import Kind, Values, model_of, outlook, retriever_of
from embedfit.choosing.grades import RecordedGrades, ask_judge, by_question, person_grades, pooled, read_recorded
from embedfit.choosing.questions import JudgingQuestion
from embedfit.config import RECORDED, Config
from embedfit.errors import UsageError
from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.evaluation.measure import Measured
from embedfit.files.hashes import files_below
from embedfit.index.written import Written, written_of
from embedfit.llm.ledger.rows import Usage
from embedfit.llm.ledger.store import Ledger
from embedfit.models.local import LocalModel, base_model, local_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.numerics.arrays import Doubles, Ints
from embedfit.path.artefacts import (
    METRIC,
    Assessed,
    AssessedRow,
    ChoiceEvidence,
    ChosenRetriever,
    Cost,
    Document,
    Passage,
    Pooled,
    Query,
    written,
)
from embedfit.path.workspace import FILES, Workspace, encode_record, encode_whole
from embedfit.retrieval.significance import bootstrap_means, interval
from embedfit.retrieval.vocabulary import known
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import covered

#: The files of the folder assess/.
FOLDER, RESULT, QUESTIONS, POOL, PAGE = "assess", "assess.json", "questions.jsonl", "pool.jsonl", "report.html"
#: Metrics that a row shows besides the one that decides.
_SHOWN = ("hit@1", "hit@5", "mrr@10", "recall@100")


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write assess/: assess.json, report.html, and the questions that were written or the pool that can be graded."""
    _Assessment(workspace, config, runtime).write()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """Questions with the metric of every row. used: the calls of a language model, by their keys."""

    eval_set: EvalSet
    measured: Mapping[Key, Measured]
    values: Values
    metric: str
    cluster_by: str
    used: frozenset[str] = frozenset()


class _Assessment:
    def __init__(self, workspace: Workspace, config: Config, runtime: Runtime) -> None:
        self.workspace, self.config, self.runtime = workspace, config, runtime
        self.started = time.monotonic()
        self.passages = sorted(workspace.read(Passage), key=lambda one: one.passage_id)
        self.documents = workspace.read(Document)
        self.notes: list[str] = []
        self.files: dict[str, str] = {}
        self.names = [config.model, *(name for name in config.assess.models if name != config.model)]
        self.models: dict[str, LocalModel] = {
            name: base_model(config) if name == config.model else local_model(name, name) for name in self.names
        }

    def write(self) -> None:
        for name, model in self.models.items():
            found = known(load_tokenizer(model.folder), [one.content for one in self.passages])
            if warning := found.warning(name):
                self._note(warning)
        evidence = self._evidence()
        result = self._result(evidence)
        with self.workspace.writing_folder(FOLDER) as folder:
            for name, text in self.files.items():
                (folder / name).write_text(text, "utf-8")
            (folder / RESULT).write_text(encode_whole(result), "utf-8")
            (folder / PAGE).write_text(render(result, self.workspace.root.as_posix()), "utf-8")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.runtime.report.log(f"assess: {text}")

    # --- questions

    def _evidence(self) -> _Evidence:
        """The best evidence there is: known answers, then grades, then written questions."""
        if self.config.eval_beir is not None:
            folder = Path(self.config.eval_beir)
            found = read_eval_set(folder, "human", passages=self.passages, document_names=self._names())
            if set(found.passage_ids) != {one.passage_id for one in self.passages}:
                self._note("the corpus of --eval-beir is not that of the documents: the rows are of the former")
            return self._labelled(found, "labelled")
        log = asking.log_of(self.config, self.runtime)
        if log is not None:
            people = asking.people(log, self.passages)
            if people.answered:
                return self._labelled(self._eval_set(people.answered, human=True), "labelled")
            graded = self._graded(people.others)
            if graded is not None:
                return graded
        queries = asking.written(
            self.workspace, self.passages, log, self.config, self.runtime, self.config.assess.questions
        )
        self.files[QUESTIONS] = "".join(encode_record(one) + "\n" for one in queries)
        chosen = asking.judging(queries, self.config.assess.questions)
        evidence = self._labelled(self._eval_set(chosen, human=False), "written")
        return replace(evidence, used=frozenset(one.call_id for one in queries) - {""})

    def _names(self) -> dict[str, str]:
        return {one.document_id: Path(one.path).name for one in self.documents}

    def _eval_set(self, questions: Sequence[JudgingQuestion], *, human: bool) -> EvalSet:
        return asking.eval_set(self.passages, questions, self._names(), human=human)

    def _room(self, eval_set: EvalSet) -> Room:
        return Room(
            config=self.config,
            runtime=self.runtime,
            eval_set=eval_set,
            models=self.models,
            written=self._written(eval_set) if eval_set.kind == "human" else None,
        )

    def _written(self, eval_set: EvalSet) -> Written | None:
        """The run's written queries, if an index may hold them. Those that judge never lie in it."""
        if not self.workspace.path(FILES[Query]).exists():
            return None
        found = written_of(eval_set.passage_ids, written(self.workspace.read(Query)))
        return found if found.enough else None

    def _labelled(self, eval_set: EvalSet, kind: Kind) -> _Evidence:
        self.runtime.report.log(
            f"assess: {len(eval_set.queries):,} questions, {len(eval_set.passage_ids):,} passages, "
            f"{len(self.models)} models"
        )
        measured = self._room(eval_set).measured()
        clusters, cluster_by = eval_set.clusters()
        values = self._values(kind, measured, labelled_values(measured), clusters)
        return _Evidence(eval_set=eval_set, measured=measured, values=values, metric=METRIC, cluster_by=cluster_by)

    def _values(self, kind: Kind, measured: Mapping[Key, Measured], values: Doubles, clusters: Ints) -> Values:
        return Values(kind=kind, keys=list(measured), values=values, clusters=clusters, seed=self.config.seed)

    def _graded(self, asked: Sequence[JudgingQuestion]) -> _Evidence | None:
        """The evidence of a judge's or a person's grades; None, with a note, if there are none that tell rows apart."""
        spec, depth = self.config.choose.judge, self.config.choose.pool
        recorded = read_recorded(Path(spec.removeprefix(RECORDED))) if spec and spec.startswith(RECORDED) else None
        wanted = [one for one in asked if recorded is None or recorded.of(one)][: self.config.choose.questions]
        if not wanted:
            self._note(f"{spec} grades none of the {len(asked):,} questions")
            return None
        eval_set = self._eval_set(wanted, human=True)
        measured = self._room(eval_set).measured()
        pools = pooled(wanted, [one.found for one in measured.values()], depth, seed=self.config.seed)
        self.files[POOL] = "".join(encode_record(one) + "\n" for one in pools)
        grades, used = self._grades(pools, recorded)
        values, numbers = graded_values(measured, eval_set.query_ids, grades, depth)
        if not numbers:
            self._note(
                "nobody said what answers the questions of --queries, so written ones assess. To let yours: "
                f"--judge SPEC, or embedfit grade --run {shlex.quote(str(self.workspace.root))}, and assess again"
            )
            return None
        kept = replace(
            eval_set,
            query_ids=tuple(eval_set.query_ids[number] for number in numbers),
            queries=tuple(eval_set.queries[number] for number in numbers),
        )
        return _Evidence(
            eval_set=kept,
            measured=measured,
            values=self._values("graded", measured, values, np.arange(len(numbers))),
            metric=f"ndcg@{depth}",
            cluster_by="question",
            used=used,
        )

    def _grades(
        self, pools: Sequence[Pooled], recorded: RecordedGrades | None
    ) -> tuple[dict[str, dict[str, int]], frozenset[str]]:
        """(grades by question and passage, a person's before a judge's; the keys of the calls that were made)."""
        judged = None
        if recorded is not None:
            judged = recorded.judged(pools)
        elif self.config.choose.judge is not None:
            contents = {one.passage_id: one.content for one in self.passages}
            judged = ask_judge(self.config.choose.judge, pools, contents, self.workspace, self.config, self.runtime)
        found: dict[str, dict[str, int]] = {}
        for of in (judged.grades if judged else {}, by_question(person_grades(self.workspace))):
            for question, grades in of.items():
                found.setdefault(question, {}).update(grades)
        asked = {one.query_id for one in pools}
        calls = frozenset(row.call_id for row in judged.rows) - {""} if judged else frozenset[str]()
        return {question: grades for question, grades in found.items() if question in asked}, calls

    # --- the result

    def _result(self, evidence: _Evidence) -> Assessed:
        values, draws = evidence.values, self.config.evaluate.bootstrap
        model, model_why = model_of(values, {name: _size(one) for name, one in self.models.items()})
        number, why, _ = retriever_of(values, model)
        rows = self._rows(evidence)
        start = values.place("base", self.names[0])
        assert start is not None
        found = values.difference(number, start, draws) if number != start else None
        choice = ChosenRetriever(
            model="base",
            retriever=rows[number].retriever,
            why=why,
            evidence=ChoiceEvidence(kind=values.kind, questions=len(values.values), metric=evidence.metric),
            default=rows[values.default(model)].retriever,
        )
        return Assessed(
            kind=values.kind,
            questions=len(values.values),
            passages=len(evidence.eval_set.passage_ids),
            documents=sum(one.status in ("ok", "partial") for one in self.documents),
            metric=evidence.metric,
            cluster_by=evidence.cluster_by,
            rows=tuple(rows),
            models=tuple(self.names),
            model=model,
            model_why=model_why,
            choice=choice,
            command=self._command(model, choice),
            outlook=outlook(
                values,
                model,
                passages=len(self.passages),
                covered=covered(evidence.eval_set.contents, evidence.eval_set.queries),
                draws=draws,
            ),
            detectable=found.detectable if found else None,
            notes=tuple(self.notes),
            cost=self._cost(evidence.used),
            seconds=round(time.monotonic() - self.started, 3),
        )

    def _rows(self, evidence: _Evidence) -> list[AssessedRow]:
        values = evidence.values
        means = bootstrap_means(
            values.values,
            values.clusters,
            draws=self.config.evaluate.bootstrap,
            rng=np.random.default_rng(self.config.seed),
        )
        intervals = interval(means, len(np.unique(values.clusters)), bounds=(0.0, 1.0)).tolist()
        start = values.place("base", self.names[0])
        assert start is not None
        rows = []
        for number, ((_, model), measured) in enumerate(evidence.measured.items()):
            difference = values.difference(number, start, self.config.evaluate.bootstrap)
            assert measured.retriever is not None
            shown = {} if values.kind == "graded" else {one: float(measured.column(one).mean()) for one in _SHOWN}
            rows.append(
                AssessedRow(
                    model=model,
                    retriever=measured.retriever,
                    score=float(values.values[:, number].mean()),
                    ci95=(intervals[number][0], intervals[number][1]),
                    delta=difference.delta,
                    delta_ci95=difference.ci95,
                    p_value=difference.p_value,
                    metrics=shown,
                    bytes_a_passage=measured.bytes_a_passage,
                    ms_a_query=measured.ms_a_query,
                )
            )
        return rows

    def _command(self, model: str, choice: ChosenRetriever) -> str:
        """The command that builds the recommended retriever, with the same passages, model and weights.

        An index of the documents themselves cuts passages for its own model and has the safe default. Any other is
        built from this run's passages.
        """
        plain = Config(docs=self.config.docs, model=self.config.model)
        same_cut = model == self.config.model and plain.ingest == self.config.ingest
        default = choice.retriever.name == choice.default.name and self.config.index == plain.index
        if not (same_cut and default and self.config.query_instruction is None and self.config.seed == plain.seed):
            return f"embedfit index --run {shlex.quote(str(self.workspace.root))}"
        docs = " ".join(shlex.quote(one) for one in self.config.docs)
        return f"embedfit index {docs} --model {shlex.quote(model)} --to-folder index"

    def _cost(self, used: frozenset[str]) -> Cost:
        usage, models = Usage(), tuple[str, ...]()
        if used and self.runtime.ledger.exists():
            with Ledger(self.runtime.ledger) as ledger:
                usage, models = ledger.usage_of(used), ledger.models_of(used)
        return Cost(
            calls=usage.calls,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            usd=round(usage.usd, 6),
            models=models,
        )


def _size(model: LocalModel) -> int:
    """Bytes of a model's weights, by which the cheapest of several is known."""
    return sum(path.stat().st_size for _, path in files_below(model.folder) if path.suffix == ".safetensors")


def check(config: Config) -> None:
    """Raise UsageError for a model that is named twice."""
    if len(set(config.assess.models)) < len(config.assess.models):
        raise UsageError("A model is named twice.", remedy="Name each once: --models minilm,mpnet")
