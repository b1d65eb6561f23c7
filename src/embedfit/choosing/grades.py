"""Grades of pooled search results: asked of a language model, read from a file, or given by a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field, StrictInt, ValidationError

from embedfit.choosing.metric import GAINS, weighted_kappa
from embedfit.choosing.questions import JudgingQuestion, same
from embedfit.config import RECORDED, Config, with_generator
from embedfit.errors import InputError
from embedfit.files.textfiles import json_lines
from embedfit.judging.grading import Graded, Result, grade_all
from embedfit.llm.metered import OVER_BUDGET
from embedfit.llm.opening import open_spec
from embedfit.llm.protocol import extra_of
from embedfit.path.artefacts import Grade, Pooled, Whole
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

#: The file of a person's grades in a run folder; the last row of a question and a passage counts.
PERSON_FILE = "person_grades.jsonl"
PERSON = "person"
#: The share of the results that a judge grades twice, and the least and the most of them.
TWICE, FEWEST_TWICE, MOST_TWICE = 0.1, 20, 200
_FORM = 'A row is: {"query_id": "q1", "query": "how do I …", "grades": {"a passage\'s id": 0, 1, 2 or 3}}'

Grades = dict[str, dict[str, int]]
GradeValue = Annotated[StrictInt, Field(ge=0, lt=len(GAINS))]


@dataclass(slots=True)
class JudgedPool:
    """A judge's grades of a pool.

    rows: one for each question and passage that it was asked about. agreement: its weighted kappa with itself, None if
    it graded nothing twice.
    """

    judge: str
    rows: list[Grade] = field(default_factory=list)
    agreement: float | None = None
    twice: int = 0

    @property
    def grades(self) -> Grades:
        """JudgingQuestion's id → passage's id → grade."""
        return by_question(self.rows)

    @property
    def over_budget(self) -> int:
        """The number of results that have no grade because of --max-cost."""
        return sum(row.reason == OVER_BUDGET for row in self.rows)


def by_question(rows: Iterable[Grade]) -> Grades:
    """JudgingQuestion's id → passage's id → grade; the last row of a pair counts."""
    found: Grades = defaultdict(dict)
    for row in rows:
        if row.grade is None:
            found[row.query_id].pop(row.passage_id, None)
        else:
            found[row.query_id][row.passage_id] = row.grade
    return {query: grades for query, grades in found.items() if grades}


def pooled(
    questions: Sequence[JudgingQuestion], rankings: Sequence[Sequence[Sequence[str]]], depth: int, *, seed: int
) -> list[Pooled]:
    """The best `depth` passages of every ranking of each question, each once, in random order.

    rankings: passage ids, best first, by candidate and question.
    """
    rng = np.random.default_rng(seed)
    pools = []
    for number, question in enumerate(questions):
        passages = sorted({one for of_candidate in rankings for one in of_candidate[number][:depth]})
        order = rng.permutation(len(passages))
        mixed = tuple(passages[place] for place in order.tolist())
        pools.append(Pooled(query_id=question.query_id, query=question.text, passages=mixed))
    return pools


# --- a language model


def ask_judge(
    spec: str,
    pools: Sequence[Pooled],
    contents: Mapping[str, str],
    workspace: Workspace,
    config: Config,
    runtime: Runtime,
) -> JudgedPool:
    """Grades of a pool by the language model that a spec names. Some results are graded twice.

    contents: texts of passages by id. Raises UsageError if the user does not agree to the cost, GeneratorError if the
    model gives no usable grade.
    """
    generate = with_generator(config.generate, spec)
    pairs = [(pool, passage) for pool in pools for passage in pool.passages]
    results = [Result(pool.query, contents[passage]) for pool, passage in pairs]
    count = min(len(pairs), MOST_TWICE, max(FEWEST_TWICE, round(TWICE * len(pairs))))
    again = np.random.default_rng(config.seed).permutation(len(pairs))[:count].tolist()
    swapped = [Result(results[number].question, results[number].passage, swapped=True) for number in again]
    extra = extra_of(generate.extra_body) if generate.generator == config.generate.generator else ""
    run, limit = str(workspace.root.resolve()), generate.max_reply_tokens
    with open_spec(spec, runtime, run=run, like=config.generate) as model:
        found = grade_all(model, [*results, *swapped], runtime, max_tokens=limit, extra=extra)
        name = model.name
    rows = [_row(pool, passage, one, name) for (pool, passage), one in zip(pairs, found, strict=False)]
    grades = [(found[first].grade, second.grade) for first, second in zip(again, found[len(pairs) :], strict=True)]
    both = [(first, second) for first, second in grades if first is not None and second is not None]
    agreement = weighted_kappa(*zip(*both, strict=True)) if both else None
    return JudgedPool(judge=name, rows=rows, agreement=agreement, twice=len(both))


def _row(pool: Pooled, passage: str, one: Graded, judge: str) -> Grade:
    return Grade(
        query_id=pool.query_id,
        query=pool.query,
        passage_id=passage,
        grade=one.grade,
        reason=one.reason,
        judge=judge,
        call_id=one.call_id,
    )


# --- a file


@dataclass(slots=True)
class RecordedGrades:
    """Grades read from a file. texts: by the question's text, as `same` gives it. ids: by the question's id.

    twice: pairs of grades, one for each result that the file grades more than once.
    """

    name: str
    texts: dict[str, dict[str, int]] = field(default_factory=dict)
    ids: dict[str, dict[str, int]] = field(default_factory=dict)
    twice: list[tuple[int, int]] = field(default_factory=list)

    def of(self, question: Pooled | JudgingQuestion) -> dict[str, int]:
        """The grades of a question, found by its text or else by its id."""
        text = question.query if isinstance(question, Pooled) else question.text
        return self.texts.get(same(text)) or self.ids.get(question.query_id) or {}

    def judged(self, pools: Sequence[Pooled]) -> JudgedPool:
        """The file's grades of a pool. A passage that the file lacks has no grade."""
        unknown = f"{self.name} has no grade of it"
        rows = []
        for pool in pools:
            grades = self.of(pool)
            for passage in (*pool.passages, *(one for one in grades if one not in pool.passages)):
                known = passage in grades
                graded = Graded(grade=grades.get(passage), reason="" if known else unknown)
                rows.append(_row(pool, passage, graded, RECORDED.rstrip(":")))
        agreement = weighted_kappa(*zip(*self.twice, strict=True)) if len(self.twice) >= FEWEST_TWICE else None
        return JudgedPool(judge=self.name, rows=rows, agreement=agreement, twice=len(self.twice))


def read_recorded(path: Path) -> RecordedGrades:
    """The grades of a file. A row holds a question with all its grades or, as in grades.jsonl, a single grade.

    Raises InputError naming file and line.
    """
    if not path.is_file():
        raise InputError(f"The recorded grades {path} are missing.", remedy="Name a file: --judge recorded:FILE")
    found = RecordedGrades(name=path.name)
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        text, identifier = row.get("query"), row.get("query_id")
        if not isinstance(text, str) and not isinstance(identifier, str | int):
            raise InputError(f"{where}: neither query nor query_id is there.", remedy=_FORM)
        for passage, grade in _grades_of(row, where):
            for key, places in ((same(text) if isinstance(text, str) else "", found.texts), (identifier, found.ids)):
                if key in (None, ""):
                    continue
                known = places.setdefault(str(key), {})
                if passage in known and places is (found.texts if isinstance(text, str) else found.ids):
                    found.twice.append((known[passage], grade))
                known[passage] = grade
    if not found.texts and not found.ids:
        raise InputError(f"{path} holds no grade.", remedy=_FORM)
    return found


def _grades_of(row: Mapping[str, object], where: str) -> Iterator[tuple[str, int]]:
    single = "passage_id" in row
    grades = {row["passage_id"]: row.get("grade")} if single else row.get("grades")
    if not isinstance(grades, dict):
        raise InputError(f"{where}: there are no grades.", remedy=_FORM)
    for passage, grade in grades.items():
        if single and grade is None:
            continue  # grades.jsonl keeps what the judge could not grade
        if isinstance(grade, bool) or not isinstance(grade, int | float) or grade not in range(len(GAINS)):
            raise InputError(f"{where}: the grade of {str(passage)[:60]!r} is not 0, 1, 2 or 3.", remedy=_FORM)
        yield str(passage), int(grade)


# --- a person


class GivenGrade(Whole):
    """A grade as a person's file has it. grade: None takes an earlier one back."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    query_id: str
    query: str
    passage_id: str
    grade: GradeValue | None

    def as_grade(self) -> Grade:
        """The same as a row of grades.jsonl."""
        return Grade(**dict(self), judge=PERSON)


def person_grades(workspace: Workspace) -> list[Grade]:
    """A person's grades, in the order in which they were given. A last line that a crash cut is left out."""
    path = workspace.path(PERSON_FILE)
    workspace.opened.add(PERSON_FILE)
    if not path.is_file():
        return []
    rows = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(GivenGrade.model_validate_json(line).as_grade())
        except ValidationError as error:
            if number == len(lines):  # only the last row can be cut: every whole row ends with a line break
                continue
            raise InputError(
                f"{path}, line {number}: this is no grade.", remedy="Mend the line, or delete it and grade it again."
            ) from error
    return rows
