"""A corpus, queries and judgements, independent of a file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Qrels = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A passage of a corpus. title may be empty. fields: the other fields of its record, unchanged."""

    text: str
    title: str = ""
    fields: Mapping[str, object] = field(default_factory=dict, compare=False)

    @property
    def content(self) -> str:
        """The text that is encoded and indexed: title, a space, text."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalData:
    """A corpus, queries, and which passages answer which query.

    corpus, queries: by id, in the order of the file. qrels: query id → passage id → relevance; above 0 is relevant, and
    the number is the gain in trec_eval's nDCG. negatives: query id → passage ids, without the queries that have none.
    notes: sentences for people about data that reading left out.
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
