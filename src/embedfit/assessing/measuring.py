"""Measures every retriever over every model on the questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from embedfit.choosing import metric
from embedfit.choosing.candidates import ONE_AND_WORDS, WINDOWS_AND_WORDS
from embedfit.config import WINDOW_TOKENS, Config
from embedfit.evaluation.evalset import EvalSet, cut
from embedfit.evaluation.measure import Group, Measured, measure, of_model, of_words
from embedfit.index.build import Source
from embedfit.index.plan import has_tokens
from embedfit.index.retriever import BASE, BM25, DEFAULT, EXPANDED, RRF, WINDOWS, Retriever
from embedfit.index.written import Written
from embedfit.models.local import LocalModel
from embedfit.models.tokenizer import load_tokenizer
from embedfit.numerics.arrays import Doubles
from embedfit.path.artefacts import METRIC
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime

#: The default's first stage, beside which the default shows what late interaction adds.
SUM = replace(DEFAULT.without_tokens(), name="sum")
#: A row: the retriever's name and the model's ("" for words alone).
Key = tuple[str, str]


@dataclass(kw_only=True)
class Room:
    """What all rows share. models: by name, in the user's order. written: queries for the index, None for none."""

    config: Config
    runtime: Runtime
    eval_set: EvalSet
    models: Mapping[str, LocalModel]
    written: Written | None = None

    @cached_property
    def words(self) -> Bm25:
        """BM25, which all rows share."""
        return Bm25(self.eval_set.contents)

    def rows(self, model: LocalModel) -> list[Retriever]:
        """The retrievers that are measured over a model."""
        contents = self.eval_set.contents
        windowed = bool(cut(contents, load_tokenizer(model.folder), WINDOW_TOKENS)[1])
        tokens = has_tokens(len(contents), self.config.index.tokens)
        found = [BASE, *([WINDOWS] if windowed else []), ONE_AND_WORDS, *([WINDOWS_AND_WORDS] if windowed else []), RRF]
        return [*found, *([SUM, DEFAULT] if tokens else [DEFAULT.without_tokens()])]

    def measured(self) -> dict[Key, Measured]:
        """Every row: words alone, then the retrievers model by model."""
        groups = [Group(open=lambda: of_words(self.words, self.eval_set), rows={"bm25": BM25})]
        for name, model in self.models.items():
            groups.append(self._group(name, model, self.rows(model), ()))
            if self.written is not None:
                groups.append(self._group(name, model, [EXPANDED], self.written.queries))
        found = measure(groups, self.eval_set, self.runtime.report, timed=True)
        return {tuple_of(name): one for name, one in found.items()}

    def _group(
        self, name: str, model: LocalModel, retrievers: Sequence[Retriever], queries: Sequence[Sequence[str]]
    ) -> Group:
        rows = {f"{one.name}:{name}": one for one in retrievers}
        source = Source(contents=self.eval_set.contents, queries=queries)
        return Group(
            open=lambda: of_model(model, source, rows, self.eval_set, self.runtime, words=lambda: self.words), rows=rows
        )


def tuple_of(name: str) -> Key:
    """A row's key by its name, RETRIEVER:MODEL."""
    retriever, _, model = name.partition(":")
    return retriever, model


def labelled_values(measured: Mapping[Key, Measured]) -> Doubles:
    """NDCG@10 of every question and row. (Q, R)."""
    return np.stack([one.column(METRIC) for one in measured.values()], axis=1)


def graded_values(
    measured: Mapping[Key, Measured], query_ids: Sequence[str], grades: Mapping[str, Mapping[str, int]], depth: int
) -> tuple[Doubles, list[int]]:
    """NDCG at the pool's depth of every row, and the numbers of the questions whose grades can tell rows apart."""
    used = [number for number, key in enumerate(query_ids) if metric.can_tell(grades.get(key, {}))]
    values = [
        [metric.ndcg(one.found[number], grades[query_ids[number]], depth) for one in measured.values()]
        for number in used
    ]
    return np.array(values, np.float64).reshape(len(used), len(measured)), used
