"""The rows of a run's evaluation: which retriever over which model, and which two are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embedfit.index import retriever as retrievers
from embedfit.index.retriever import DEFAULT, Part, Retriever, from_json

OWN = ("base", "finetuned", "merged", "bm25", "hybrid_base", "hybrid_merged")
CUT = "bm25_cut"
#: Rows of windows alone, which evaluate.windows can leave out.
WINDOWED = ("base_windowed", "merged_windowed", "hybrid_merged_windowed")
RETRIEVERS = ("rrf", "default_base", "default", "chosen_base", "chosen")
NAMES = (*OWN, CUT, *WINDOWED, *RETRIEVERS)

#: The default's first stage without windows: what they bring is told by the next row.
HYBRID = Retriever(
    name="hybrid",
    parts=(Part(name="one", weight=1.0), *(part for part in DEFAULT.parts if part.name == "words")),
)
PAIRS = (
    ("merged", "base"),
    ("finetuned", "base"),
    ("finetuned", "bm25"),
    ("merged", "finetuned"),
    ("merged", "bm25"),
    ("hybrid_merged", "hybrid_base"),
    ("hybrid_merged", "bm25"),
    ("hybrid_merged", "merged"),
    ("merged_windowed", "merged"),
    ("merged_windowed", "base"),
    ("merged_windowed", "base_windowed"),
    ("merged_windowed", "bm25"),
    ("hybrid_merged_windowed", "hybrid_merged"),
    ("bm25", "base"),
    ("rrf", "base"),
    ("default_base", "base"),
    ("default", "base"),
    ("default", "default_base"),
    ("default", "bm25"),
    ("rrf", "default"),
    ("chosen", "base"),
    ("chosen", "default"),
    ("chosen", "chosen_base"),
)


def rows_of_base(default: Retriever, *, windowed: bool) -> dict[str, Retriever]:
    """Retrievers over the untuned model; BM25 among them, which needs none."""
    found = {"base": retrievers.BASE, "bm25": retrievers.BM25, "hybrid_base": HYBRID, "default_base": default}
    return found | ({"base_windowed": retrievers.WINDOWS} if windowed else {})


def rows_of_model(*, windowed: bool) -> dict[str, Retriever]:
    """Retrievers over the tuned model."""
    found = {"merged": retrievers.BASE, "hybrid_merged": HYBRID}
    more = {"merged_windowed": retrievers.WINDOWS, "hybrid_merged_windowed": DEFAULT.without_tokens()}
    return found | (more if windowed else {})


def default_of(chosen: Mapping[str, Any]) -> Retriever:
    """The safe default that the stage `choose` named. chosen: retriever.json."""
    return replace(from_json(chosen["default"]), name="default")


def alike(a: Retriever, b: Retriever) -> bool:
    """Whether two retrievers find the same in the same index: deviations are the index'."""
    return replace(a.with_deviations({}), name="") == replace(b.with_deviations({}), name="")
