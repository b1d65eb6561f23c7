"""Text outside the user's corpus, to see what a model has forgotten."""

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
    """A retrieval task on general text. source: what the text is, for people."""

    source: str


def general_paragraphs() -> list[str]:
    """The paragraphs of general.txt: short ones on nature, history, crafts and sports, four on each subject.

    They were written for embedfit, so that what a merge decides depends on no text of another program's version.
    """
    text = resources.files("embedfit.merging").joinpath("general.txt").read_text("utf-8")
    return text.strip().split("\n\n")


def built_in(corpus: Sequence[str], *, seed: int = 0) -> Retention:
    """Inverse cloze on the general text that the package carries (Lee et al., ACL 2019).

    A sentence taken out of a paragraph must find the rest of it, among three paragraphs on the same subject and
    others. Paragraphs of the corpus are left out: forgetting shows on other text only.
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
