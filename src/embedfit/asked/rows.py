"""Turns a log of questions into rows of queries.jsonl: a sample that judges retrievers, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from embedfit.asked.log import Log, Question
from embedfit.asked.overlap import Embed, alike
from embedfit.asked.sampling import drawn
from embedfit.path.artefacts import ASKED, Passage, Query
from embedfit.progress import Reporter
from embedfit.retrieval.languages import languages_of, name_of

#: Why a question of the log trains nothing.
JUDGES_TOO, MEASURES_TOO = "a question that judges asks the same", "a question of --eval-beir asks the same"
#: The most questions from which the judging ones are drawn: encoding more would bring little.
CANDIDATES = 5_000
#: With fewer questions than this, the wrong retriever is chosen too often (docs/recipe.md).
ENOUGH_TO_CHOOSE = 15
#: The number of questions that are joined to tell their language, because one is too short.
_JOINED, _LANGUAGE_SAMPLE = 8, 800
#: Makes, beside the seed, the random stream that draws the questions that judge.
_JUDGED_STREAM = 5


def rows_of_log(
    log: Log, passages: Sequence[Passage], embed: Embed, report: Reporter, *, judged: int, seed: int
) -> list[Query]:
    """One row for each question of the log. At most `judged` rows have the split "judge", the others "log".

    embed: questions → (N, H) unit rows. Counts of the log are logged.
    """
    for sentence in log.sentences():
        report.log(sentence)
    questions = list(log.questions.items())
    known = _Answers(passages)
    found = [known.of(question) for _, question in questions]
    unknown = sum(lost for _, lost in found)
    # Labels are free and tell more than grades: if there are enough of them, only labelled questions judge.
    named = [number for number, (answers, _) in enumerate(found) if answers]
    among = named if len(named) >= ENOUGH_TO_CHOOSE else list(range(len(questions)))
    judges = {among[place] for place in _judging([questions[n][1] for n in among], embed, judged, seed)}
    rows = []
    for number, ((key, question), (answers, _)) in enumerate(zip(questions, found, strict=True)):
        rows.append(
            Query(
                query_id=f"{ASKED}-{key[:16]}",
                passage_id=answers[0] if answers else "",
                also_relevant=tuple(answers[1:]),
                text=question.text,
                style=ASKED,
                split="judge" if number in judges else "log",
                kept=True,
                times=question.times,
            )
        )
    if unknown:
        report.log(f"queries: {unknown:,} positives are neither a passage nor a document of this corpus: left out")
    if few := too_few(len(judges)):
        report.log(few)
    if note := other_language([one.text for _, one in questions], passages):
        report.log(note)
    return rows


def apart(rows: Sequence[Query], measured: Sequence[str], embed: Embed, report: Reporter) -> list[Query]:
    """The rows, of which those of the log that ask the same as a piece of evidence are not kept.

    Evidence are the rows that judge and the texts that the report measures on. embed: questions → (N, H) unit rows.
    """
    log = [number for number, row in enumerate(rows) if row.split == "log" and row.kept]
    result = list(rows)
    for evidence, reason in (
        ([row.text for row in rows if row.split == "judge"], JUDGES_TOO),
        (measured, MEASURES_TOO),
    ):
        found = alike([rows[number].text for number in log], evidence, embed)
        for number, same in zip(log, found.tolist(), strict=True):
            if same and result[number].kept:
                result[number] = replace(rows[number], kept=False, reason=reason)
        if same_ones := int(found.sum()):
            report.log(f"queries: {same_ones:,} of the log train nothing, because {reason}")
    return result


def answers_of(log: Log, passages: Sequence[Passage]) -> list[list[str]]:
    """The ids of the passages that the files name as answers of each question, none for most."""
    known = _Answers(passages)
    return [known.of(question)[0] for question in log.questions.values()]


def too_few(count: int) -> str:
    """A log line if so few questions can't choose a retriever, else ""."""
    if count >= ENOUGH_TO_CHOOSE:
        return ""
    return (
        f"queries: {count:,} different questions are too few to choose a retriever by; at least {ENOUGH_TO_CHOOSE} are "
        "needed, and fifty are good"
    )


def _judging(questions: Sequence[Question], embed: Embed, judged: int, seed: int) -> list[int]:
    """The numbers of the questions that judge."""
    if len(questions) <= judged:
        return list(range(len(questions)))
    if judged < 1:
        return []
    candidates = questions[:CANDIDATES]
    vectors = embed([one.text for one in candidates])
    times = np.array([one.times for one in candidates], np.int64)
    # If only some are candidates, the frequency of questions already decided which.
    weights = times if len(candidates) == len(questions) else np.ones_like(times)
    chosen: list[int] = drawn(vectors, weights, judged, rng=np.random.default_rng([seed, _JUDGED_STREAM])).tolist()
    return chosen


class _Answers:
    """Finds passage ids by the names that users give to passages and documents."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = {one.passage_id for one in passages}
        self._documents: dict[str, list[str]] = {}
        for one in passages:
            names = {one.document_id, one.document_id.rsplit("/", 1)[-1]}
            for name in names:
                self._documents.setdefault(name, []).append(one.passage_id)

    def of(self, question: Question) -> tuple[list[str], int]:
        """Passage ids that answer a question, each once, and how many of its positives are unknown."""
        found: dict[str, None] = {}
        lost = 0
        for name in question.positives:
            if name in self._passages:
                found[name] = None
            elif name in self._documents:
                found.update(dict.fromkeys(self._documents[name]))
            else:
                lost += 1
        return list(found), lost


def other_language(questions: Sequence[str], passages: Sequence[Passage]) -> str:
    """A log line if the questions are in a language that no document is in, else ""."""
    sample = questions[:_LANGUAGE_SAMPLE]
    joined = [". ".join(sample[start : start + _JOINED]) for start in range(0, len(sample), _JOINED)]
    asked, written = languages_of(joined), languages_of([one.content for one in passages])
    foreign = [code for code in asked[:1] if code not in written]
    if not foreign or not written:
        return ""
    return (
        f"queries: the questions seem to be in {name_of(foreign[0])}, and the documents in {name_of(written[0])}: "
        "words will not match, and only a model that knows both languages finds anything"
    )
