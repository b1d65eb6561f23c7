"""An index as a hand-over: its rows in batches, and what a query needs."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embedfit.errors import InputError
from embedfit.index.rows import Rows
from embedfit.index.scoring import Tokens
from embedfit.index.search import Index
from embedfit.index.sinks.sink import SCHEMA, About, Digest, Row, Sink
from embedfit.index.store.columns import FILES
from embedfit.numerics.arrays import Floats, Ints
from embedfit.path.artefacts import Passage, Value
from embedfit.path.workspace import sha256_json
from embedfit.progress import Reporter
from embedfit.retrieval.bm25 import Bm25, Sparse

#: A batch ends with the row that reaches so many bytes, or so many rows.
BATCH_BYTES, BATCH_ROWS = 8 << 20, 4096
_WORDS = ("words", "words_and_queries")
#: Files of an index that decide nothing that is handed over.
_LEFT_OUT = ("base.npy", "approximate/")


def export(index: Index, sink: Sink, report: Reporter, *, batch_rows: int = BATCH_ROWS) -> About:
    """Put an index into a sink, in batches of at most about BATCH_BYTES and so many rows. Returns its facts."""
    handover = IndexHandover(index, report, batch_rows)
    sink.write(handover)
    return handover.about


class IndexHandover:
    """An opened index that goes into a sink. It is a sink.Handover."""

    def __init__(self, index: Index, report: Reporter, batch_rows: int = BATCH_ROWS) -> None:
        """Raises InputError for a retriever that no database can add up."""
        if index.retriever.method != "sum":
            raise InputError(
                f"The retriever {index.retriever.name} adds ranks, not scores; it serves comparisons and can't be "
                "handed over.",
                remedy="Choose a retriever that adds scores.",
            )
        self._index = index
        self._report = report
        self._batch_rows = batch_rows
        self._words: dict[str, Bm25] = {
            name: part for name in _WORDS if isinstance(part := getattr(index.parts, name), Bm25)
        }
        self.about = self._about()

    def _about(self) -> About:
        index, parts, model = self._index, self._index.parts, self._index.stored.model
        names = ("one", "windows", "queries", *_WORDS, "tokens")
        files = index.stored.manifest.files.items()
        kept = {name: file.sha256 for name, file in files if not name.startswith(_LEFT_OUT)}
        what = {"schema": SCHEMA, "model": model.key, "instruction": model.instruction, "files": kept}
        return About(
            content=sha256_json({**what, "retriever": index.retriever.as_json()})[:16],
            model=model.name,
            fingerprint=model.key,
            instruction=model.instruction,
            dimensions=0 if parts.one is None else parts.one.shape[1],
            passages=len(index),
            retriever=index.retriever,
            holds=tuple(name for name in names if getattr(parts, name) is not None),
            terms={name: len(words.vocabulary.holders) for name, words in self._words.items()},
            languages={name: words.analysis.languages for name, words in self._words.items()},
            token_width=0 if parts.tokens is None else parts.tokens.vectors.shape[1],
            fields=index.stored.manifest.fields,
        )

    @cached_property
    def questions(self) -> bytes:
        """An .npz file that Questions reads."""
        arrays: dict[str, np.ndarray] = {}
        for name, words in self._words.items():
            arrays[f"{name}.terms"] = np.frombuffer("\n".join(self.terms(name)).encode(), np.uint8)
            arrays[f"{name}.holders"] = words.vocabulary.holders
        space = self._index.stored.tokens
        if space is not None and self._index.parts.tokens is not None:
            arrays |= {"tokens.projection": space.projection, "tokens.holders": space.holders}
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()

    def terms(self, part: str) -> list[str]:
        """The terms of a part of words, by their numbers."""
        numbers = self._words[part].vocabulary.numbers
        return sorted(numbers, key=numbers.__getitem__)

    def postings(self, part: str) -> tuple[Ints, Ints, Floats]:
        """A part of words by term instead of by passage; see Bm25.postings."""
        return self._words[part].postings()

    def field_files(self) -> Sequence[Path]:
        """The files of the passages' fields, which store.columns.Catalogue reads."""
        return [self._index.stored.folder / name for name in FILES]

    def log(self, line: str) -> None:
        """Tell the user something."""
        self._report.log(line)

    def batches(self, start: int = 0) -> Iterator[list[Row]]:
        """The rows from a number on, in bounded batches that are made as they are taken."""
        count = len(self._index)
        with self._report.task("index: passages are handed over", count, "passages") as task:
            task.advance(start)
            batch: list[Row] = []
            size = 0
            for number in range(start, count):
                batch.append(self._row(number))
                size += batch[-1].nbytes
                if size >= BATCH_BYTES or len(batch) == self._batch_rows or number == count - 1:
                    yield batch
                    task.advance(len(batch))
                    batch, size = [], 0

    def digests(self) -> Iterator[Digest]:
        """What tells the passages of one hand-over from those of another, in the order of their ids."""
        for number in range(len(self._index)):
            passage = self._index.passage(number)
            yield Digest(passage.passage_id, self._digest(number, passage, self._index.stored.catalogue.of(number)))

    def _digest(self, number: int, passage: Passage, metadata: Mapping[str, Value]) -> str:
        parts = self._index.parts
        texts = [passage.document_id, passage.title, passage.text, passage.page, sorted(metadata.items())]
        found = hashlib.sha256(json.dumps(texts).encode())
        several = (parts.windows, parts.queries, parts.tokens)
        for own in (None if parts.one is None else parts.one[number], *(_rows_of(one, number) for one in several)):
            found.update(b"-" if own is None else f"{own.shape}".encode() + np.ascontiguousarray(own).tobytes())
        return found.hexdigest()[:16]

    def _row(self, number: int) -> Row:
        passage, parts = self._index.passage(number), self._index.parts
        metadata = self._index.stored.catalogue.of(number)
        vector = None if parts.one is None else np.asarray(parts.one[number], np.float32)
        return Row(
            number=number,
            id=passage.passage_id,
            document=passage.document_id,
            title=passage.title,
            text=passage.text,
            page=passage.page,
            vector=vector,
            windows=_own(parts.windows, number, vector),
            queries=_own(parts.queries, number, vector),
            words={name: words.of(number) for name, words in self._by_passage.items()},
            tokens=_rows_of(parts.tokens, number),
            metadata=metadata,
            digest=self._digest(number, passage, metadata),
        )

    @cached_property
    def _by_passage(self) -> Mapping[str, _ByPassage]:
        return {name: _ByPassage(words, len(self._index)) for name, words in self._words.items()}


def _rows_of(rows: Rows | Tokens | None, number: int) -> Any:  # noqa: ANN401 - float16 or int8
    return None if rows is None else np.asarray(rows.vectors[rows.starts[number] : rows.starts[number + 1]])


def _own(rows: Rows | None, number: int, vector: Floats | None) -> Floats | None:
    """A passage's rows. A passage of one window has no row in the index: its vector is the row."""
    own = _rows_of(rows, number)
    if own is None:
        return None
    return vector[None] if not len(own) and vector is not None else own.astype(np.float32)


class _ByPassage:
    """BM25's weights by passage. They are stored by term."""

    def __init__(self, words: Bm25, passages: int) -> None:
        starts, holders, weights = words.postings()
        order = np.argsort(holders, kind="stable")  # stable: the terms of a passage stay in ascending order
        self._terms = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[order]
        self._weights = weights[order]
        self._starts = np.searchsorted(holders[order], np.arange(passages + 1))

    def of(self, number: int) -> Sparse:
        own = slice(self._starts[number], self._starts[number + 1])
        return Sparse(self._terms[own], self._weights[own])
