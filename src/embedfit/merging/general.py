"""Text outside the user's corpus, to see what a model has forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics as python_topics

import numpy as np

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """A retrieval task on general text: relevant[i] are the passages (by number) that answer queries[i]."""

    passages: tuple[str, ...]
    queries: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    source: str


def built_in(corpus: Sequence[str], *, limit: int = 150, seed: int = 0) -> Retention:
    """Inverse cloze on the language reference that every CPython carries (Lee et al., ACL 2019).

    A sentence taken out of a paragraph must find the rest of it. Paragraphs that share much with
    the corpus are left out: forgetting shows on other text only.
    """
    paragraphs = []
    known = {tuple(_words(text)[:12]) for text in corpus}
    for topic in sorted(python_topics):
        for paragraph in re.split(r"\n\s*\n", python_topics[topic]):
            text = " ".join(paragraph.split())
            sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)
            if len(sentences) >= 3 and 40 <= len(text.split()) <= 160 and tuple(_words(text)[:12]) not in known:
                paragraphs.append(sentences)
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(len(paragraphs), size=min(limit, len(paragraphs)), replace=False))
    passages, queries, relevant = [], [], []
    for number, index in enumerate(chosen):
        sentences = paragraphs[int(index)]
        taken = int(rng.integers(0, len(sentences)))
        queries.append(sentences[taken])
        passages.append(" ".join(sentences[:taken] + sentences[taken + 1 :]))
        relevant.append(frozenset({number}))
    return Retention(
        passages=tuple(passages),
        queries=tuple(queries),
        relevant=tuple(relevant),
        source="sentences of Python's language reference against the rest of their paragraphs",
    )


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(text)]
