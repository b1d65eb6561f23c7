"""Turns the text of a query into what a database compares with its rows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from embedfit.errors import InputError, ModelError
from embedfit.index.scoring import Asked
from embedfit.index.search import Asker
from embedfit.index.sinks.sink import About, Question
from embedfit.index.tokens import TokenSpace
from embedfit.models.layout.prompts import open_model
from embedfit.models.local import LocalModel
from embedfit.retrieval.bm25 import Vocabulary
from embedfit.retrieval.words import Analysis


class Questions:
    """What a store's rows are compared with, made from texts by the model that made the rows."""

    def __init__(self, about: About, data: bytes, model: LocalModel) -> None:
        """data: Handover.questions. Raises ModelError for another model than the rows'."""
        if model.key != about.fingerprint:
            raise ModelError(
                f"The rows were made by the model {about.model} (fingerprint {about.fingerprint[:12]}), not by "
                f"{model.folder} (fingerprint {model.key[:12]}): their vectors can't be compared.",
                remedy="Name the model that made them, or hand the index of this one over: "
                "embedfit index --run DIR --to URL",
            )
        self._about = about
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                self._words = {
                    name: Vocabulary(
                        Analysis(about.languages[name]),
                        about.passages,
                        {term: n for n, term in enumerate(_terms(arrays[f"{name}.terms"], about.terms[name]))},
                        arrays[f"{name}.holders"],
                    )
                    for name in about.terms
                }
                space = None
                if "tokens.projection" in arrays:
                    space = TokenSpace(
                        projection=arrays["tokens.projection"],
                        holders=arrays["tokens.holders"],
                        passages=about.passages,
                    )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(
                f"What turns queries into vectors is damaged: {error}",
                remedy="Hand the index over again: embedfit index --run DIR --to URL",
            ) from error
        self._asker = Asker(model, space if about.retriever.rerank is not None else None)

    def ask(self, text: str) -> tuple[Question, Asked]:
        """A query for the first stage, and as the second stage reads it."""
        asked = self._asker.ask([text])
        words = {name: vocabulary.sparse(text) for name, vocabulary in self._words.items()}
        return Question(fingerprint=self._about.fingerprint, vector=asked.vectors[0], words=words), asked


def _terms(stored: np.ndarray, count: int) -> list[str]:
    terms = stored.tobytes().decode().split("\n") if count else []
    if len(terms) != count:
        raise ValueError(f"{len(terms):,} terms instead of {count:,}")
    return terms


def named_model(about: About, name: str | Path | None) -> LocalModel:
    """The model that a user names for a store's queries, with the store's instruction. None: the one it is named by."""
    if name is None and about.model.startswith("."):
        raise ModelError(
            f"The store knows its model only as {about.model}, beside the index that it comes from.",
            remedy='Name its folder: connect(URL, model="runs/mine/merged")',
        )
    chosen = str(name or about.model)
    folder, layout = open_model(chosen, about.instruction)
    return LocalModel(chosen, folder, layout=layout)
