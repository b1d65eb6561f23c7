"""The facts of a run that its diagnosis reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from embedfit.config import Config, TrainConfig
from embedfit.errors import EmbedfitError
from embedfit.files.flagembedding import read_flagembedding
from embedfit.models.architecture import Architecture
from embedfit.models.layout.prompts import open_model
from embedfit.models.tokenizer import load_tokenizer
from embedfit.path.artefacts import Comparison, Passage, Query, TrainRow, written
from embedfit.path.workspace import Workspace
from embedfit.reporting.evidence import Evidence, gather
from embedfit.retrieval.bm25 import Bm25

#: The most queries or rows that are looked at one by one, evenly spaced.
LOOKED_AT = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A training query that was kept, with the number of its passage."""

    text: str
    passage: int


class Facts:
    """The files of a run, each read when it is first asked for. Raises ArtifactMissing without summary.json."""

    def __init__(self, workspace: Workspace, config: Config) -> None:
        self.workspace, self.config = workspace, config
        self.evidence: Evidence = gather(workspace, config)

    @property
    def run(self) -> str:
        """The run's folder."""
        return self.evidence.root

    @cached_property
    def train(self) -> TrainConfig:
        """The settings of training, with the loss decided."""
        return self.config.training

    @cached_property
    def passages(self) -> list[Passage]:
        """The passages by ascending id."""
        return sorted(self.workspace.read(Passage), key=lambda one: one.passage_id)

    @cached_property
    def words(self) -> Bm25:
        """BM25 over the passages."""
        return Bm25([one.content for one in self.passages])

    @cached_property
    def written(self) -> list[Query]:
        """The queries that a language model wrote, kept or not."""
        return written(self.workspace.read(Query))

    @cached_property
    def kept(self) -> list[Kept]:
        """A sample of the kept training queries."""
        number = {one.passage_id: place for place, one in enumerate(self.passages)}
        found = [
            Kept(text=one.text, passage=number[one.passage_id])
            for one in self.written
            if one.kept and one.split == "train" and one.passage_id in number
        ]
        return sample(found)

    @cached_property
    def rows(self) -> list[TrainRow]:
        """The training rows, none if the file is missing or damaged."""
        path = self.workspace.path("train.jsonl")
        try:
            return read_flagembedding(path) if path.exists() else []
        except EmbedfitError:
            return []

    @cached_property
    def base(self) -> tuple[Path, Architecture] | None:
        """The base's folder and its architecture with its own right prompts; None if it can't be opened any more."""
        try:
            return open_model(self.config.model)
        except EmbedfitError:
            return None

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer, None if it can't be opened any more."""
        try:
            return load_tokenizer(self.base[0]) if self.base else None
        except EmbedfitError:
            return None

    def comparison(self, *pairs: tuple[str, str]) -> Comparison | None:
        """The first of the comparisons that was made, on the deciding metric."""
        found = (self.evidence.summary.comparison(*pair) for pair in pairs)
        return next((one for one in found if one is not None), None)

    @cached_property
    def dev(self) -> Mapping[float, float]:
        """The nDCG@10 of dev queries by α, as merge measured it."""
        return {one.alpha: one.dev["ndcg@10"] for one in self.evidence.merge.alphas if "ndcg@10" in one.dev}

    @cached_property
    def own_coverage(self) -> list[float]:
        """The share of each kept query that its own passage covers, and no other passage better than by half."""
        return [float(self.words.coverage(one.text)[one.passage]) for one in self.kept]

    @cached_property
    def ranks(self) -> list[int]:
        """BM25's rank of each kept query's own passage; the number of passages if they share no word."""
        found = []
        for one in self.kept:
            scores = self.words.scores(one.text)
            own = scores[one.passage]
            found.append(1 + int((scores > own).sum()) if own > 0 else len(self.passages))
        return found


def sample(items: Sequence[Kept]) -> list[Kept]:
    """At most LOOKED_AT of the items, evenly spaced."""
    if len(items) <= LOOKED_AT:
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, LOOKED_AT)]
