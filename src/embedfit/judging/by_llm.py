"""A language model as judge: one call scores many queries of a passage, and the ledger holds every call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from embedfit.judging.judge import Pair, PairScore
from embedfit.judging.prompt import QUERIES_PER_CALL, TOP_SCORE, parse_scores, request
from embedfit.llm.asking import Asking, ask_all
from embedfit.llm.metered import OVER_BUDGET, LedgeredModel
from embedfit.llm.probing import Wanted, Worth
from embedfit.llm.protocol import Failure, Outcome, Request
from embedfit.llm.replies import FORM, fault_of
from embedfit.runtime import Runtime

#: The advice if the judge's replies are of no use.
WITHOUT_JUDGE = "What was written before is in the ledger. Without a judge: --set generate.judge_min=0"


class LlmJudge:
    """Scores of 0 to 3, as shares of 3. Asks the user before calls that may cost money, unless all are free.

    max_tokens: of a reply; 0 takes as many as the scores need, and more if the model's thoughts use up all of them.
    extra: further fields of each call, as in Request.
    """

    def __init__(
        self, model: LedgeredModel, runtime: Runtime, *, free: bool = False, max_tokens: int = 0, extra: str = ""
    ) -> None:
        self._model = model
        self._free = free
        self._runtime = runtime
        self._max_tokens, self._extra = max_tokens, extra

    @property
    def name(self) -> str:
        """The model's id."""
        return self._model.name

    def judge(self, pairs: Sequence[Pair]) -> list[PairScore]:
        """A score for each pair, in order. Pairs for which --max-cost leaves no money have OVER_BUDGET as reason."""
        calls = calls_for(pairs)

        def read(number: int, outcome: Outcome, key: str, doubtful: bool) -> tuple[list[PairScore], Worth]:
            found = scores_of(outcome, len(calls[number][1]), key)
            return found, Worth(any(one.score is not None for one in found))

        how = Asking(
            work="judge",
            what=f"judge: {len(pairs):,} queries",
            wanted=Wanted(unit="score", without=WITHOUT_JUDGE),
            free=self._free,
            max_tokens=self._max_tokens,
        )
        requests = [replace(call, extra=self._extra) for call, _ in calls]
        scores = [PairScore(score=None, reason=OVER_BUDGET)] * len(pairs)
        for (_, asked), found in zip(calls, ask_all(self._model, requests, how, read, self._runtime), strict=True):
            for places, one in zip(asked, found or (), strict=False):
                for place in places:
                    scores[place] = one
        return scores


def calls_for(pairs: Sequence[Pair]) -> list[tuple[Request, list[list[int]]]]:
    """The calls, and for each query of a call the indices of its pairs. Equal pairs are asked about once."""
    places: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for place, pair in enumerate(pairs):
        places[pair.passage].setdefault(pair.query, []).append(place)
    return [
        (request(passage, chunk), [of_passage[query] for query in chunk])
        for passage, of_passage in places.items()
        for chunk in _chunks(list(of_passage))
    ]


def _chunks(queries: list[str]) -> Iterator[list[str]]:
    """The indices in chunks of even size, none longer than QUERIES_PER_CALL."""
    count = -(-len(queries) // QUERIES_PER_CALL)
    size = -(-len(queries) // count)
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def scores_of(outcome: Outcome, count: int, key: str) -> list[PairScore]:
    """The score of each of a call's queries."""
    if isinstance(outcome, Failure):
        return [PairScore(score=None, reason=f"call failed: {outcome.error}")] * count
    if outcome.finish == "refusal":
        return [PairScore(score=None, reason="the judge refused", call_id=key)] * count
    scores = parse_scores(outcome.text, count)
    unread = "no score in the judge's reply"
    if not any(score is not None for score in scores) and (fault := fault_of(outcome)) != FORM:
        unread = f"{unread}: {fault}"
    return [
        PairScore(score=None, reason=unread, call_id=key)
        if score is None
        else PairScore(score=score / TOP_SCORE, call_id=key)
        for score in scores
    ]
