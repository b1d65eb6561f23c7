"""The stage `choose`: it decides which retriever ships, over which model, and records the evidence.

It writes retriever.json. If people asked questions, it also writes pool.jsonl, with the passages that the candidates
found for each question, and grades.jsonl, with a judge's grades. The rules are in docs/choosing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embedfit.choosing import candidates as candidate
from embedfit.choosing.candidates import CandidateRetriever
from embedfit.choosing.decision import between_models, decide, enough, points
from embedfit.choosing.evidence import LABELLED_DEPTH, Measurement, graded, labelled
from embedfit.choosing.gate import FEWEST
from embedfit.choosing.grades import (
    Grades,
    JudgedPool,
    RecordedGrades,
    ask_judge,
    by_question,
    person_grades,
    pooled,
    read_recorded,
)
from embedfit.choosing.questions import JudgingQuestion, asked_questions, dev_questions
from embedfit.choosing.ranking import rank
from embedfit.config import RECORDED, Config
from embedfit.errors import GeneratorError, PaidInPart, ProviderError
from embedfit.index.build import Source
from embedfit.index.plan import has_tokens
from embedfit.index.retriever import DEFAULT, EXPANDED
from embedfit.index.tokens import store_tokens
from embedfit.index.written import Written, written_of
from embedfit.models.local import LocalModel, base_model
from embedfit.path.artefacts import (
    ChoiceEvidence,
    ChosenRetriever,
    Grade,
    MergeSweep,
    Passage,
    Pooled,
    Query,
    ShippedModel,
    TuningEvidence,
)
from embedfit.path.workspace import FILES, Workspace
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import COVERED

#: Passages of a ranking beyond the pool's depth. They move up if a passage before them has no grade.
_BEHIND = 6
#: Weighted kappa of a judge with itself, below which its grades choose nothing ("moderate" begins at .41: Landis and
#: Koch 1977).
AGREEMENT = 0.4
#: If a larger share of the best passages has no grade, the grades choose nothing.
MOST_UNGRADED = 0.2


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write retriever.json and, if people asked questions, pool.jsonl and grades.jsonl.

    Raises PaidInPart, after everything was written, if --max-cost did not suffice for all grades.
    """
    run_ = _Run.read(workspace, config, runtime)
    recorded = recorded_judge(config)
    questions = run_.asked(recorded)
    for name in (FILES[Pooled], FILES[Grade]):
        workspace.remove(name)
    judged: JudgedPool | None = None
    if not questions:
        choice = _by_written(run_, "there are no questions of people to choose by")
    else:
        found, judged, doubt = _evidence(run_, questions, recorded)
        if found is None or doubt:
            choice = _by_written(run_, doubt, found)
        else:
            choice = decide(found, run_.models, run_.default, seed=config.seed)
    workspace.store(choice)
    name = CandidateRetriever(model=choice.model, retriever=choice.retriever).name
    runtime.report.log(f"choose: {name} over {choice.model}. {choice.why}")
    if judged is not None and judged.over_budget:
        raise PaidInPart(
            f"{judged.over_budget:,} search results were not graded, because their cost could exceed --max-cost "
            f"${config.generate.max_cost:,.2f}.",
            remedy="Every grade so far is in the ledger. Allow more with --max-cost.",
        )


def write_pool(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write pool.jsonl alone, for a person who grades before the stage has run. It is empty without asked questions."""
    run_ = _Run.read(workspace, config, runtime)
    questions = run_.asked(recorded_judge(config))
    workspace.write(Pooled, run_.pooled(questions, run_.measured(questions).rankings) if questions else [])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Candidates with their deviations, and the ids of the best passages by candidate and question."""

    candidates: list[CandidateRetriever]
    rankings: list[list[list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The run as this stage reads it.

    models: the models to compare; the first ships by the merge's decision. default: the name of the safe default.
    """

    workspace: Workspace
    config: Config
    runtime: Runtime
    queries: list[Query]
    ids: list[str]
    contents: list[str]
    written: Written
    models: tuple[ShippedModel, ...]
    default: str

    @classmethod
    def read(cls, workspace: Workspace, config: Config, runtime: Runtime) -> _Run:
        passages = sorted(workspace.read(Passage), key=lambda one: one.passage_id)
        queries = workspace.read(Query)
        written = written_of([one.passage_id for one in passages], queries)
        return cls(
            workspace=workspace,
            config=config,
            runtime=runtime,
            queries=queries,
            ids=[one.passage_id for one in passages],
            contents=[one.content for one in passages],
            written=written,
            models=("base",) if workspace.load(MergeSweep).decision.ship == "base" else ("merged", "base"),
            default=candidate.safe_name(written, config.generate.generator, config.index.queries),
        )

    @property
    def candidates(self) -> list[CandidateRetriever]:
        """All candidates. Of those over one model the first is the safe default."""
        expanded = self.written.enough and self.config.index.queries != "no"
        return candidate.candidates(
            self.models,
            tokens=self._has_tokens,
            expanded=expanded,
            default=self.default,
            as_a_whole=self.config.training.tuned == "both",
        )

    @property
    def _has_tokens(self) -> bool:
        return has_tokens(len(self.ids), self.config.index.tokens)

    def safe(self, model: ShippedModel) -> CandidateRetriever:
        """The safe default over a model, with its deviations, which need no token vectors."""
        default = next(one.retriever for one in self.candidates if one.model == model)
        first = CandidateRetriever(model=model, retriever=default.without_tokens())
        found = self.measured([], [first]).candidates[0]
        return replace(found, retriever=replace(found.retriever, rerank=default.rerank))

    def asked(self, recorded: RecordedGrades | None) -> list[JudgingQuestion]:
        """The questions that may choose."""
        found = asked_questions(self.queries, self.ids, known=None if recorded is None else recorded.texts)
        return found[: self.config.choose.questions]

    def pooled(self, questions: Sequence[JudgingQuestion], rankings: Sequence[Sequence[Sequence[str]]]) -> list[Pooled]:
        """The pool: for each question the passages that the candidates found, in the order in which they are graded."""
        return pooled(questions, rankings, self.config.choose.pool, seed=self.config.seed)

    def measured(
        self, questions: Sequence[JudgingQuestion], only: Sequence[CandidateRetriever] | None = None
    ) -> _Measured:
        """The rankings of all candidates, or `only` of some."""
        depth = max(_BEHIND * self.config.choose.pool, LABELLED_DEPTH)
        # The constants come from asked questions that don't judge: a judge must not have shaped what it judges.
        log = [one.text for one in self.queries if one.split == "log" and one.kept]
        source = Source(contents=self.contents, queries=self.written.queries, asked=log)
        texts = [question.text for question in questions]
        found, rankings = [], []
        for name in self.models:
            own = [one for one in (self.candidates if only is None else only) if one.model == name]
            if not own:
                continue
            merged = name == "merged"
            model = LocalModel(name, self.workspace.existing(name)) if merged else base_model(self.config)
            if self._has_tokens:  # the stage evaluate needs them: this saves a pass of the model
                store_tokens(self.contents, model, self.runtime.vectors, self.runtime.report)
            for one, rows in rank(own, model, source, texts, depth, self.runtime):
                found.append(one)
                rankings.append([[self.ids[number] for number in row] for row in rows])
        return _Measured(candidates=found, rankings=rankings)


def recorded_judge(config: Config) -> RecordedGrades | None:
    """The judge whose grades are read from a file, or None if the settings name no such file."""
    spec = config.choose.judge
    return read_recorded(Path(spec.removeprefix(RECORDED))) if spec and spec.startswith(RECORDED) else None


# --- evidence


def _evidence(
    run_: _Run, questions: list[JudgingQuestion], recorded: RecordedGrades | None
) -> tuple[Measurement | None, JudgedPool | None, str]:
    """(the measurement, the judge's grades, why the measurement may not choose; empty if it may)."""
    measured = run_.measured(questions)
    candidates, rankings = measured.candidates, measured.rankings
    pools = run_.pooled(questions, rankings)
    run_.workspace.write(Pooled, pools)
    named = [n for n, one in enumerate(questions) if one.relevant]
    labels = None
    if named:
        rows = [[of[n] for n in named] for of in rankings]
        labels = labelled("labelled", [questions[n] for n in named], candidates, rows)
    if labels is not None and enough(labels):
        if run_.config.choose.judge:
            run_.runtime.report.log(f"choose: people named passages of {len(named):,} questions; no judge is asked")
        return labels, None, ""
    judged, failed = _judged(run_, pools, recorded)
    person, begun = _person(run_.workspace, pools)
    if judged is None and not person:
        many = f"people asked {len(questions):,} {'question' if len(questions) == 1 else 'questions'}"
        why = failed or f"{many}, but nobody said what answers them (embedfit grade, or --judge)"
        return labels, None, why if labels is None else _few(labels, why)
    about = ChoiceEvidence(
        graded_by_person=len(person),
        begun_by_person=begun,
        judge=judged.judge if judged else None,
        agreement=judged.agreement if judged else None,
        graded_twice=judged.twice if judged else None,
    )
    trusted = person if not judged or len(person) >= FEWEST else {}
    grades = judged.grades if judged else {}
    found = graded(questions, candidates, rankings, grades, trusted, depth=run_.config.choose.pool, about=about)
    return found, judged, _doubt(found, judged, failed)


def _few(found: Measurement, why: str = "") -> str:
    few = f"{found.questions:,} questions that tell the candidates apart are too few ({FEWEST} are needed)"
    return f"{few}; {why}" if why else few


def _judged(run_: _Run, pools: Sequence[Pooled], recorded: RecordedGrades | None) -> tuple[JudgedPool | None, str]:
    """(the judge's grades, why there are none). A useless judge does not end the run; the default ships."""
    spec = run_.config.choose.judge
    if recorded is not None:
        judged = recorded.judged(pools)
        if not judged.grades:
            return None, f"{recorded.name} grades none of the {len(pools):,} questions that were asked"
    elif spec is None:
        return None, ""
    else:
        contents = dict(zip(run_.ids, run_.contents, strict=True))
        try:
            judged = ask_judge(spec, pools, contents, run_.workspace, run_.config, run_.runtime)
        except ProviderError:
            raise  # a key or a name that is wrong can be mended
        except GeneratorError as error:
            run_.runtime.report.log(f"choose: {error.message} {error.remedy or ''}")
            return None, f"the judge is of no use: {error.message.rstrip('.')}"
    run_.workspace.write(Grade, judged.rows)
    return judged, ""


def _person(workspace: Workspace, pools: Sequence[Pooled]) -> tuple[Grades, int]:
    """(the grades of the questions that a person graded whole, the number of those graded in part)."""
    found = by_question(person_grades(workspace))
    whole = {one.query_id for one in pools if one.passages and set(one.passages) <= found.get(one.query_id, {}).keys()}
    asked_ids = {one.query_id for one in pools}
    return {key: grades for key, grades in found.items() if key in whole}, len((found.keys() & asked_ids) - whole)


def _doubt(found: Measurement, judged: JudgedPool | None, failed: str) -> str:
    """Why the grades may not choose; empty if they may."""
    if judged is not None and judged.agreement is not None and judged.agreement < AGREEMENT:
        kappa = f"{judged.agreement:.2f}, below {AGREEMENT}"
        return (
            f"the judge contradicts itself (weighted kappa of {judged.twice:,} results that it graded twice: {kappa})"
        )
    if not enough(found):
        return _few(found, failed)
    ships = [one.ships for one in found.candidates]
    most = 0.0 if found.blind is None else float(found.blind[ships].max())
    if most > MOST_UNGRADED:
        return f"{most:.0%} of a candidate's best passages have no grade, more than {MOST_UNGRADED:.0%}"
    return ""


# --- the safe default


def _by_written(run_: _Run, reason: str, found: Measurement | None = None) -> ChosenRetriever:
    """The safe default, over the tuned model unless written dev queries say that it is surely worse than the base.

    Written queries decide no more than that, because they can't choose between words and vectors (docs/recipe.md), and
    not even that if a map learned from a log in the passages' words: it follows what people ask. They compare the
    models by the default's first stage. reason: why no asked questions choose. found: a measurement that was not
    enough.
    """
    evidence = ChoiceEvidence() if found is None else found.about
    model, said = run_.models[0], ""
    dev, first = dev_questions(run_.queries, run_.ids), DEFAULT.without_tokens()
    if len(run_.models) > 1 and len(dev) >= FEWEST:
        pair = [CandidateRetriever(model=one, retriever=first) for one in run_.models]
        ranked = run_.measured(dev, pair)
        by_dev = labelled("written", dev, ranked.candidates, ranked.rankings)
        one = between_models(by_dev, first.name, run_.config.seed)
        tuning = TuningEvidence(retriever=first.name, **dict(one))
        evidence = (by_dev.about if found is None else evidence).model_copy(update={"tuning": tuning})
        if one.verdict == "worse" and (run_.workspace.load(MergeSweep).evidence.covered or 0) < COVERED:
            model = run_.models[1]
            said = f", over the base: on written dev queries the tuned model is surely worse ({points(one)})"
    beside = ""
    if run_.default == EXPANDED.name:
        beside = f" with the written queries in its index, which cover {run_.written.covered:.0%} of the passages"
    default = run_.safe(model).retriever
    return ChosenRetriever(
        model=model,
        retriever=default,
        why=f"The safe default ships{beside}{said}, because {reason.rstrip('.')}.",
        evidence=evidence,
        default=default,
    )
