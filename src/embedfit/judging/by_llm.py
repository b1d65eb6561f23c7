"""A language model as judge: many queries of a passage in a call, every call in the ledger."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing

from embedfit.errors import BudgetExceeded, GeneratorError
from embedfit.judging.judge import Pair, Verdict
from embedfit.judging.prompt import QUERIES_PER_CALL, TOP_SCORE, parse_scores, request
from embedfit.llm.client import Failure, Reply, Request
from embedfit.llm.consent import agree
from embedfit.llm.metered import OVER_BUDGET, LedgeredModel
from embedfit.runtime import Runtime


class LlmJudge:
    """Scores of 0 to 3, as shares of 3. Asks the user before calls that may cost money; free: none do."""

    def __init__(self, model: LedgeredModel, runtime: Runtime, *, free: bool = False) -> None:
        self._model = model
        self._free = free
        self._runtime = runtime

    @property
    def name(self) -> str:
        """The model's id."""
        return self._model.name

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """See Judge. Pairs for which --max-cost leaves no money have OVER_BUDGET as their reason."""
        calls = calls_for(pairs)
        requests = [call for call, _ in calls]
        agree(self._model, requests, f"judge: {len(pairs):,} queries", self._runtime, free=self._free)
        verdicts = [Verdict(score=None, reason=OVER_BUDGET)] * len(pairs)
        failures: Counter[str] = Counter()
        report = self._runtime.report
        with (
            closing(self._model.complete(requests)) as answers,
            report.task("judge", len(requests), "calls") as task,
        ):
            try:
                for index, outcome, key in answers:
                    if isinstance(outcome, Failure):
                        failures[outcome.error] += 1
                    groups = calls[index][1]
                    for group, verdict in zip(groups, verdicts_of(outcome, len(groups), key), strict=True):
                        for place in group:
                            verdicts[place] = verdict
                    task.advance()
            except BudgetExceeded as error:
                report.log(f"judge: {error.message}")
        if calls and sum(failures.values()) == len(calls):
            error_text, count = failures.most_common(1)[0]
            raise GeneratorError(
                f"The judge failed at all {len(calls):,} calls; {count:,} of them with: {error_text}",
                remedy="Run the same command again: what was written before is in the ledger. "
                "Without a judge: --set generate.judge_min=0",
            )
        return verdicts


def calls_for(pairs: Sequence[Pair]) -> list[tuple[Request, list[list[int]]]]:
    """The calls, and for each of its queries the pairs (by index) that it answers. Equal pairs are asked once."""
    places: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for place, pair in enumerate(pairs):
        places[pair.passage].setdefault(pair.query, []).append(place)
    return [
        (request(passage, chunk), [of_passage[query] for query in chunk])
        for passage, of_passage in places.items()
        for chunk in _chunks(list(of_passage))
    ]


def _chunks(queries: list[str]) -> Iterator[list[str]]:
    """Of even size, none over the limit."""
    count = -(-len(queries) // QUERIES_PER_CALL)
    size = -(-len(queries) // count)
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def verdicts_of(outcome: Reply | Failure, count: int, key: str) -> list[Verdict]:
    """The verdict of each of a call's queries."""
    if isinstance(outcome, Failure):
        return [Verdict(score=None, reason=f"call failed: {outcome.error}")] * count
    if outcome.finish == "refusal":
        return [Verdict(score=None, reason="the judge refused", call_id=key)] * count
    return [
        Verdict(score=None, reason="no score in the judge's reply", call_id=key)
        if score is None
        else Verdict(score=score / TOP_SCORE, call_id=key)
        for score in parse_scores(outcome.text, count)
    ]
