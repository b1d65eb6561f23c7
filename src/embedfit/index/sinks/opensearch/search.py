"""What was handed over to OpenSearch, opened for queries."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from embedfit.errors import EmbedfitError
from embedfit.index.sinks.opensearch.bodies import constant, search_body
from embedfit.index.sinks.opensearch.connection import connected, errors_of, place_of
from embedfit.index.sinks.opensearch.load import facts_of, read_questions
from embedfit.index.sinks.sink import Candidate, Outdated, Question, holds_no_index, read_about
from embedfit.index.store.filters import Filter


class OpenSearchStore:
    """The indexes of one hand-over."""

    def __init__(self, url: str) -> None:
        """Raises UsageError if nothing was handed over there."""
        self._place = place_of(url)
        self._client = connected(self._place)
        try:
            with errors_of(self._place):
                facts = self._facts()
                if facts is None:
                    raise holds_no_index(self._place.shown, self._place.shown)
                self.about = read_about(str(facts["about"]), self._place.shown)
                self._index = f"{self._place.name}_{self.about.content}"
                self.questions = read_questions(self._client, f"{self._index}_about", int(facts["chunks"]))
        except BaseException:
            self.close()
            raise

    def _facts(self) -> Mapping[str, Any] | None:
        return facts_of(self._client, f"{self._place.name}_about")

    def first(self, question: Question, depth: int, where: Filter) -> list[Candidate]:
        """The best `depth` passages by the first stage, best first. Every passage is compared."""
        body = search_body(self.about, question, depth, where)
        try:
            with errors_of(self._place):
                hits = self._client.search(index=self._index, body=body)["hits"]["hits"]
        except EmbedfitError:
            with errors_of(self._place):
                facts = self._facts()
            if facts is None or self._index.endswith(read_about(str(facts["about"]), "").content):
                raise
            raise Outdated(self._place.shown) from None
        more = constant(self.about)
        return [_candidate(hit, more, self.about.token_width) for hit in hits]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _candidate(hit: Mapping[str, Any], more: float, width: int) -> Candidate:
    row = dict(hit["_source"])
    if "tokens" in row:
        row["tokens"] = base64.b64decode(row["tokens"])
    return Candidate.of({**row, "score": float(hit["_score"]) - more}, width=width)
