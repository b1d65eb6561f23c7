"""The settings of the retriever: how it is chosen, indexed and measured, and of frozen vectors."""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import (
    field_validator,
)

from embedfit.config.kinds import ARRAYS, RECORDED, Section, decides

#: Tokens of a window, if passages have a vector for each window: docs/recipe.md has the gain.
WINDOW_TOKENS: Final = 64
_JUDGE = re.compile(r"bedrock:.+|openai:https?://[^/#]+[^#]*#.+|recorded:.+", re.DOTALL)


class ChooseConfig(Section):
    """Questions and grades → the retriever that ships."""

    judge: str | None = decides(
        None,
        description="the judge of search results: bedrock:MODEL, openai:URL#MODEL, or recorded:FILE; default: nobody",
        path="spec",
    )
    questions: int = decides(50, ge=1, le=100_000, description="the most of people's questions that are graded")
    pool: int = decides(5, ge=1, le=100, description="this many best passages of each candidate are graded")

    @field_validator("judge")
    @classmethod
    def _of_known_form(cls, judge: str | None) -> str | None:
        if judge is not None and not _JUDGE.match(judge):
            raise ValueError(f"{judge!r} is none of bedrock:MODEL, openai:URL#MODEL and {RECORDED}FILE")
        return judge


class IndexConfig(Section):
    """Passages, model and retriever → a folder that is searched."""

    tokens: Literal["auto", "yes", "no"] = decides(
        "auto", description="token vectors for the second stage; auto: up to 50,000 passages"
    )
    queries: Literal["auto", "yes", "no"] = decides(
        "auto",
        description="written queries in the index; auto: those of a strong writer, where nearly all passages have some",
    )


class EvaluateConfig(Section):
    """Systems → scores."""

    systems: tuple[str, ...] = decides((), description="further systems, such as titan-v2", path="model")
    bootstrap: int = decides(2000, ge=100)
    windows: Literal[0, 64] = decides(
        WINDOW_TOKENS, description="also measure the windows of passages alone, as an index has them; 0: don't"
    )


class AdaptConfig(Section):
    """Vectors of an embedder that can't be changed → a map for its query vectors, and moved passage vectors."""

    vectors: str | None = decides(
        None,
        description="the embedder of the index: titan-v2, openai:URL#MODEL, tei:URL, sagemaker:NAME@REGION, a model; "
        "or npy:PASSAGES.npy,QUESTIONS.npy, with the ids in PASSAGES.ids.txt and QUESTIONS.ids.txt",
        path="vectors",
    )
    written: Literal["auto", "yes", "no"] = decides(
        "auto", description="whether a language model writes queries; auto: only if there is no file of questions"
    )
    share: float | None = decides(
        None, ge=0, le=1, description="weight of the map beside the unchanged vector; default: chosen by the evidence"
    )
    move: bool = decides(False, description="write the vectors of passages, moved towards their written queries")
    move_weight: float = decides(
        0.3, ge=0, lt=1, description="weight of the mean of a passage's written queries in its moved vector"
    )

    @field_validator("vectors")
    @classmethod
    def _two_files(cls, vectors: str | None) -> str | None:
        if vectors is not None and vectors.startswith(ARRAYS):
            array_files(vectors)
        return vectors


class AssessConfig(Section):
    """Documents, models and questions → what to build before any training."""

    models: tuple[str, ...] = decides((), description="further models to compare with `model`", path="model")
    questions: int = decides(100, ge=15, le=5_000, description="questions that are written if people's are not there")


def array_files(vectors: str) -> tuple[str, str]:
    """The two files of npy:PASSAGES.npy,QUESTIONS.npy. Raises ValueError for another form."""
    first, comma, second = vectors.removeprefix(ARRAYS).partition(".npy,")
    if not first or not comma or not second.removesuffix(".npy") or not second.endswith(".npy"):
        raise ValueError(f"{vectors!r} is not of the form {ARRAYS}PASSAGES.npy,QUESTIONS.npy")
    return f"{first}.npy", second
