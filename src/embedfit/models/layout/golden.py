"""Golden vectors: a few texts with their vectors, which lie in each model folder that we write and prove it later.

Whoever loads the folder, with any engine, can encode the texts and compare. A folder that was cut off, mixed up or
changed, or a tower for queries that reads passages, shows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from embedfit.errors import ModelError
from embedfit.models.architecture import DOCUMENT, QUERY, Architecture
from embedfit.models.layout.reading import read_architecture
from embedfit.numerics.arrays import Vectors
from embedfit.path.artefacts import GoldenText, GoldenVectors
from embedfit.path.workspace import encode_whole

if TYPE_CHECKING:
    from embedfit.models.encoder import Encoder

NAME = "embedfit.json"
#: Short, with characters that tokenizers treat in their own ways, and longer than the window of most models.
_LONG = "The sound is off, and the remote control does not answer. "
_QUERIES = (
    ("How do I mute the TV?", 1),
    ("a", 1),
    ("MÜNCHEN, Straße 5; naïve café – 東京タワー 안녕하세요 🙂", 1),
    (_LONG, 60),
)
_PASSAGES = (
    ("The warranty covers parts and labour for two years from the date of purchase.", 1),
    ("a", 1),
    ("tab\tand  spaces\u00a0and\u2028lines\nend ﬁ İ", 1),
    (_LONG, 60),
)
#: A file with more texts, or longer ones, is not one of ours.
_MOST_TEXTS = 64
_MOST_CHARACTERS = 100_000
_MOST_BYTES = 16 << 20
#: Largest difference of any number in fp32, for vectors of length 1. For longer vectors it grows with the length.
TOLERANCE = 1e-4
#: Largest difference that vectors of one model have, as a golden vector's numbers have six digits.
_UNCHANGED = 2e-6
#: The least cosine in a lower precision; int8 has about .999.
LEAST_COSINE = 0.98

#: (texts, is_query) → vectors (N, D), as the folder's modules give them.
Encode = Callable[[list[str], bool], Vectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenCheck:
    """Vectors beside the golden ones. difference, least_cosine: the worst of all texts. worst: that text's role."""

    texts: int
    difference: float
    least_cosine: float
    worst: str

    @property
    def same(self) -> bool:
        """Whether the vectors are the golden ones, in fp32."""
        return self.difference <= TOLERANCE

    def sentence(self) -> str:
        """The result as a sentence for people."""
        numbers = f"largest difference {self.difference:.1e}, least cosine {self.least_cosine:.7f}, {self.texts} texts"
        if self.same:
            return f"The vectors are those in {NAME} ({numbers})."
        return f"The vectors DIFFER from those in {NAME} ({numbers}); the worst is of a {self.worst}."


def write_golden(folder: Path) -> None:
    """Write a model folder's golden vectors, in fp32, and which of its folders encodes queries and which passages."""
    from embedfit.models.encoder import Encoder  # loads torch, which checking with another engine does not need

    encoder = Encoder.load(folder, precision="fp32")
    texts = [*_golden(encoder, QUERY, _QUERIES), *_golden(encoder, DOCUMENT, _PASSAGES)]
    roles = {"queries": QUERY, "passages": DOCUMENT} if encoder.layout.queries is not None else {}
    (folder / NAME).write_text(encode_whole(GoldenVectors(**roles, texts=tuple(texts))), "utf-8")


def _golden(
    encoder: Encoder, role: Literal["query", "document"], texts: tuple[tuple[str, int], ...]
) -> list[GoldenText]:
    is_query = role == QUERY
    # A model without special tokens reads nothing of some texts, and a server refuses those.
    texts = tuple(one for one in texts if encoder.token_ids([one[0]], is_query=is_query)[0])
    vectors = encoder.encode([text * times for text, times in texts], is_query=is_query)
    return [
        GoldenText(role=role, text=text, times=times, vector=tuple(float(f"{value:.6g}") for value in vector))
        for (text, times), vector in zip(texts, vectors.tolist(), strict=True)
    ]


def golden_texts() -> list[str]:
    """The texts whose vectors are golden ones."""
    return [text * times for text, times in (*_QUERIES, *_PASSAGES)]


def read_golden(folder: Path, layout: Architecture) -> GoldenVectors | None:
    """A folder's golden vectors; None if it has none. Raises ModelError for a file that is none of ours."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{path} has over {_MOST_BYTES >> 20} MiB; it does not hold golden vectors.")
        found = GoldenVectors.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise ModelError(f"{path} does not hold golden vectors.", remedy=f"Delete it: rm {path}") from error
    long = any(len(one.text) * one.times > _MOST_CHARACTERS for one in found.texts)
    if not 0 < len(found.texts) <= _MOST_TEXTS or long:
        raise ModelError(f"{path} holds no texts, too many or too long ones.", remedy=f"Delete it: rm {path}")
    if any(len(one.vector) != layout.width for one in found.texts):
        raise ModelError(f"{path} holds vectors of another width than the model's, {layout.width}.")
    return found


def check_golden(folder: Path, layout: Architecture, encode: Encode) -> GoldenCheck | None:
    """Encode a folder's golden texts and compare; None if it has none."""
    golden = read_golden(folder, layout)
    if golden is None:
        return None
    rows: list[tuple[float, float, str]] = []
    for role in (QUERY, DOCUMENT):
        own = [one for one in golden.texts if one.role == role]
        if not own:
            continue
        expected = np.array([one.vector for one in own], np.float32)
        found = encode([one.text * one.times for one in own], role == QUERY)
        lengths = np.linalg.norm(expected, axis=1), np.linalg.norm(found, axis=1)
        differences = np.abs(found - expected).max(1) / np.maximum(1.0, lengths[0])
        products = np.maximum(lengths[0] * lengths[1], 1e-12)
        cosines = np.where(lengths[0] + lengths[1] > 0, (found * expected).sum(1) / products, 1.0)
        name = "query" if role == QUERY else "passage"
        rows += [
            (float(difference), float(cosine), name) for difference, cosine in zip(differences, cosines, strict=True)
        ]
    difference, _, worst = max(rows)
    return GoldenCheck(
        texts=len(rows), difference=difference, least_cosine=min(cosine for _, cosine, _ in rows), worst=worst
    )


def prove_changed(folder: Path, base: Path, layout: Architecture) -> None:
    """Raise ModelError if a tuned model's golden vectors are those of its base: then training changed nothing.

    layout: base's, with the prompts that the tuned model has.
    """
    from embedfit.models.encoder import Encoder

    encoder = Encoder.load(base, precision="fp32", layout=layout)
    found = check_golden(
        folder, read_architecture(folder), lambda texts, is_query: encoder.encode(texts, is_query=is_query)
    )
    if found is not None and found.difference <= _UNCHANGED:
        raise ModelError(
            f"Training changed nothing: the tuned model gives the vectors of its base, {base}.",
            remedy="Train with more steps or a higher rate, for example --set train.learning_rate=1e-4",
        )


def prove(folder: Path, layout: Architecture, encode: Encode, *, exact: bool) -> None:
    """Raise ModelError if a folder has golden vectors and an engine gives others. exact: it computes in fp32."""
    found = check_golden(folder, layout, encode)
    if found is None or (found.least_cosine >= LEAST_COSINE and (found.same or not exact)):
        return
    raise ModelError(
        f"{folder}: {found.sentence()}",
        remedy=f"The folder was changed or damaged: make it again. If the change is right, delete {folder / NAME}",
    )
