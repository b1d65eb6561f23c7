"""A language model for tests: deterministic, from a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from embedfit.llm.protocol import Failure, LanguageModel, Outcome, Reply, Request

Answer = str | Reply | Failure


class FakeModel(LanguageModel):
    """Answers each request with answer(request), in the order given, and remembers the requests.

    answer may return the text, a whole Reply, or a Failure, or raise (which ends complete(), as a
    provider that is gone for good does). Tokens are words. order: the order in which the indices
    0 … N-1 are answered, given N.
    """

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        *,
        provider: str = "fake",
        model: str = "fake-1",
        order: Callable[[int], Sequence[int]] = range,
    ) -> None:
        self.provider = provider
        self.model = model
        self.asked: list[Request] = []
        self._answer = answer
        self._order = order

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Yield the answers; a request counts as asked when its answer is computed."""
        for index in self._order(len(requests)):
            request = requests[index]
            self.asked.append(request)
            answer = self._answer(request)
            if isinstance(answer, str):
                tokens = len(answer.split())
                answer = Reply(text=answer, input_tokens=self.count_tokens(request), output_tokens=tokens)
            yield index, answer
