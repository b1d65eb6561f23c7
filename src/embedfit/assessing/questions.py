"""The questions that assess retrievers: people's with known answers, people's with grades, or some that are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embedfit.asked.log import Log, read_log
from embedfit.asked.rows import answers_of
from embedfit.choosing.questions import JudgingQuestion
from embedfit.config import Config, GenerateConfig
from embedfit.errors import InputError
from embedfit.evaluation.evalset import EvalSet
from embedfit.llm.opening import opened_model
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.queries.ask import ask, calls_for, user_examples
from embedfit.queries.from_log import FromLog, from_log
from embedfit.queries.plan import Ask, plan
from embedfit.queries.prompts import STYLES
from embedfit.queries.stage import filtered
from embedfit.runtime import Runtime

#: The most of people's labelled questions that are read.
MOST_LABELLED = 1_000
#: Styles that no person types, which assess nothing.
_NOT_ASKED = ("claim", "title")
#: The order in which a style is wanted, if only one query of a passage is written.
_FIRST = ("question", "conversational", "problem", "cause", "keywords")
#: Written queries beyond the wanted number, because the filters drop some.
_SPARE = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """People's questions. answered: those whose answers a file names. others: the rest, in random order."""

    answered: Sequence[JudgingQuestion] = ()
    others: Sequence[JudgingQuestion] = ()


def people(log: Log, passages: Sequence[Passage]) -> People:
    """The questions of a log, those with known answers apart."""
    found = [
        JudgingQuestion(query_id=f"asked-{key[:16]}", text=one.text, relevant=frozenset(answers))
        for (key, one), answers in zip(log.questions.items(), answers_of(log, passages), strict=True)
    ]
    return People(
        answered=[one for one in found if one.relevant][:MOST_LABELLED],
        others=[one for one in found if not one.relevant],
    )


def eval_set(
    passages: Sequence[Passage], questions: Sequence[JudgingQuestion], names: Mapping[str, str], *, human: bool
) -> EvalSet:
    """An evaluation set over the run's own passages. names: those of documents for people, by id."""
    ordered = sorted(passages, key=lambda one: one.passage_id)
    return EvalSet(
        kind="human" if human else "synthetic",
        passage_ids=tuple(one.passage_id for one in ordered),
        titles=tuple(one.title for one in ordered),
        texts=tuple(one.text for one in ordered),
        contents=tuple(one.content for one in ordered),
        documents=tuple(one.document_id for one in ordered),
        pages=tuple(one.page for one in ordered),
        document_names={one.document_id: names.get(one.document_id, one.document_id) for one in ordered},
        query_ids=tuple(one.query_id for one in questions),
        queries=tuple(one.text for one in questions),
        styles=("",) * len(questions),
        relevant=tuple(dict.fromkeys(sorted(one.relevant), 1.0) for one in questions),
        numbers={one.passage_id: number for number, one in enumerate(ordered)},
    )


# --- written questions


def chosen_asks(passages: Sequence[Passage], asks: Sequence[Ask], config: GenerateConfig, wanted: int) -> list[Ask]:
    """Some of the queries that a run would have written: whole calls, about `wanted` queries, all over the corpus.

    What a call returned is in the ledger, so a later run of the same documents does not pay for it again.
    """
    calls: dict[int, list[list[int]]] = {}
    for _, group in calls_for(passages, asks, config):
        calls.setdefault(asks[group[0]].passage, []).append(group)
    best = {place: min(groups, key=lambda group: _rank(asks, group)) for place, groups in calls.items()}
    each = max(1, max((len(_asked(asks, group)) for group in best.values()), default=1))
    count = min(len(best), max(1, round(_SPARE * wanted / each)))
    places = sorted(best)
    taken = [places[number * len(places) // count] for number in range(count)]
    return [asks[number] for place in taken for number in best[place]]


def _asked(asks: Sequence[Ask], group: Sequence[int]) -> list[int]:
    return [number for number in group if asks[number].style.name not in _NOT_ASKED]


def _rank(asks: Sequence[Ask], group: Sequence[int]) -> tuple[int, int, int]:
    """How much a call is wanted, the least first: many queries that people may type, and of a natural style."""
    places = [_FIRST.index(name) for number in group if (name := asks[number].style.name) in _FIRST]
    return -len(_asked(asks, group)), min(places, default=len(STYLES)), group[0]


def written(
    workspace: Workspace, passages: Sequence[Passage], log: Log | None, config: Config, runtime: Runtime, wanted: int
) -> list[Query]:
    """Queries that a language model writes of some passages, each kept or dropped with its reason.

    Plan and prompts are those of `embedfit run`. Raises InputError if none is kept.
    """
    asked = from_log(log, passages, config, runtime) if log else FromLog()
    examples = user_examples(config.generate.examples) or asked.examples
    asks = plan(passages, config.generate, seed=config.seed, asked_about=asked.about)
    asks = chosen_asks(passages, asks, config.generate, wanted)
    with opened_model(config.generate, runtime, run=str(workspace.root.resolve())) as model:
        drafts = ask(model, passages, asks, config.generate, runtime, examples=examples)
    splits = [draft.split for draft in drafts]
    # As test queries: a strict round trip would keep those alone that the first model finds easily.
    loose = filtered(passages, [replace(one, split="test") for one in drafts], config, runtime, examples=examples)
    found = [replace(one, split=split) for one, split in zip(loose, splits, strict=True)]
    kept = sum(one.kept and one.style not in _NOT_ASKED for one in found)
    runtime.report.log(f"assess: {kept:,} of {len(found):,} written queries are kept")
    if not kept:
        raise InputError(
            f"None of the {len(found):,} written queries is of use: {found[0].reason if found else 'there are none'}.",
            remedy="Name people's questions (--queries FILE with --judge SPEC, or --eval-beir DIR), or another writer: "
            "--generator",
        )
    return found


def judging(queries: Sequence[Query], wanted: int) -> list[JudgingQuestion]:
    """The kept written queries that people might type, at most `wanted`, all over the corpus."""
    kept = [one for one in queries if one.kept and one.style not in _NOT_ASKED]
    count = min(len(kept), wanted)
    taken = [kept[number * len(kept) // count] for number in range(count)]
    return [
        JudgingQuestion(query_id=one.query_id, text=one.text, relevant=frozenset((one.passage_id, *one.also_relevant)))
        for one in taken
    ]


def log_of(config: Config, runtime: Runtime) -> Log | None:
    """The questions that people asked, or None if the settings name no file."""
    if not config.queries:
        return None
    log = read_log([str(Path(name)) for name in config.queries], runtime.report, seed=config.seed)
    for sentence in log.sentences():
        runtime.report.log(sentence)
    return log
