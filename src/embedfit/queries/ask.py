"""Asking a language model for queries: the calls, their cost, and the queries in each reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedfit.asked.reading import rows_of
from embedfit.config import GenerateConfig
from embedfit.errors import InputError
from embedfit.generators import generator
from embedfit.llm.asking import Asking, ask_all
from embedfit.llm.metered import OVER_BUDGET, LedgeredModel
from embedfit.llm.probing import Wanted, Worth
from embedfit.llm.protocol import Failure, Outcome, Request, extra_of
from embedfit.llm.replies import answer_of, fault_of
from embedfit.path.artefacts import Passage, Query
from embedfit.queries import filters, parse, prompts
from embedfit.queries.plan import Ask
from embedfit.queries.rules.candidate import Candidate, Rule
from embedfit.retrieval.languages import languages_of, name_of
from embedfit.runtime import Runtime

#: The beginning of the reason of a query without a text.
REJECTED, FAILED, UNWRITTEN = "reply rejected", "call failed", "not written"


def user_examples(path: str | None) -> list[str]:
    """The user's own queries, one a line or JSONL. Raises InputError if the file is missing or empty."""
    if path is None:
        return []
    if not Path(path).is_file():
        raise InputError(f"The file of example queries {path} can't be read: there is no such file.")
    examples = [row.text for row in rows_of(Path(path)) if not row.problem]
    if not examples:
        raise InputError(f"{path} holds no query.", remedy="Put one query on each line.")
    return examples


def own_language(texts: Sequence[str]) -> str:
    """The name of the passages' language for the prompt, without which the model writes English; empty for English.

    The examples of the prompt are English, so that English passages need no word about it.
    """
    found = languages_of(texts)
    if found in ((), ("en",)):
        return ""
    return name_of(found[0]) if len(found) == 1 else "the language of the passage"


def calls_for(
    passages: Sequence[Passage], asks: Sequence[Ask], config: GenerateConfig, examples: Sequence[str] = ()
) -> list[tuple[Request, list[int]]]:
    """The calls, and which asks (by index) each serves. examples: queries of these users, for the prompt.

    A small model is asked for one query a call. Others write all queries of a passage in one reply, so that the
    passage is paid for once.
    """
    writer = generator(config.generator)
    language = config.language or own_language([passage.text for passage in passages])
    way = prompts.Way(
        hint=prompts.hints(config.domain, language, examples),
        temperature=config.temperature if config.temperature is not None else writer.temperature,
        top_p=config.top_p,
        max_tokens=config.max_query_tokens,
    )
    if writer.one_query_a_call:
        return [
            (prompts.one_query(passage.title, passage.text, ask.style, way, seed=ask.seed), [number])
            for number, ask in enumerate(asks)
            for passage in [passages[ask.passage]]
        ]
    together: dict[tuple[int, int], list[int]] = {}
    for number, ask in enumerate(asks):
        together.setdefault((ask.passage, ask.seed), []).append(number)
    calls = []
    for (place, seed), group in together.items():
        passage, styles = passages[place], [asks[number].style for number in group]
        extra = dict(config.extra_body)
        if writer.told_passage:
            names = [style.name for style in styles]
            extra |= {"passage": passage.passage_id, "document": passage.document_id, "styles": names}
        request = prompts.many_queries(passage.title, passage.text, styles, way, seed=seed)
        calls.append((replace(request, extra=extra_of(extra)), group))
    return calls


def texts_of(outcome: Outcome, styles: Sequence[str]) -> list[tuple[str, str]]:
    """(text, reason) for each style asked for: the query, or an empty text and why there is none.

    A reply that names its styles is matched by their names, any other by position.
    """
    if isinstance(outcome, Failure):
        return [("", f"{UNWRITTEN if outcome.unwritten else FAILED}: {outcome.error}")] * len(styles)
    if outcome.finish == "refusal":
        return [("", f"{REJECTED}: {fault_of(outcome)}")] * len(styles)
    cut = outcome.finish == "length"
    found = parse.queries_of(outcome.text, styles, cut=cut)
    if not found:
        if cut and len(styles) == 1 and not answer_of(outcome.text).startswith(("[", "{", "`")):
            return [("", f"{REJECTED}: cut off, longer than any query")]
        return [("", f"{REJECTED}: {fault_of(outcome)}")] * len(styles)
    named = {item.style: item.text for item in reversed(found) if item.style}
    if len(styles) == 1:
        return [(named.get(styles[0], found[0].text), "")]
    if named:
        texts = [named.get(style, "") for style in styles]
    else:
        texts = [item.text for item in found[: len(styles)]] + [""] * (len(styles) - len(found))
    missing = f"{REJECTED}: this style is missing"
    return [(text, "" if text else missing) for text in texts]


def ask(
    model: LedgeredModel,
    passages: Sequence[Passage],
    asks: Sequence[Ask],
    config: GenerateConfig,
    runtime: Runtime,
    *,
    examples: Sequence[str] = (),
) -> list[Query]:
    """Every ask as a query record, in order. Each reply is in the ledger before it is used.

    examples: queries of these users, for the prompt.

    Asks for which --max-cost left no money have OVER_BUDGET as their reason. If a model's thoughts take the
    whole limit of tokens, all is asked again with a higher one, unless generate.max_reply_tokens sets it.
    Raises UsageError if the user does not confirm the cost, GeneratorError if the first replies hold no query.
    """
    calls = calls_for(passages, asks, config, examples)
    writer = generator(config.generator)
    if not writer.one_query_a_call:
        calls = most_useful_first(calls, [passages[item.passage].split for item in asks])
    rules = filters.text_rules(examples, config.language)

    def read(number: int, outcome: Outcome, key: str, doubtful: bool) -> tuple[list[Query], Worth]:
        wanted = [asks[place] for place in calls[number][1]]
        passage = passages[wanted[0].passage]
        texts = texts_of(outcome, [one.style.name for one in wanted])
        drafts = [_draft(passage, one, *text, key) for one, text in zip(wanted, texts, strict=True)]
        said = tuple(text for text, _ in texts if text)
        fault = _why_useless(said, passage, rules) if said and doubtful else ""
        return drafts, Worth(bool(said) and not fault, fault, said)

    how = Asking(
        work="generate",
        what=f"generate: {len(asks):,} queries of {len({item.passage for item in asks}):,} passages",
        wanted=Wanted(unit="query"),
        free=writer.free,
        max_tokens=config.max_reply_tokens,
        essential=True,
    )
    splits = [passages[asks[group[0]].passage].split for _, group in calls]
    kinds = ["training" if split == "train" else "dev and test" for split in splits]
    found = ask_all(model, [request for request, _ in calls], how, read, runtime, kinds)
    drafts = [_draft(passages[item.passage], item, "", OVER_BUDGET, "") for item in asks]
    for (_, group), written in zip(calls, found, strict=True):
        for number, draft in zip(group, written or (), strict=False):
            drafts[number] = draft
    return drafts


def _why_useless(texts: Sequence[str], passage: Passage, rules: Sequence[Rule]) -> str:
    """The reason for which the filters will drop every query of a reply; empty if they keep one."""
    reasons = [filters.first_reason(Candidate(text, "", passage.text, passage.title), rules) for text in texts]
    return f"its queries would be dropped: {reasons[0]}" if all(reasons) else ""


def most_useful_first(
    calls: Sequence[tuple[Request, list[int]]], splits: Sequence[str]
) -> list[tuple[Request, list[int]]]:
    """The calls in the order in which money is spent on them, in case it does not suffice for all.

    Dev and test queries come first, because without them nothing can be judged; then those of training passages, spread
    over the corpus. splits: of each ask.
    """
    rank = np.random.default_rng(0).permutation(len(calls))
    return [calls[n] for n in sorted(range(len(calls)), key=lambda n: (splits[calls[n][1][0]] == "train", rank[n]))]


def _draft(passage: Passage, wanted: Ask, text: str, reason: str, key: str) -> Query:
    return Query(
        query_id=f"{passage.passage_id}#{wanted.style.name}-{wanted.seed}",
        passage_id=passage.passage_id,
        text=text,
        style=wanted.style.name,
        split=passage.split,
        kept=not reason,
        reason=reason,
        call_id=key,
    )
