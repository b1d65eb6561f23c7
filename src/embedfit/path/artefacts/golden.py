"""embedfit.json of a model folder: texts with their vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from embedfit.path.artefacts.whole import Schema, Whole


class GoldenText(Whole):
    """A text with its vector, (D,), as its tower gives it. The text that is encoded is `text`, `times` times over."""

    role: Literal["query", "document"]
    text: str
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    vector: tuple[float, ...]


class GoldenVectors(Whole):
    """embedfit.json in a model folder: vectors that whoever loads the folder can compare with.

    queries, passages: the folder of the tower that encodes queries, and of the one that indexes; ".": the model folder
    itself, which has one tower for both.
    """

    edition: Schema = 1
    queries: str = "."
    passages: str = "."
    texts: tuple[GoldenText, ...]
