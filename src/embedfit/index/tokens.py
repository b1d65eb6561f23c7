"""Token vectors for late interaction. They are an inner layer's, projected and stored in one byte a number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from embedfit.errors import ModelError
from embedfit.index.rows import product, starts_of, to_floats
from embedfit.index.scoring import Tokens
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import Chunk, Compute, Task, VectorStore
from embedfit.models.text_model import TextModel
from embedfit.models.tokenizer import open_tokenizer
from embedfit.models.windows import windows_of_model
from embedfit.numerics.arrays import Floats, Ints
from embedfit.path.workspace import sha256_json
from embedfit.progress import Reporter, Silent
from embedfit.retrieval.bm25 import idf
from embedfit.scale.executor import Tell

#: Numbers of a stored token vector. docs/recipe.md says how much quality fewer of them lose.
WIDTH = 128
#: Tokens that the projection is computed from, and how many of them the model reads at a time.
_SAMPLE = 16_000
_ROW_OF_AXES = 64
#: Passages that are tokenised at a time.
_CHUNK = 1_000
#: A part of the cache's key. Raise it with each change in how stored tokens are computed, so that old ones aren't used.
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpace:
    """The space of stored token vectors, and how rare each token is.

    projection: (2H, D) the first principal axes of the model's token vectors. holders: (V,) the number of passages
    that hold each token id. passages: the number of all passages.
    """

    projection: Floats
    holders: Ints
    passages: int

    def rarity(self, ids: Sequence[int]) -> Floats:
        """BM25's idf of token ids over the passages (Lucene's form, which is above 0). (L,)."""
        result: Floats = idf(self.passages, self.holders[np.asarray(ids, np.int64)]).astype(np.float32)
        return result

    def projected(self, vectors: Floats) -> Floats:
        """Unit rows in the stored space. vectors: (L, 2H); returns (L, D)."""
        return projected(vectors, self.projection)


class TokenReader:
    """Token vectors of passages and of queries by one tower: each of two towers has a reader of its own."""

    def __init__(self, encoder: TextModel) -> None:
        self._encoder = encoder
        self._special = set(encoder.tokenizer.encode("").ids)

    def _own(self, ids: Sequence[int]) -> list[int]:
        """The places of a text's own tokens, without the special ones."""
        return [place for place, token in enumerate(ids) if token not in self._special]

    def passage_ids(self, contents: Sequence[str]) -> list[list[list[int]]]:
        """Token ids of each passage, with special tokens. A passage longer than the model's window has several rows."""
        encoder = self._encoder
        windows = windows_of_model(contents, encoder.tokenizer, encoder.layout, max_tokens=encoder.layout.max_tokens)
        ids = encoder.token_ids(windows.texts)
        return [ids[start:stop] for start, stop in pairwise([*windows.starts.tolist(), len(ids)])]

    def read(self, texts: Sequence[str]) -> tuple[list[Floats | None], list[Floats]]:
        """Each passage's one vector (H,) and its own tokens' vectors (L, 2H), all unit rows, in one pass of the model.

        A passage longer than the model's window is read window by window and has no one vector here (None).
        """
        ids = self.passage_ids(texts)
        flat = [row for parts in ids for row in parts]
        if all(flat):
            whole, found = self._encoder.texts_and_tokens(flat, is_query=False)
        else:  # a model without special tokens reads nothing of some texts
            whole, found = np.zeros((0, 0), np.float32), self._encoder.tokens(flat)
        starts = starts_of([len(rows) for rows in ids]).tolist()
        single = [whole[start] if len(whole) and stop == start + 1 else None for start, stop in pairwise(starts)]
        own = [to_floats(vectors[self._own(row)]) for vectors, row in zip(found, flat, strict=True)]
        return single, [np.concatenate(own[start:stop]) for start, stop in pairwise(starts)]

    def beginnings(self, texts: Sequence[str]) -> tuple[list[int], list[Floats]]:
        """Tokens of each text with its special ones, and the vectors (L, 2H) of its own tokens, unit rows.

        The vectors are those of the part that fits into the model's window.
        """
        encoder = self._encoder
        before = encoder.instruction(False)
        lengths = [len(row.ids) for row in encoder.tokenizer.encode_batch_fast([before + text for text in texts])]
        ids = encoder.token_ids(texts)
        found = zip(encoder.tokens(ids), ids, strict=True)
        return lengths, [to_floats(vectors[self._own(row)]) for vectors, row in found]

    def holders(self, texts: Sequence[str]) -> Ints:
        """The number of passages that hold each token id: (V,)."""
        found = np.zeros(self._encoder.tokenizer.get_vocab_size(with_added_tokens=True), np.int64)
        for start in range(0, len(texts), _CHUNK):
            for parts in self.passage_ids(texts[start : start + _CHUNK]):
                found[list(set(chain.from_iterable(parts)))] += 1
        return found

    def axes(self, *, seed: int = 0) -> Floats:
        """The projection of a model: principal axes of the vectors of tokens of its vocabulary, drawn by seed.

        It depends on no passage, so a passage's stored tokens are the same in every index of the model. docs/recipe.md
        compares it with axes of the passages themselves. Returns (2H, D).
        """
        encoder = self._encoder
        rng = np.random.default_rng(seed)
        own = [token for token in range(encoder.tokenizer.get_vocab_size()) if token not in self._special]
        before, after = self._around()
        room = max(1, min(_ROW_OF_AXES, encoder.layout.max_tokens) - len(before) - len(after))
        rows = [[*before, *rng.choice(own, room).tolist(), *after] for _ in range(max(1, _SAMPLE // room))]
        found = zip(encoder.tokens(rows), rows, strict=True)
        return principal_axes(np.concatenate([to_floats(vectors[self._own(row)]) for vectors, row in found]), WIDTH)

    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        ids = self._encoder.tokenizer.encode("a").ids
        own = self._own(ids) or [len(ids)]
        return list(ids[: own[0]]), list(ids[own[-1] + 1 :])

    def queries(self, texts: Sequence[str], space: TokenSpace) -> tuple[Floats, list[tuple[Floats, Floats]]]:
        """The vectors of queries, (Q, H), and each query's tokens in the stored space, (L, D), with weights, (L,).

        All rows are unit rows. The model reads each query once. The tokens of the instruction are left out.
        """
        rows = self._encoder.token_ids(texts, is_query=True)
        prompt = len(self._own(self._encoder.token_ids([""], is_query=True)[0]))
        if all(rows):
            whole, tokens = self._encoder.texts_and_tokens(rows, is_query=True)
        else:  # a model without special tokens reads nothing of some texts
            whole, tokens = self._encoder.encode_unit(texts, is_query=True), self._encoder.tokens(rows)
        found = []
        for ids, vectors in zip(rows, tokens, strict=True):
            places = self._own(ids)[prompt:]
            own = to_floats(vectors[places])
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


def projected(vectors: Floats, projection: Floats) -> Floats:
    """Unit rows in the stored space. vectors: (L, 2H); projection: (2H, D); returns (L, D)."""
    rows = product(vectors, projection)
    result: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return result


def to_bytes(rows: Floats) -> npt.NDArray[np.int8]:
    """Rows in one byte a number, (L, D). Each is scaled to its largest number, so only its direction is kept."""
    largest = np.maximum(np.abs(rows).max(1, keepdims=True, initial=0.0), 1e-9)
    result: npt.NDArray[np.int8] = np.round(rows * (127 / largest)).astype(np.int8)
    return result


def stored_tokens(
    texts: Sequence[str], model: LocalModel, cache: VectorStore, report: Reporter, *, are_contents: bool
) -> tuple[Tokens, TokenSpace]:
    """Token vectors of N passages and their space. Vectors in the cache are not computed again.

    are_contents: whether the texts are those of the passages' one vectors. If so, the cache gets the one vectors too,
    which come out of the same pass of the model. Raises ModelError if queries' tokens can't be compared with passages'.
    """
    if not _are_alike(model):
        raise ModelError(
            f"{model.name}: its towers for queries and for passages have other tokens or states of another width, so "
            "late interaction can't compare a query's tokens with a passage's.",
            remedy="Build the index without them: embedfit index … --no-tokens",
        )
    model = model.tower(is_query=False)
    projection = _axes(model, cache)
    holders = TokenReader(model.encoder()).holders(texts)
    space = TokenSpace(projection=projection, holders=holders, passages=len(texts))
    width = projection.shape[1]
    found = cache.kept(*_work(texts, model, projection, cache, report, are_contents=are_contents))
    return gathered([np.frombuffer(one, np.int8).reshape(-1, width) for one in found], width), space


def store_tokens(contents: Sequence[str], model: LocalModel, cache: VectorStore, report: Reporter) -> None:
    """Put the token vectors and the one vectors of passages into the cache, both out of one pass of the model.

    Whoever needs the one vectors now and the token vectors later saves a pass. A model of two towers whose tokens
    can't be compared gets neither.
    """
    if _are_alike(model):
        model = model.tower(is_query=False)
        cache.complete(*_work(contents, model, _axes(model, cache), cache, report, are_contents=True))


def _axes(model: LocalModel, cache: VectorStore) -> Floats:
    """The axes (2H, D) on which a tower's token vectors are projected. The weights are loaded if none are stored."""
    once = Compute(
        function=lambda model, _, __: TokenReader(model.encoder()).axes(),
        state=nullcontext(model),
        values=lambda _, axes: [axes.tobytes()],
        here=True,
    )
    axes = cache.kept(sha256_json(_made_by(model)), [""], once, Task(name=model.name, unit="axes", report=Silent()))
    return np.frombuffer(axes[0], np.float32).reshape(2 * model.layout.hidden_size, -1)


def _made_by(model: LocalModel) -> dict[str, object]:
    return {"tokens": _VERSION, "model": model.key, "width": WIDTH}


def _work(
    texts: Sequence[str],
    model: LocalModel,
    projection: Floats,
    cache: VectorStore,
    report: Reporter,
    *,
    are_contents: bool,
) -> tuple[str, Sequence[str], Compute[tuple[LocalModel, Floats], _Read], Task]:
    """What the cache needs to compute the token vectors that it lacks: their key, the texts, the work and its name."""

    def values(chunk: Chunk, read: _Read) -> list[bytes]:
        if are_contents:
            known = [(text, vector) for text, vector in zip(chunk.texts, read[0], strict=True) if vector is not None]
            if known:
                cache.put(model, [text for text, _ in known], np.stack([one for _, one in known]), is_query=False)
        return [rows.tobytes() for rows in read[1]]

    key = sha256_json({**_made_by(model), "axes": hashlib.sha256(projection.tobytes()).hexdigest()})
    compute = Compute(function=_read, state=nullcontext((model, projection)), values=values)
    return key, texts, compute, Task(name=f"{model.name}: token vectors", unit="passages", report=report)


#: Each passage's one vector (H,), if it fits into the model's window, and its tokens in the stored space, (L, D).
_Read = tuple[list[Floats | None], list[npt.NDArray[np.int8]]]


def _read(state: tuple[LocalModel, Floats], chunk: Chunk, tell: Tell) -> _Read:
    """The work on a chunk of passages."""
    model, projection = state
    single, tokens = TokenReader(model.encoder()).read(chunk.texts)
    return single, [to_bytes(projected(rows, projection)) for rows in tokens]


def _are_alike(model: LocalModel) -> bool:
    """Whether both towers of a model have tokens and states of one kind."""
    passages, queries = (model.tower(is_query=is_query) for is_query in (False, True))
    if passages.layout.first == queries.layout.first:
        return True
    words = [open_tokenizer(tower.folder, tower.layout).tokenizer.get_vocab() for tower in (passages, queries)]
    return passages.layout.hidden_size == queries.layout.hidden_size and words[0] == words[1]


def gathered(passages: Sequence[npt.NDArray[np.int8]], width: int = WIDTH) -> Tokens:
    """Token vectors of all passages in one array. passages: (L, D) each."""
    vectors = np.concatenate(passages) if passages else np.zeros((0, width), np.int8)
    return Tokens(vectors, starts_of([len(rows) for rows in passages]))
