"""The questions of an adaptation: those that train the map, and those that decide whether it ships."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from embedfit.asked.log import key_of, read_log
from embedfit.asked.rows import answers_of
from embedfit.choosing.grades import by_question, person_grades
from embedfit.choosing.metric import can_tell
from embedfit.config import Config
from embedfit.errors import InputError
from embedfit.path.artefacts import Grade, Passage, Query, written
from embedfit.path.forgotten import read_forgotten
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

#: Fewer different questions than this can't train a map.
FEWEST = 8
#: Fewer held-out questions than this decide nothing.
ENOUGH = 16

EvidenceKind = Literal["labelled", "graded", "written", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A question that trains. sources: the passages that it was written of; () for a question that people asked."""

    text: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A question that decides. gains: passage id → 1 for an answer, or a grade of 0 to 3. cluster: what it is about."""

    text: str
    gains: Mapping[str, int]
    cluster: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """All questions of an adaptation. No question is in both lists. kind: where the answers of held_out come from."""

    training: Sequence[Training]
    held_out: Sequence[HeldOut]
    kind: EvidenceKind

    @property
    def asked(self) -> int:
        """The number of training questions that people asked."""
        return sum(not one.sources for one in self.training)


def queries_of(workspace: Workspace, config: Config) -> list[Query]:
    """The queries that a language model wrote and that were kept; none if the settings leave them out."""
    if config.adapt.written == "no" or not workspace.has(Query):
        return []
    return [query for query in written(workspace.read(Query)) if query.kept]


def gather(
    workspace: Workspace,
    config: Config,
    passages: Sequence[Passage],
    queries: Sequence[Query],
    runtime: Runtime,
    *,
    leave_out: Collection[str],
) -> Questions:
    """The questions of files and of a language model. leave_out: keys of questions that the report measures on.

    Raises InputError if too few different questions are there.
    """
    asked, labelled = _asked(workspace, config, passages, runtime)
    asked = {key: one for key, one in asked.items() if key not in leave_out}
    labelled = {key: one for key, one in labelled.items() if key not in leave_out}
    dev = {
        key_of(query.text): HeldOut(
            text=query.text,
            gains=dict.fromkeys((query.passage_id, *query.also_relevant), 1),
            cluster=query.passage_id,
        )
        for query in queries
        if query.split == "dev"
    }
    kinds: list[tuple[EvidenceKind, dict[str, HeldOut]]] = [
        ("labelled", {key: one for key, one in labelled.items() if _is_held_out(key, config.seed)}),
        ("graded", _graded(workspace)),
        ("written", dev),
    ]
    kind, held_out = next(((kind, found) for kind, found in kinds if len(found) >= ENOUGH), ("none", {}))
    held_out = {key: one for key, one in held_out.items() if key not in leave_out}
    training = {key: Training(text=text) for key, text in asked.items()}
    for query in queries:
        key = key_of(query.text)
        if query.split == "train" and key not in leave_out:
            training.setdefault(key, Training(text=query.text, sources=(query.passage_id, *query.also_relevant)))
    chosen = [one for key, one in training.items() if key not in held_out]
    if len(chosen) < FEWEST:
        raise InputError(
            f"{len(chosen):,} different questions can't train a map; at least {FEWEST} are needed.",
            remedy="Give more questions that people asked with --queries FILE, or have some written: --generator local",
        )
    return Questions(training=chosen, held_out=list(held_out.values()), kind=kind)


def _asked(
    workspace: Workspace, config: Config, passages: Sequence[Passage], runtime: Runtime
) -> tuple[dict[str, str], dict[str, HeldOut]]:
    """The questions of the files by key: all texts, and those with known answers."""
    if not config.queries:
        return {}, {}
    leave_out = read_forgotten(workspace).queries
    log = read_log(config.queries, runtime.report, seed=config.seed, leave_out=leave_out)
    for sentence in log.sentences():
        runtime.report.log(sentence)
    labelled = {}
    for (key, question), answers in zip(log.questions.items(), answers_of(log, passages), strict=True):
        if answers:
            labelled[key] = HeldOut(text=question.text, gains=dict.fromkeys(answers, 1), cluster=min(answers))
    return {key: question.text for key, question in log.questions.items()}, labelled


def _is_held_out(key: str, seed: int) -> bool:
    """Whether a question with a known answer decides: every second one, whatever else the file holds."""
    return hashlib.sha256(f"{seed} {key}".encode()).digest()[0] % 2 == 0


def _graded(workspace: Workspace) -> dict[str, HeldOut]:
    """The questions whose search results a judge or a person graded. A person's grade replaces a judge's."""
    rows = [*(workspace.read(Grade) if workspace.has(Grade) else []), *person_grades(workspace)]
    texts = {row.query_id: row.query for row in rows}
    return {
        key_of(texts[query]): HeldOut(text=texts[query], gains=grades, cluster=query)
        for query, grades in by_question(rows).items()
        if can_tell(grades)
    }
