"""A corpus, queries and judgements, in whatever format they came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Qrels = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A passage of a corpus. title may be empty. fields: what else its record holds, as it stands there."""

    text: str
    title: str = ""
    fields: Mapping[str, object] = field(default_factory=dict, compare=False)

    @property
    def content(self) -> str:
        """Title, a space, text: what is encoded and indexed."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalData:
    """A corpus, queries, and which passages answer which query.

    corpus, queries: by id, in the order of the file. qrels: query id → passage id → relevance; above 0 is
    relevant, and the number is the gain in trec_eval's nDCG. negatives: query id → passage ids, without the queries
    that have none. notes: what was left out in reading, in sentences for people.
    """

    corpus: dict[str, Entry]
    queries: dict[str, str]
    qrels: Qrels
    negatives: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def relevant(self, query_id: str) -> set[str]:
        """Ids of the passages in the corpus that answer a query."""
        judged = self.qrels.get(query_id, {})
        return {passage_id for passage_id, value in judged.items() if value > 0 and passage_id in self.corpus}
