"""Builds, from passages and a model, everything that a retriever searches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedfit.config import WINDOW_TOKENS
from embedfit.index import approximate
from embedfit.index.constants import SAMPLE, deviations, stand_ins
from embedfit.index.retriever import Retriever
from embedfit.index.rows import Rows, starts_of, to_halves
from embedfit.index.scoring import Asked, Parts
from embedfit.index.tokens import TokenSpace, stored_tokens
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.models.tokenizer import load_tokenizer
from embedfit.models.windows import blended, windows_of_model
from embedfit.progress import Reporter
from embedfit.retrieval.bm25 import Bm25


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The parts of N passages, and what a query needs to search them.

    retriever: with this index' deviations. tokens: how tokens are stored; None if the index has no tokens. sample:
    queries that measure the recall of approximate search; None for an index that is searched exactly.
    """

    parts: Parts
    retriever: Retriever
    tokens: TokenSpace | None = None
    sample: Asked | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The texts that an index is built from.

    contents: (N,) texts of the passages as models read them, by ascending id. queries: the written queries of each
    passage; () for a passage without any. asked: questions that people asked; they set the constants.
    """

    contents: Sequence[str]
    queries: Sequence[Sequence[str]] = field(default_factory=tuple)
    asked: Sequence[str] = ()

    @property
    def expanded(self) -> list[str]:
        """Passages with their written queries, for BM25."""
        return [" ".join([content, *asked]) for content, asked in zip(self.contents, self.queries, strict=True)]


def build(
    source: Source,
    model: LocalModel,
    retriever: Retriever,
    cache: VectorStore,
    report: Reporter,
    *,
    window_tokens: int = WINDOW_TOKENS,
) -> Built:
    """Encode, cut and count everything that the retriever's parts need. Vectors in the cache are not computed again."""
    contents = source.contents
    expanded = source.expanded if retriever.has("words_and_queries") else None
    tokens, space = None, None
    if retriever.rerank is not None:  # first: the same pass of the model also gives most passages' one vector
        texts = contents if expanded is None else expanded
        tokens, space = stored_tokens(texts, model, cache, report, are_contents=expanded is None)
    halves = to_halves(cache.stored(model, contents, is_query=False, report=report))
    windows = _windows(contents, model, halves, cache, report, window_tokens) if retriever.has("windows") else None
    queries = _written(source, model, halves, cache, report) if retriever.has("queries") else None
    parts = Parts(
        size=len(contents),
        one=halves,
        windows=windows,
        queries=queries,
        words=Bm25(contents) if retriever.has("words") else None,
        words_and_queries=Bm25(expanded) if expanded is not None else None,
        tokens=tokens,
    )
    alone = len(retriever.parts) == 1  # a single part is added to nothing
    # The cache keeps vectors of the passages' sentences, which several stages use, but none of people's questions.
    embed = functools.partial(model.embed if source.asked else functools.partial(cache.embed, model), is_query=True)
    found = {} if alone else deviations(parts, contents, embed, asked=source.asked)
    sample = None
    if approximate.wanted(parts, retriever):
        texts = list(source.asked[:SAMPLE]) or stand_ins(contents)[0]
        sample = Asked(texts=texts, vectors=embed(texts))
    model.release()
    return Built(parts=parts, retriever=retriever.with_deviations(found), tokens=space, sample=sample)


def _windows(
    contents: Sequence[str],
    model: LocalModel,
    whole: npt.NDArray[np.float16],
    cache: VectorStore,
    report: Reporter,
    max_tokens: int,
) -> Rows:
    """Blended vectors of windows. Only passages of several windows have rows; a short one has its one vector."""
    tokenizer = load_tokenizer(model.folder)  # of two towers, the passages'
    windows = windows_of_model(contents, tokenizer, model.layout, max_tokens=max_tokens)
    counts = np.diff(np.append(windows.starts, len(windows.texts)))
    several = np.flatnonzero(counts > 1)
    kept = np.repeat(counts > 1, counts)
    texts = [text for text, keep in zip(windows.texts, kept, strict=True) if keep]
    counts = np.where(counts > 1, counts, 0)
    starts = starts_of(counts)
    if not texts:
        return Rows(np.zeros((0, whole.shape[1]), np.float16), starts)
    vectors = cache.embed(model, texts, is_query=False, report=report)
    mixed = blended(vectors, whole[several].astype(np.float32), starts[several])
    return Rows(mixed.astype(np.float16), starts)


def _written(
    source: Source, model: LocalModel, whole: npt.NDArray[np.float16], cache: VectorStore, report: Reporter
) -> Rows:
    """Vectors of the written queries, passage by passage. A passage without queries gets its one vector instead."""
    texts = [text for asked in source.queries for text in asked]
    counts = np.array([max(1, len(asked)) for asked in source.queries], np.int64)
    starts = starts_of(counts)
    has = np.array([bool(asked) for asked in source.queries])
    rows = np.empty((starts[-1], whole.shape[1]), np.float16)
    rows[np.repeat(~has, counts)] = whole[~has]
    if texts:
        rows[np.repeat(has, counts)] = cache.embed(model, texts, is_query=True, report=report)
    return Rows(rows, starts)
