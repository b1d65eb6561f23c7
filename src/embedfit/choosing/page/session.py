"""A person's grading of a pool. Each grade is saved the moment it is given."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from pydantic import StrictInt, ValidationError

from embedfit.choosing.grades import PERSON, PERSON_FILE, GradeValue, by_question, person_grades
from embedfit.errors import InputError
from embedfit.files.atomic import disk_errors
from embedfit.index.highlight import Highlighter
from embedfit.path.artefacts import Grade, Passage, Pooled, Whole
from embedfit.path.workspace import Workspace, encode_record

#: Characters of a passage that are shown.
_SHOWN = 6_000


class PageGrade(Whole):
    """A grade as the page sends it: numbers of a question and of its passage, and the grade or None to take it back."""

    question: StrictInt
    passage: StrictInt
    grade: GradeValue | None = None

    @classmethod
    def read(cls, body: bytes) -> PageGrade:
        """The grade of a request's body. Raises InputError."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise InputError(
                "A grade is a JSON object: question and passage by number, and 0, 1, 2, 3 or null as grade."
            ) from error


class Session:
    """The pool of a run, with the grades that a person has given.

    The page hides which retriever found a passage, and at which rank. goal: a sufficient number of questions; a person
    may grade more.
    """

    def __init__(
        self,
        workspace: Workspace,
        pools: Sequence[Pooled],
        passages: Mapping[str, Passage],
        highlighter: Highlighter,
        *,
        goal: int,
    ) -> None:
        self._workspace = workspace
        self._pools = [one for one in pools if one.passages]
        self._passages = passages
        self._highlighter = highlighter
        self._goal = min(goal, len(self._pools))
        self._grades = by_question(person_grades(workspace))

    @property
    def whole(self) -> int:
        """The number of questions whose passages all have a grade."""
        return sum(done == total for done, total in self._progress())

    def _progress(self) -> list[tuple[int, int]]:
        grades = [self._grades.get(one.query_id, {}) for one in self._pools]
        return [
            (sum(passage in of for passage in one.passages), len(one.passages))
            for one, of in zip(self._pools, grades, strict=True)
        ]

    def state(self) -> dict[str, object]:
        """The progress of the grading: for each question the number of graded passages and of all its passages."""
        return {"run": self._workspace.root.name, "goal": self._goal, "questions": self._progress()}

    def question(self, number: int) -> dict[str, object]:
        """A question with its passages: heading, text, the ranges of the question's words in it, and the grade."""
        pool = self._pool(number)
        grades = self._grades.get(pool.query_id, {})
        shown = []
        for passage_id in pool.passages:
            passage = self._passages[passage_id]
            text = passage.text if len(passage.text) <= _SHOWN else f"{passage.text[:_SHOWN]} …"
            shown.append(
                {
                    "heading": passage.title,
                    "text": text,
                    "marked": self._highlighter.spans(pool.query, text),
                    "grade": grades.get(passage_id),
                }
            )
        return {"question": pool.query, "passages": shown}

    def grade(self, given: PageGrade) -> dict[str, object]:
        """Keep a grade, or take one back (None). It is on the disk when this returns. Raises InputError."""
        pool, grade = self._pool(given.question), given.grade
        if given.passage not in range(len(pool.passages)):
            raise InputError(f"The question has {len(pool.passages):,} passages, counted from 0.")
        row = Grade(
            query_id=pool.query_id, query=pool.query, passage_id=pool.passages[given.passage], grade=grade, judge=PERSON
        )
        self._append(encode_record(row))
        of = self._grades.setdefault(row.query_id, {})
        if grade is None:
            of.pop(row.passage_id, None)
        else:
            of[row.passage_id] = grade
        return self.state()

    def _pool(self, number: int) -> Pooled:
        if number not in range(len(self._pools)):
            raise InputError(f"There are {len(self._pools):,} questions, counted from 0.")
        return self._pools[number]

    def _append(self, line: str) -> None:
        path = self._workspace.path(PERSON_FILE)
        with disk_errors(path), path.open("a+b") as file:
            file.seek(0)
            last = file.read().rpartition(b"\n")[2]
            if last and not _is_json(last):  # a crash cut the last line: the new one must not join it
                file.truncate(file.tell() - len(last))
            elif last:
                line = f"\n{line}"
            file.write(line.encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
