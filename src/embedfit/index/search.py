"""An opened index, which finds passages for queries and gives the reason for each."""

from __future__ import annotations

import operator
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from embedfit.errors import InputError, ModelError
from embedfit.files.textfiles import without_surrogates
from embedfit.index import approximate
from embedfit.index.highlight import Highlighter, Span
from embedfit.index.retriever import BASE, Retriever
from embedfit.index.scoring import Asked, Found, Parts, Scores, Tokens, find
from embedfit.index.store.columns import Mask
from embedfit.index.store.filters import Where, filter_of
from embedfit.index.store.folder import Stored, read
from embedfit.index.store.manifest import index_folder
from embedfit.index.tokens import TokenReader, TokenSpace, gathered, to_bytes
from embedfit.models.graphs.encoder import GraphKind
from embedfit.models.layout.prompts import open_model
from embedfit.models.local import LocalModel
from embedfit.numerics.arrays import Floats
from embedfit.path.artefacts import Passage, Value
from embedfit.path.workspace import decode_record
from embedfit.retrieval.bm25 import Bm25

#: The most words of a query that are read. The rest is cut, as a model cuts a text that is longer than its window.
MOST_WORDS = 512
#: The most characters of a query that are read: a single "word" can be as long as a file.
MOST_CHARACTERS = 10_000
MOST_RESULTS = 10_000
#: First-stage scores held at a time.
_BLOCK = 16_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage that was found.

    score: by the last stage that ordered it. parts: its score by each part of the retriever; "tokens" is the second
    stage's, and the others add up to its first-stage score. page: 0 if the document's format has no pages.
    """

    passage_id: str
    score: float
    text: str
    document: str
    page: int
    heading: str
    parts: Mapping[str, float]
    metadata: Mapping[str, Value]


class Asker:
    """Turns query texts into the vectors and token vectors that the parts of an index read."""

    def __init__(self, model: LocalModel, space: TokenSpace | None) -> None:
        self._model = model
        self._space = space
        self._reader: TokenReader | None = None
        self._passages: TokenReader | None = None

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self._model.folder

    def use_graphs(self, kind: GraphKind) -> None:
        """Read texts by the model's graphs from now on, without torch. Raises ModelError if it has no right ones."""
        self._model.use_graphs(kind, tokens=self._space is not None)

    def ask(self, texts: Sequence[str]) -> Asked:
        """Vectors of queries and, if the index holds tokens, their token vectors."""
        if self._space is None:
            return Asked(texts=texts, vectors=self._model.embed(texts, is_query=True))
        if self._reader is None:
            self._reader = TokenReader(self._model.tower(is_query=True).text_model())
        vectors, tokens = self._reader.queries(texts, self._space)
        return Asked(texts=texts, vectors=vectors, tokens=tokens)

    def passages(self, texts: Sequence[str]) -> Floats:
        """Vectors of texts as those of passages: (N, H)."""
        return self._model.embed(texts, is_query=False)

    @property
    def window(self) -> int:
        """The tokens of a text that the model reads."""
        return self._model.layout.max_tokens

    def tokens_of(self, texts: Sequence[str]) -> tuple[Tokens, list[int]]:
        """Token vectors of texts as the index holds those of passages, and how many tokens each text has.

        A text is read up to the model's window. Raises InputError if the index holds no tokens.
        """
        if self._space is None:
            raise InputError(
                "The index holds no token vectors, by which passages are reranked.",
                remedy="Build it with them: embedfit index … --tokens",
            )
        if self._passages is None:
            self._passages = TokenReader(self._model.tower(is_query=False).text_model())
        lengths, rows = self._passages.beginnings(texts)
        return gathered([to_bytes(self._space.projected(one)) for one in rows]), lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class LateScores:
    """Late interaction of a query with N texts.

    sums: (N,) as the second stage of a search computes them. mass: the sum of the weights of the query's tokens, so
    that sums / mass are mean cosines. lengths: the tokens of each text, before it was cut.
    """

    sums: Floats
    mass: float
    lengths: tuple[int, ...]


class Index:
    """An index folder, opened. `base` searches the same passages by the untuned model's one vector each.

    index = Index.open("runs/mine")
    for hit in index.search("how do I mute the tv", k=3):
        print(hit.score, hit.document, hit.text)
    """

    def __init__(self, stored: Stored, asker: Asker) -> None:
        self.stored = stored
        self.retriever: Retriever = stored.retriever
        self.asker = asker
        words = stored.parts.words or stored.parts.words_and_queries
        self._highlighter = Highlighter(words.analysis) if isinstance(words, Bm25) else None

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """Open the index of a run folder or an index folder.

        Raises ArtifactMissing, InputError, and ModelError if the model is no longer the same.
        """
        stored = read(index_folder(Path(folder)))
        return cls(stored, Asker(model_of(stored), stored.tokens))

    def __len__(self) -> int:
        return self.stored.parts.size

    @property
    def parts(self) -> Parts:
        """The vectors, tokens and words that are searched."""
        return self.stored.parts

    @property
    def recall(self) -> float | None:
        """The share of the first stage's best passages that approximate search finds; None if search is exact."""
        lists = self.stored.manifest.approximate
        return lists.recall if lists is not None and self.parts.near is not None else None

    @property
    def exact_because(self) -> str:
        """Why a large index is searched exactly; "" for a small index, and for one searched by its lists."""
        return approximate.exact_because(self.stored.manifest.approximate)

    @property
    def base_name(self) -> str:
        """The name of the untuned model."""
        return (self.stored.base or self.stored.model).name

    @cached_property
    def base(self) -> Index:
        """The same passages, searched by the untuned model's one vector of each."""
        stored = self.stored
        if stored.base is None:
            beside = replace(stored, retriever=BASE)
            return Index(beside, self.asker)
        parts = Parts(size=len(self), one=stored.base_vectors)
        beside = replace(stored, model=stored.base, retriever=BASE, parts=parts, tokens=None)
        return Index(beside, Asker(model_of(beside), None))

    def passage(self, number: int) -> Passage:
        """The passage with this number, counted from 0 by ascending id."""
        stored = self.stored
        if stored.lines is None:
            raise IndexError(number)
        line = bytes(stored.lines[stored.starts[number] : stored.starts[number + 1]])
        return decode_record(line, Passage)

    def number_of(self, passage_id: str) -> int | None:
        """The number of the passage with this id; None if there is none."""
        number = bisect_left(range(len(self)), passage_id, key=lambda one: self.passage(one).passage_id)
        return number if number < len(self) and self.passage(number).passage_id == passage_id else None

    def passages(self) -> Iterator[Passage]:
        """All passages, by ascending id."""
        return map(self.passage, range(len(self)))

    def search(self, query: str, k: int = 10, *, where: Where | None = None, allowed: Mask | None = None) -> list[Hit]:
        """The k best passages of a query, best first.

        where: conditions on the fields of passages, as in filters.filter_of. allowed: (N,), which passages may be
        found; None: all. The second stage does not read the other passages. Raises InputError for an empty query, a k
        below 1, and a condition on a field that does not exist.
        """
        return next(iter(self.search_all([query], k, where=where, allowed=allowed)))

    def search_all(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        where: Where | None = None,
        allowed: Mask | None = None,
        seconds: MutableMapping[str, float] | None = None,
    ) -> Iterator[list[Hit]]:
        """The same for several queries, in their order. seconds: as in found(), and "texts"."""
        allowed = self.stored.catalogue.allowed(filter_of(where), allowed)
        for scores, found in self.found(queries, k, allowed=allowed, seconds=seconds):
            for query, best in enumerate(found):
                started = time.perf_counter()
                hits = self._hits(scores, query, best)
                if seconds is not None:
                    seconds["texts"] = seconds.get("texts", 0.0) + time.perf_counter() - started
                yield hits

    def asked(self, query: str) -> Asked:
        """A query as the parts read it. Raises InputError if it is empty."""
        return self.asker.ask([readable(query)])

    def late(self, asked: Asked, texts: Sequence[str]) -> LateScores:
        """Late interaction of a query of asked() with N texts, which need not be in the index.

        Raises InputError if the index holds no tokens.
        """
        tokens, lengths = self.asker.tokens_of([without_surrogates(text) for text in texts])
        sums = Scores(Parts(size=len(texts), tokens=tokens), asked).late(0, np.arange(len(texts)))
        return LateScores(sums=sums, mass=float(asked.tokens[0][1].sum()), lengths=tuple(lengths))

    def found(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Mask | None = None,
        seconds: MutableMapping[str, float] | None = None,
    ) -> Iterator[tuple[Scores, list[Found]]]:
        """Numbers and scores of the k best passages of each query, block by block of queries.

        seconds: gets the time of each step added: "query" (the model reads it), "vectors", "words" and "tokens".
        """
        if isinstance(queries, str):
            raise InputError("search_all takes a list of queries; one query is for search().")
        k = checked_k(k, len(self))
        texts = [readable(query) for query in queries]
        rows = (self.parts.windows, self.parts.queries)
        most = max([1, len(self), *(len(one.vectors) for one in rows if one is not None)])
        block = max(1, min(256, _BLOCK // most))
        for start in range(0, len(texts), block):
            started = time.perf_counter()
            scores = Scores(self.parts, self.asker.ask(texts[start : start + block]))
            asked = time.perf_counter()
            best = find(scores, self.retriever, k, allowed)
            if seconds is not None:
                rest = time.perf_counter() - asked - sum(scores.seconds.values())
                for name, took in {"query": asked - started, "vectors": rest, **scores.seconds}.items():
                    seconds[name] = seconds.get(name, 0.0) + took
            yield scores, best

    def marked(self, query: str, text: str) -> list[Span]:
        """Ranges of the characters of a passage's text whose words the query asks for."""
        return self._highlighter.spans(query[:MOST_CHARACTERS], text) if self._highlighter else []

    def _hits(self, scores: Scores, query: int, best: Found) -> list[Hit]:
        given: dict[str, Floats] = {
            part.name: scores.some_contribution(part, query, best.passages) for part in self.retriever.parts
        }
        rerank = self.retriever.rerank
        if rerank is not None and len(best.passages):
            given["tokens"] = scores.late(query, best.passages[: rerank.depth])
        hits = []
        for row, number in enumerate(best.passages.tolist()):
            passage = self.passage(number)
            hits.append(
                Hit(
                    passage_id=passage.passage_id,
                    score=float(best.scores[row]),
                    text=passage.text,
                    document=passage.document_id,
                    page=passage.page,
                    heading=passage.title,
                    parts={name: float(values[row]) for name, values in given.items() if row < len(values)},
                    metadata=self.stored.catalogue.of(number),
                )
            )
        return hits


def model_of(stored: Stored) -> LocalModel:
    """The model that an index was built with. Raises ModelError if its folder now holds another one."""
    name = stored.model.name
    where = str(stored.folder / name) if name.startswith(".") else name
    folder, layout = open_model(where, stored.model.instruction)
    model = LocalModel(name, folder, layout=layout)
    if model.key != stored.model.key:
        raise ModelError(
            f"{stored.folder} was made with other weights than {folder} holds now: their vectors can't be compared.",
            remedy="Build the index again: embedfit index",
        )
    return model


def checked_k(k: int, passages: int) -> int:
    """k, cut to the number of passages. Raises InputError if k is no whole number from 1 to MOST_RESULTS."""
    try:
        k = operator.index(k)
    except TypeError as error:
        raise InputError(f"k is a whole number, not {k!r}.", remedy="For example: k=10") from error
    if k < 1:
        raise InputError(f"k is {k}; at least one passage must be asked for.", remedy="For example: -k 10")
    if min(k, passages) > MOST_RESULTS:
        raise InputError(f"k is {k:,}; a query finds at most {MOST_RESULTS:,} passages.", remedy="For example: -k 10")
    return max(1, min(k, passages))


def readable(query: str) -> str:
    """A query's text, cut to what is read of it. Raises InputError for an empty one."""
    if not isinstance(query, str):
        raise InputError(
            f"A query is a text, not a {type(query).__name__}.", remedy="For several queries: index.search_all([...])"
        )
    query = without_surrogates(query[:MOST_CHARACTERS])
    words = query.split()
    if not words:
        raise InputError("The query is empty.", remedy='For example: embedfit search --run DIR "how do I …"')
    return query if len(words) <= MOST_WORDS else " ".join(words[:MOST_WORDS])
