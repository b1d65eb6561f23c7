"""Vectors that somebody else computed: two arrays, each with a file of its rows' ids.

npy:P.npy,Q.npy names the vectors of passages and those of questions. P.ids.txt and Q.ids.txt have the ids, one a line,
in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from embedfit.config import ARRAYS, array_files
from embedfit.errors import InputError
from embedfit.files.hashes import sha256_file
from embedfit.files.textfiles import lines_of
from embedfit.models.layout.modules import unit_rows
from embedfit.models.store.vectors import Storage
from embedfit.numerics.arrays import Ints, Vectors
from embedfit.path.workspace import sha256_json

#: Numbers that are checked at a time.
_BLOCK = 1 << 22
_HOW = "Write them with numpy.save(FILE, vectors): float32, a row a text, and the ids in FILE.ids.txt, one a line."


def ids_file(vectors: Path) -> Path:
    """The file of the ids of a file of vectors."""
    return vectors.with_suffix(".ids.txt")


class ArrayEmbedder:
    """An embedder that knows the vectors of some texts and computes none.

    spec: npy:P.npy,Q.npy. passages, questions: id → text of everything that may be asked for. Raises InputError if a
    file is no array of vectors, the two differ in width, ids and rows don't match, or a passage has no vector.
    """

    storage: Storage = "own"
    instruction = ""

    def __init__(self, spec: str, *, passages: Mapping[str, str], questions: Mapping[str, str]) -> None:
        first, second = (Path(one) for one in array_files(spec))
        self.name = f"{ARRAYS}{first.name},{second.name}"
        self.key = sha256_json([sha256_file(one) for one in (first, second) if one.is_file()])
        self._passages, self._questions = _Rows(first), _Rows(second)
        widths = self._passages.width, self._questions.width
        if widths[0] != widths[1]:
            raise InputError(
                f"The vectors of {first} are {widths[0]} wide, those of {second} {widths[1]}: they are of two models.",
                remedy="Embed passages and questions with the same model.",
            )
        self._rows = {
            False: self._passages.by_text(passages),
            True: self._questions.by_text(questions),
        }
        without = [one for one in passages if one not in self._passages.numbers]
        if without:
            known = next(iter(self._passages.numbers), "")
            raise InputError(
                f"{len(without):,} of {len(passages):,} passages have no vector in {first}, such as {without[0]!r}; "
                f"an id there is {known!r}.",
                remedy="Give the passages of the index as corpus.jsonl, with the same ids: "
                '{"_id": "…", "title": "…", "text": "…"}',
            )

    def knows(self, question: str) -> bool:
        """Whether a question has a vector."""
        return question in self._rows[True]

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, H). Raises InputError for a text that has none."""
        rows = self._rows[is_query]
        unknown = next((text for text in texts if text not in rows), None)
        if unknown is not None:
            source = (self._questions if is_query else self._passages).path
            kind = "question" if is_query else "passage"
            raise InputError(
                f"{source} has no vector of a {kind} that is needed: {unknown[:80]!r}.",
                remedy=f"Add its vector to {source} and its id to {ids_file(source)}.",
            )
        numbers = np.array([rows[text] for text in texts], np.int64)
        return (self._questions if is_query else self._passages).unit(numbers)

    def release(self) -> None:
        """Nothing is held in memory."""


class _Rows:
    """A file of vectors, mapped, and the number of each id's row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"There is no file of vectors {path}.", remedy=_HOW)
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # it reads plain arrays only, never pickles
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{path} is no array of numbers that numpy.save wrote.", remedy=_HOW) from error
        if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
            raise InputError(f"{path} holds no rows of vectors, but {array.dtype} {array.shape}.", remedy=_HOW)
        self._array = array
        self.width = int(array.shape[1])
        ids = _ids(ids_file(path))
        if len(ids) != len(array):
            raise InputError(f"{path} has {len(array):,} rows, and {ids_file(path)} {len(ids):,} ids.", remedy=_HOW)
        self.numbers = {one: number for number, one in enumerate(ids)}
        if len(self.numbers) < len(ids):
            twice = next(one for number, one in enumerate(ids) if self.numbers[one] != number)
            raise InputError(
                f"{ids_file(path)} has the id {twice!r} twice.", remedy="Give each text one id and one row."
            )
        self._check(ids)

    def _check(self, ids: Sequence[str]) -> None:
        step = max(1, _BLOCK // self.width)
        for start in range(0, len(ids), step):
            lengths = np.linalg.norm(self._array[start : start + step].astype(np.float64), axis=1)
            for bad, what in ((~np.isfinite(lengths), "NaN or infinity"), (lengths == 0, "zeros alone")):
                if bad.any():
                    number = start + int(np.flatnonzero(bad)[0])
                    raise InputError(
                        f"{self.path}: the vector of {ids[number]!r} (row {number:,}) holds {what} and ranks nothing.",
                        remedy="Embed that text again, or take it out of vectors, ids and documents.",
                    )

    def by_text(self, texts: Mapping[str, str]) -> dict[str, int]:
        """Text → row, for those of the texts that have a row."""
        return {text: self.numbers[one] for one, text in texts.items() if one in self.numbers}

    def unit(self, numbers: Ints) -> Vectors:
        """Unit rows of some numbers."""
        rows = np.asarray(self._array[numbers], np.float32).reshape(len(numbers), self.width)
        return unit_rows(rows)


def _ids(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"There is no file of ids {path}.", remedy=_HOW)
    return [line.strip() for _, line in lines_of(path) if line.strip()]
