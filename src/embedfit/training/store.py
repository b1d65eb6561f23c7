"""The token store: every distinct text tokenised once, before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedfit.numerics.arrays import Ints
from embedfit.path.artefacts import TrainRow

#: Texts, whether they are queries → their token ids with special tokens, cut to the limit of their kind.
Tokenise = Callable[[Sequence[str], bool], Sequence[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Token ids of N texts in one array.

    tokens: (T,) int32. starts: (N + 1,) offsets; text i is tokens[starts[i] : starts[i + 1]].
    """

    tokens: npt.NDArray[np.int32]
    starts: Ints

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> TokenStore:
        """Pack token ids."""
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        flat = np.fromiter((token for row in rows for token in row), np.int32, count=int(starts[-1]))
        return cls(flat, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, text: int) -> npt.NDArray[np.int32]:
        return self.tokens[self.starts[text] : self.starts[text + 1]]

    @property
    def lengths(self) -> Ints:
        """(N,) tokens of each text, special tokens included."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A training row whose texts are numbers into the store.

    row: its 0-based place among the rows that were read, to name it. The scores are a teacher's, one
    for each passage, or empty.
    """

    row: int
    query: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()


class Text(NamedTuple):
    """A text as it was given. prompt: the text before a query in the store; None for a passage."""

    content: str
    prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The examples of a training and their texts.

    texts: (N,), the store's. empty_texts: number of texts without any token of their own, which were left
    out. dropped_rows: rows that thereby lost their query or all positives.
    """

    store: TokenStore
    texts: tuple[Text, ...]
    examples: tuple[Example, ...]
    empty_texts: int = 0
    dropped_rows: tuple[int, ...] = field(default=())

    @property
    def queries(self) -> npt.NDArray[np.bool_]:
        """Mask of the texts that are queries. (N,) bool."""
        return np.array([text.prompt is not None for text in self.texts], np.bool_)


def tokenise_rows(
    rows: Sequence[TrainRow], tokenise: Tokenise, *, instruction: str = "", special_tokens: int = 2
) -> TrainingData:
    """Tokenise the distinct texts of the rows.

    instruction: put before the queries of rows without a prompt of their own. special_tokens: how many the tokenizer
    adds to each text. A text without further tokens is empty and is left out, and so is a query that adds no token to
    its instruction.
    """
    prompts = [instruction if row.prompt is None else row.prompt for row in rows]
    numbers: dict[Text, int] = {}

    def number(content: str, prompt: str | None = None) -> int:
        return numbers.setdefault(Text(content, prompt), len(numbers))

    queries = [number(row.query, prompt) for prompt, row in zip(prompts, rows, strict=True)]
    positives = [[number(text) for text in row.pos] for row in rows]
    negatives = [[number(text) for text in row.neg] for row in rows]
    store = _tokenised(list(numbers), tokenise)

    usable = store.lengths > special_tokens
    distinct = sorted(set(prompts))
    bare = dict(zip(distinct, (len(ids) for ids in tokenise(distinct, True)), strict=True))
    for query, prompt in zip(queries, prompts, strict=True):
        usable[query] &= store.lengths[query] > bare[prompt]

    examples, dropped = [], []
    for index, row in enumerate(rows):
        example = _example(index, row, queries[index], positives[index], negatives[index], usable)
        if example is None:
            dropped.append(index)
        else:
            examples.append(example)
    return TrainingData(
        store=store,
        texts=tuple(numbers),
        examples=tuple(examples),
        empty_texts=int((~usable).sum()),
        dropped_rows=tuple(dropped),
    )


def doubts(examples: Sequence[Example], *, contrasts: bool, scored: bool) -> tuple[str, list[str]]:
    """(why the examples teach nothing, or "", sentences about what they teach badly).

    contrasts: the loss tells an example's passages from others', its own negatives or those of other examples. scored:
    it learns from the examples' scores.
    """
    queries = Counter(example.query for example in examples)
    positives = Counter(text for example in examples for text in set(example.positives))
    passages = positives.keys() | {text for example in examples for text in example.negatives}
    distinct = len({(example.query, example.positives, example.negatives) for example in examples})
    flat = sum(len({*one.positive_scores, *one.negative_scores}) == 1 for one in examples)
    count = f"{len(examples):,} rows"
    if distinct == 1:
        return f"all {count} are copies of one row", []
    if len(queries) == 1:
        return f"all {count} have the same query", []
    if contrasts and len(passages) == 1:
        return f"all {count} have the same passage, and there is no other to tell it from", []
    if scored and flat == len(examples):
        return f"in each of the {count} all passages have the same score", []
    found = []
    if 2 * distinct < len(examples):
        found.append(f"{len(examples) - distinct:,} of {count} are copies of others")
    elif 2 * (most := max(queries.values())) > len(examples):
        found.append(f"{most:,} of {count} have the same query")
    if 2 * (most := max(positives.values(), default=0)) > len(examples):
        found.append(f"{most:,} of {count} have the same passage as an answer, so it may be found for every query")
    if scored and flat:
        found.append(f"in {flat:,} of {count} all passages have the same score, which teaches nothing")
    return "", found


def _tokenised(texts: Sequence[Text], tokenise: Tokenise) -> TokenStore:
    tokens: list[Sequence[int]] = [()] * len(texts)
    for kind in (True, False):
        chosen = [place for place, text in enumerate(texts) if (text.prompt is not None) == kind]
        whole = [(texts[place].prompt or "") + texts[place].content for place in chosen]
        for place, ids in zip(chosen, tokenise(whole, kind), strict=True):
            tokens[place] = ids
    return TokenStore.of(tokens)


def _example(
    index: int, row: TrainRow, query: int, positives: list[int], negatives: list[int], usable: npt.NDArray[np.bool_]
) -> Example | None:
    kept = [place for place, text in enumerate(positives) if usable[text]]
    if not usable[query] or (row.pos and not kept):  # a question that people asked may have no passage
        return None
    known = {positives[place] for place in kept}
    # A passage that is listed as both is a positive: it answers the query.
    others = [place for place, text in enumerate(negatives) if usable[text] and text not in known]
    return Example(
        row=index,
        query=query,
        positives=tuple(positives[place] for place in kept),
        negatives=tuple(negatives[place] for place in others),
        positive_scores=tuple(row.pos_scores[place] for place in kept) if row.pos_scores else (),
        negative_scores=tuple(row.neg_scores[place] for place in others) if row.neg_scores else (),
    )
