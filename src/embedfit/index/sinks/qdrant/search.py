"""The first stage as one query of Qdrant, whose formula adds the parts by our weights, and the store that asks it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedfit.errors import EmbedfitError, InputError
from embedfit.index.retriever import DENSE_PARTS
from embedfit.index.sinks.conditions import Test, field_of, keys_of, tests_of
from embedfit.index.sinks.qdrant.connection import connected, errors_of, place_of
from embedfit.index.sinks.qdrant.load import facts_of, read_questions
from embedfit.index.sinks.sink import About, Candidate, Outdated, Question, holds_no_index, read_about
from embedfit.index.store.columns import DOCUMENT
from embedfit.index.store.filters import Condition, Filter

if TYPE_CHECKING:
    from qdrant_client.http import models

#: Passages of each part that are compared first. If one behind them may be better, four times as many are.
FIRST = 20_000
#: More passages than asked for, so that equal scores at the end can be put in our order.
_MORE = 10
_ROUNDING = 1e-4
#: Numbers up to here are exact in the server's comparison of ranges.
_EXACT = 1 << 53


def prefetches(
    about: About, question: Question, limit: int, where: models.Filter | None = None
) -> dict[str, models.Prefetch]:
    """For each part of the retriever the query of its `limit` best passages. Words that no passage holds have none."""
    from qdrant_client.http import models

    found: dict[str, models.Prefetch] = {}
    exact = models.SearchParams(exact=True)
    for part in about.retriever.parts:
        query: Any
        if part.name in DENSE_PARTS:
            query = question.vector.tolist() if part.name == "one" else [question.vector.tolist()]
        else:
            words = question.words[part.name]
            query = models.SparseVector(indices=words.numbers.tolist(), values=words.values.tolist())
            if not len(words.numbers):
                continue
        found[part.name] = models.Prefetch(query=query, using=part.name, limit=limit, filter=where, params=exact)
    return found


def formula(about: About, names: Sequence[str]) -> models.FormulaQuery:
    """The sum of weight × raw / deviation over the parts' scores. names: of the prefetches, in their order.

    The share of the query that a passage's words cover is at most 1: min(1, x) = (1 + x - |1 - x|) / 2.
    """
    from qdrant_client.http import models

    sums: list[Any] = []
    for place, name in enumerate(names):
        raw: Any = f"$score[{place}]"
        if name not in DENSE_PARTS:
            less = models.AbsExpression(abs=models.SumExpression(sum=[1.0, models.NegExpression(neg=raw)]))
            twice = models.SumExpression(sum=[1.0, raw, models.NegExpression(neg=less)])
            raw = models.MultExpression(mult=[0.5, twice])
        weight = sum(part.weight / part.deviation for part in about.retriever.parts if part.name == name)
        sums.append(models.MultExpression(mult=[weight, raw]))
    return models.FormulaQuery(formula=models.SumExpression(sum=sums))


class QdrantStore:
    """What was handed over to a server, opened for queries."""

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
                self._collection = f"{self._place.name}_{self.about.content}"
                self.questions = self._questions(int(facts["chunks"]))
        except BaseException:
            self.close()
            raise
        self._keys = keys_of(self.about)

    def _facts(self) -> Mapping[str, Any] | None:
        return facts_of(self._client, f"{self._place.name}_about")

    def _questions(self, chunks: int) -> bytes:
        try:
            return read_questions(self._client, f"{self._collection}_about", chunks)
        except ValueError as error:
            raise InputError(
                f"{self._place.shown} is damaged: {error}.",
                remedy=f"Hand the index over again: embedfit index --run DIR --to {self._place.shown}",
            ) from error

    def first(self, question: Question, depth: int, where: Filter) -> list[Candidate]:
        """The best `depth` passages by the first stage, best first: exact, because no other can score more."""
        wanted = self._filter(where)
        try:
            with errors_of(self._place):
                found = self._best(question, depth, wanted)
        except EmbedfitError:
            with errors_of(self._place):
                facts = self._facts()
            if facts is None or self._collection.endswith(read_about(str(facts["about"]), "").content):
                raise
            raise Outdated(self._place.shown) from None
        found.sort(key=lambda one: (-one.score, one.id))
        has_dense = self.about.retriever.has(*DENSE_PARTS)
        kept = [one for one in found if has_dense or one.score > 0][:depth]
        return [_candidate(one, self.about.token_width) for one in kept]

    def _best(self, question: Question, depth: int, where: models.Filter | None) -> list[models.ScoredPoint]:
        from qdrant_client.http import models

        most, limit = self.about.passages, max(FIRST, 4 * depth)
        if any(part.weight < 0 for part in self.about.retriever.parts):
            limit = most  # a passage that a part does not find may be better for it
        while True:
            among, count, bound = where, most, -np.inf
            if limit < most:
                numbers, bound = self._gathered(question, limit, where)
                among, count = models.Filter(must=[models.HasIdCondition(has_id=numbers)]), len(numbers)
            parts = prefetches(self.about, question, count, among)
            if not parts or not count:
                return []
            found = self._client.query_points(
                self._collection,
                prefetch=list(parts.values()),
                query=formula(self.about, list(parts)),
                limit=depth + _MORE,
                with_payload=models.PayloadSelectorExclude(exclude=["filters", "digest"]),
            ).points
            least = found[depth - 1].score if len(found) >= depth else -np.inf
            if bound == -np.inf or least > bound:
                return found
            limit *= 4

    def _gathered(self, question: Question, limit: int, where: models.Filter | None) -> tuple[list[int], float]:
        """Numbers of the `limit` best passages of each part, and the most that another passage can score."""
        from qdrant_client.http import models

        parts = prefetches(self.about, question, limit, where)
        requests = [
            models.QueryRequest(query=one.query, using=one.using, limit=limit, filter=where, params=one.params)
            for one in parts.values()
        ]
        answers = self._client.query_batch_points(self._collection, requests)
        weights: dict[str, float] = {part.name: part.weight / part.deviation for part in self.about.retriever.parts}
        numbers: set[int] = set()
        bound = _ROUNDING
        for name, answer in zip(parts, answers, strict=True):
            numbers.update(int(one.id) for one in answer.points)
            if len(answer.points) == limit:
                bound += weights[name] * answer.points[-1].score
            elif name in DENSE_PARTS:  # it found every passage that meets the filter
                bound = -np.inf
        return sorted(numbers), bound

    def _filter(self, where: Filter) -> models.Filter | None:
        from qdrant_client.http import models

        if not where.conditions:
            return None
        return models.Filter(must=[self._condition(one) for one in where.conditions])

    def _condition(self, condition: Condition) -> models.Filter:
        """The meaning is that of Catalogue.allowed. Raises InputError as tests_of."""
        from qdrant_client.http import models

        known = field_of(condition, self.about)
        key = self._keys[known.name]
        path = f"metadata.{key}" if key == known.name else f"filters.fields.{key}"
        path = DOCUMENT if known.name == DOCUMENT else path
        if condition.operator == "exists":
            empty: list[Any] = [models.IsEmptyCondition(is_empty=models.PayloadField(key=path))]
            return models.Filter(must_not=empty) if condition.values[0][0] else models.Filter(must=empty)
        tests: list[Any] = [_tested(test, path, key) for test in tests_of(condition, known)]
        return models.Filter(must_not=tests) if condition.operator == "!=" else models.Filter(should=tests)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _tested(test: Test, path: str, key: str) -> models.FieldCondition:
    from qdrant_client.http import models

    value: Any = test.value
    if test.kind == "inside":
        return models.FieldCondition(key="filters.folders", match=models.MatchValue(value=value))
    if test.kind == "equal":
        is_number = not isinstance(value, (bool, str))
        if is_number and not (isinstance(value, int) and _EXACT < abs(value) < 1 << 63):
            return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    ranges = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
    path = f"filters.dates.{key}" if test.kind.startswith("date") else path
    given = {ranges[test.kind.removeprefix("date ")]: float(value)}
    return models.FieldCondition(key=path, range=models.Range(**given))


def _candidate(one: models.ScoredPoint, width: int) -> Candidate:
    row = dict(one.payload or {})
    if "tokens" in row:
        row["tokens"] = base64.b64decode(row["tokens"])
    return Candidate.of({**row, "number": int(one.id), "score": float(one.score)}, width=width)
