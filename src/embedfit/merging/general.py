"""General text outside the user's corpus, which shows what a model has forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from embedfit.merging.task import RetrievalTask

_WORDS = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention(RetrievalTask):
    """A retrieval task on general text. source: a description of the text for people."""

    source: str


def general_paragraphs() -> list[str]:
    """The short paragraphs of general.txt on nature, history, crafts and sports, four on each subject.

    They were written for embedfit, so that no merge depends on the version of another program's text.
    """
    text = resources.files("embedfit.merging").joinpath("general.txt").read_text("utf-8")
    return text.strip().split("\n\n")


def built_in(corpus: Sequence[str], *, seed: int = 0) -> Retention:
    """Inverse cloze on the general text that the package carries (Lee et al., ACL 2019).

    A sentence taken out of a paragraph must find the rest of it, among three paragraphs on the same subject and
    others. Paragraphs of the corpus are left out, because only other text shows forgetting.
    """
    known = {_beginning(text) for text in corpus}
    rng = np.random.default_rng(seed)
    passages, queries = [], []
    for paragraph in general_paragraphs():
        sentences = _SENTENCE_END.split(paragraph)
        taken = int(rng.integers(0, len(sentences)))
        if _beginning(paragraph) not in known:
            queries.append(sentences[taken])
            passages.append(" ".join(sentences[:taken] + sentences[taken + 1 :]))
    return Retention(
        passages=tuple(passages),
        queries=tuple(queries),
        relevant=tuple(frozenset({number}) for number in range(len(passages))),
        source="sentences of a general text that embedfit carries against the rest of their paragraphs",
    )


def _beginning(text: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORDS.findall(text)[:12])
