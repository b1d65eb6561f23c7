"""Token vectors for late interaction, small enough to keep: an inner layer's, projected, in one byte a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from embedfit.index.scoring import Tokens
from embedfit.models.encoder import Encoder
from embedfit.models.token_vectors import text_and_token_vectors, token_vectors
from embedfit.models.windows import windows_of_model
from embedfit.progress import Reporter
from embedfit.retrieval.bm25 import idf

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Numbers of a stored token vector. What fewer of them cost is in docs/recipe.md.
WIDTH = 128
#: Tokens from which the projection is found.
_SAMPLE = 20_000
#: Passages that tell the projection, and passages that are encoded at a time.
_SAMPLED_PASSAGES = 400
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpace:
    """How tokens become stored vectors, and how rare each is.

    projection: (H, D) the first principal axes of the corpus' token vectors. holders: (V,) in how many of the
    passages each token id stands. passages: their number.
    """

    projection: Floats
    holders: Ints
    passages: int

    def rarity(self, ids: Sequence[int]) -> Floats:
        """BM25's idf of token ids over the passages (Lucene's form, which is above 0). (L,)."""
        result: Floats = idf(self.passages, self.holders[np.asarray(ids, np.int64)]).astype(np.float32)
        return result

    def projected(self, vectors: Floats) -> Floats:
        """Unit rows in the stored space. vectors: (L, H); returns (L, D)."""
        rows = vectors @ self.projection
        result: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        return result


class TokenReader:
    """Token vectors of passages and of queries by one model."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._special = set(encoder.tokenizer.encode("").ids)

    def _own(self, ids: Sequence[int]) -> list[int]:
        """Places of the tokens that are not special."""
        return [place for place, token in enumerate(ids) if token not in self._special]

    def passage_ids(self, contents: Sequence[str]) -> list[list[list[int]]]:
        """Token ids of each passage, with special tokens; one longer than the model's window is several rows."""
        encoder = self._encoder
        windows = windows_of_model(contents, encoder.tokenizer, encoder.layout, max_tokens=encoder.layout.max_tokens)
        ids = encoder.token_ids(windows.texts)
        return [ids[start:stop] for start, stop in pairwise([*windows.starts.tolist(), len(ids)])]

    def vectors(self, rows: Sequence[Sequence[int]]) -> list[Floats]:
        """Vectors of each row's own tokens: (L, H) unit rows."""
        found = token_vectors(self._encoder, rows)
        return [vectors[self._own(ids)].float().cpu().numpy() for vectors, ids in zip(found, rows, strict=True)]

    def space(
        self, ids: Sequence[Sequence[Sequence[int]]], *, seed: int = 0
    ) -> tuple[TokenSpace, dict[int, npt.NDArray[np.int8]]]:
        """The space of a corpus, and the stored vectors of the passages that told it, by number.

        ids: as passage_ids gives them.
        """
        holders = np.zeros(self._encoder.tokenizer.get_vocab_size(with_added_tokens=True), np.int64)
        for parts in ids:
            holders[list(set(chain.from_iterable(parts)))] += 1
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(ids))[:_SAMPLED_PASSAGES].tolist()
        read = dict(zip(chosen, self._passages([ids[number] for number in chosen]), strict=True))
        sample = np.concatenate(list(read.values()))
        sample = sample[rng.permutation(len(sample))[:_SAMPLE]]
        space = TokenSpace(projection=principal_axes(sample, WIDTH), holders=holders, passages=len(ids))
        return space, {number: to_bytes(space.projected(rows)) for number, rows in read.items()}

    def _passages(self, ids: Sequence[Sequence[Sequence[int]]]) -> Iterator[Floats]:
        """Vectors of each passage's own tokens: (L, H) unit rows."""
        found = iter(self.vectors([row for parts in ids for row in parts]))
        for parts in ids:
            yield np.concatenate([next(found) for _ in parts])

    def passages(
        self,
        ids: Sequence[Sequence[Sequence[int]]],
        space: TokenSpace,
        known: Mapping[int, npt.NDArray[np.int8]],
        report: Reporter,
    ) -> Iterator[npt.NDArray[np.int8]]:
        """Stored vectors of each passage, (L, D) int8, in order. known: those that space() gave."""
        with report.task("index: token vectors", len(ids), "passages") as task:
            for start in range(0, len(ids), _CHUNK):
                numbers = range(start, min(start + _CHUNK, len(ids)))
                new = self._passages([ids[number] for number in numbers if number not in known])
                for number in numbers:
                    yield known[number] if number in known else to_bytes(space.projected(next(new)))
                task.advance(len(numbers))

    def queries(self, texts: Sequence[str], space: TokenSpace) -> tuple[Floats, list[tuple[Floats, Floats]]]:
        """The vectors of queries, (Q, H), and of each query its tokens in the stored space, (L, D), with weights, (L,).

        Rows are unit rows. The model reads each query once. No passage has to meet the tokens of the instruction.
        """
        rows = self._encoder.token_ids(texts, is_query=True)
        prompt = len(self._own(self._encoder.token_ids([""], is_query=True)[0]))
        if all(rows):
            whole, tokens = text_and_token_vectors(self._encoder, rows, is_query=True)
        else:  # a model without special tokens reads nothing of some texts
            whole, tokens = self._encoder.encode_unit(texts, is_query=True), token_vectors(self._encoder, rows)
        found = []
        for ids, vectors in zip(rows, tokens, strict=True):
            places = self._own(ids)[prompt:]
            own = vectors[places].float().cpu().numpy()
            found.append((space.projected(own), space.rarity([ids[place] for place in places])))
        return whole, found


def principal_axes(rows: Floats, width: int) -> Floats:
    """The directions that keep most of the rows' inner products. rows: (L, H); returns (H, min(width, H, L))."""
    _, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    axes = vectors[:, ::-1][:, : min(width, rows.shape[1])]
    # eigh leaves the sign open: the largest number of an axis is positive, so that builds are alike.
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    result: Floats = np.ascontiguousarray(axes * signs, np.float32)
    return result


def to_bytes(rows: Floats) -> npt.NDArray[np.int8]:
    """Rows in one byte a number, each scaled to its largest: directions stay, lengths go. (L, D)."""
    largest = np.maximum(np.abs(rows).max(1, keepdims=True, initial=0.0), 1e-9)
    result: npt.NDArray[np.int8] = np.round(rows * (127 / largest)).astype(np.int8)
    return result


def gathered(passages: Sequence[npt.NDArray[np.int8]]) -> Tokens:
    """Token vectors of all passages in one array. passages: (L, D) each."""
    starts = np.cumsum([0, *(len(rows) for rows in passages)]).astype(np.int64)
    return Tokens(np.concatenate(passages) if passages else np.zeros((0, WIDTH), np.int8), starts)
