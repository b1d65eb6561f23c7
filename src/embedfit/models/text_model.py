"""A model that gives texts and their tokens vectors, whatever runs its transformer. Nothing here loads torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from embedfit.models.architecture import Architecture
from embedfit.models.layout.modules import Head, unit_rows
from embedfit.models.tokenizer import TextTokenizer
from embedfit.numerics.arrays import Halves, Ints, Vectors
from embedfit.numerics.batching import batches_by_length
from embedfit.numerics.machine import cores, has_gpu
from embedfit.progress import Reporter, Silent

#: Tokens that a CPU could encode in the fixed time of one more batch.
_BATCH_OVERHEAD = 64
#: The depth of the inner layer whose vectors are joined to the last one's, as a share of all layers. The last layer's
#: vectors are closer to the text's meaning, inner layers' closer to its words: each wins where the other loses
#: (docs/recipe.md).
_INNER = 2 / 3


def inner_layer(states: int) -> int:
    """The number of the inner layer whose states late interaction reads. states: of all layers and the embeddings."""
    return round(_INNER * (states - 1))  # number 0 is the embeddings


def encoding_batches(lengths: Sequence[int], *, all_layers: bool = False) -> Iterator[Ints]:
    """Indices of texts of so many tokens, batch by batch, of the size that encodes fastest here.

    On a CPU that is about a thousand tokens a core: a layer's states then stay in the core's cache, and batches of
    texts of like length waste little on padding. all_layers: the states of every layer are held at once.
    """
    if has_gpu():
        return batches_by_length(lengths, 131_072 // (4 if all_layers else 1))
    return batches_by_length(lengths, max(2048, 1024 * cores()), overhead=_BATCH_OVERHEAD)


class TextModel(ABC):
    """A model folder of one tower with its tokenizer and architecture. A subclass runs the transformer.

    encode() gives the vectors that sentence-transformers gives for the folder, norms included: without a Normalize in
    the folder their lengths differ from 1.
    """

    def __init__(self, folder: Path, *, layout: Architecture, tokenizer: TextTokenizer) -> None:
        self.folder = folder
        self.layout = layout
        self.text_tokenizer = tokenizer
        self.head = Head.load(folder, layout)

    @abstractmethod
    def forward(self, rows: list[list[int]], skip: int) -> Vectors:
        """The vectors (B, D) of a batch of token ids. skip: the tokens at each row's beginning that are not pooled."""

    @abstractmethod
    def states_of(self, rows: list[Sequence[int]], skip: int | None) -> tuple[Vectors | None, list[Halves]]:
        """A batch's vectors (B, D), None if skip is, and each row's tokens' unit vectors, (L, 2H)."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself, without truncation or padding."""
        return self.text_tokenizer.tokenizer

    def tower(self, *, is_query: bool) -> TextModel:
        """The tower that encodes queries or passages: the model itself if it has one tower."""
        return self

    def instruction(self, is_query: bool | None) -> str:
        """The text put before queries (True) or passages (False); empty for texts that already hold it (None)."""
        if is_query is None:
            return ""
        return self.layout.query_instruction if is_query else self.layout.document_instruction

    def token_ids(self, texts: Sequence[str], *, is_query: bool | None = False, max_tokens: int = 0) -> list[list[int]]:
        """Token ids with special tokens, cut to max_tokens (0: the window), after the layout's instruction.

        is_query: None for texts that already begin with their instruction or prompt, so none is added.
        """
        own = self.tower(is_query=True) if is_query else self
        before = own.instruction(is_query)
        limit = min(max_tokens or own.layout.max_tokens, own.layout.max_tokens)
        return own.text_tokenizer.token_ids([before + text for text in texts], limit)

    def encode(
        self,
        texts: Sequence[str],
        *,
        is_query: bool = False,
        report: Reporter | None = None,
        description: str = "encode",
    ) -> Vectors:
        """Vectors of texts: (N, D) float32, as the folder's modules give them. Equal texts are encoded once.

        A text without any token has the vector that the modules give for zeros.
        """
        own = self.tower(is_query=True) if is_query else self
        distinct = list(dict.fromkeys(texts))
        row_of = {text: row for row, text in enumerate(distinct)}
        vectors = np.zeros((len(distinct), own.layout.width), np.float32)
        ids = own.token_ids(distinct, is_query=is_query)
        skip = own.skip(is_query)
        with (report or Silent()).task(description, len(distinct), "texts") as task:
            for batch in encoding_batches([len(row) for row in ids]):
                vectors[batch] = own.forward([ids[index] for index in batch], skip)
                task.advance(len(batch))
        return vectors[[row_of[text] for text in texts]]

    def encode_unit(
        self,
        texts: Sequence[str],
        *,
        is_query: bool = False,
        report: Reporter | None = None,
        description: str = "encode",
    ) -> Vectors:
        """Unit vectors: encode()'s rows divided by their lengths, so that inner products are cosines."""
        return unit_rows(self.encode(texts, is_query=is_query, report=report, description=description))

    def skip(self, is_query: bool) -> int:
        """How many tokens at a text's beginning belong to the instruction and are not pooled."""
        own = self.tower(is_query=is_query)
        if own.layout.pooling.include_prompt:
            return 0
        return own.text_tokenizer.prompt_length(own.instruction(is_query), own.layout.max_tokens)

    def tokens(self, rows: Sequence[Sequence[int]]) -> list[Halves]:
        """Unit vectors of each row's tokens, (L, 2H): of an inner layer and of the last one, side by side.

        rows: token ids with special tokens, within the model's window. The cosine of two tokens is the mean of the
        layers' cosines.
        """
        return self._texts_and_tokens(rows, None)[1]

    def texts_and_tokens(self, rows: Sequence[Sequence[int]], *, is_query: bool) -> tuple[Vectors, list[Halves]]:
        """Unit vectors of texts, (N, D), and their tokens' as tokens() gives them, in one pass of the model.

        rows: token ids with special tokens and the instruction, each of at least one token.
        """
        own = self.tower(is_query=is_query)
        texts, tokens = own._texts_and_tokens(rows, own.skip(is_query))
        return unit_rows(texts), tokens

    def _texts_and_tokens(self, rows: Sequence[Sequence[int]], skip: int | None) -> tuple[Vectors, list[Halves]]:
        texts = np.zeros((len(rows), self.layout.width), np.float32)
        tokens = [np.empty(0, np.float16)] * len(rows)
        for batch in encoding_batches([len(row) for row in rows], all_layers=True):
            vectors, found = self.states_of([rows[index] for index in batch], skip)
            if vectors is not None:
                texts[batch] = vectors
            for index, own in zip(batch, found, strict=True):
                tokens[index] = own
        return texts, tokens
