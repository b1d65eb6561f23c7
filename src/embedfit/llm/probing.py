"""Checks on a model's first replies, so that no money goes into a model whose replies are of no use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from embedfit.errors import GeneratorError
from embedfit.llm.protocol import Failure, Outcome
from embedfit.llm.replies import CUT, EMPTY, FORM, REFUSED, SPENT, THOUGHTS, fault_of, shown

#: Calls after which the replies must be of use; no other call is sent before their replies have been read.
FIRST = 24
#: Calls after which a higher limit is tried, if the limit ended the reply of every one.
FIRST_OF_LIMIT = 8
#: Tokens of a reply, tried one after the other while the limit ends the replies; 0: the request's own.
LIMITS = (0, 2048, 8192)

_NO_THINKING = (
    "or turn its thinking off: --set 'generate.extra_body={chat_template_kwargs={enable_thinking=false}}' (vLLM, "
    "SGLang) or --set 'generate.extra_body={reasoning_effort=\"low\"}' (OpenAI)"
)
#: The options that name another model to write queries.
ANOTHER_WRITER = "--set generate.llm=NAME"
_REMEDIES = {
    EMPTY: "The server sent no text. Look at its log and its chat template, or choose another model: {another}",
    THOUGHTS: "The model, or the server's reasoning parser, sends thoughts and no answer: "
    "choose another model ({another}), {no_thinking}",
    REFUSED: "Choose another model ({another}), or say what the documents are: --set generate.domain='…'",
    FORM: "Choose a model that follows instructions, usually a larger one: {another}",
}
_OTHERWISE = (
    "Choose another model, usually a larger one ({another}), or say more of what you want: "
    "--set generate.domain='…' and --set generate.language='…'"
)
_AGAIN = "Mend that and run the same command again: every reply so far is in the ledger."
#: The fault of replies that are whole and yet of no use.
SAME = "it says the same of every passage"
#: This many equal replies can't be chance.
_MANY_SAME = 3


class LimitTooLow(GeneratorError):
    """The first replies were of no use because they ended at the limit of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The content that replies should have.

    unit: such as "query" or "score". another: the options that name another model. without: a sentence that ends each
    remedy.
    """

    unit: str
    another: str = ANOTHER_WRITER
    without: str = ""


@dataclass(frozen=True, slots=True)
class Worth:
    """Whether an outcome was of use.

    fault: the reason why not, if the reply alone does not show it. said: the content, if other passages should give
    another.
    """

    useful: bool
    fault: str = ""
    said: tuple[str, ...] = ()


@dataclass(slots=True)
class _Kind:
    name: str = ""
    expected: int = 0
    useful: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    sample: str = ""
    remedy: str = ""
    said: set[str] = field(default_factory=set)

    @property
    def seen(self) -> int:
        return self.useful + self.failed.total() + self.faults.total()

    @property
    def limited(self) -> bool:
        """Whether the limit of tokens ended every reply."""
        return self.faults[SPENT] + self.faults[CUT] == self.seen


class Tally:
    """Counts the useful replies of each kind. kinds: each call's kind. limit: of tokens, 0 for the requests' own."""

    def __init__(self, kinds: Sequence[str], wanted: Wanted, limit: int = 0) -> None:
        self.kinds = kinds
        self._wanted, self._limit = wanted, limit
        self._of_kind = {kind: _Kind(kind, expected=count) for kind, count in Counter(kinds).items()}

    def doubts(self, number: int) -> bool:
        """Whether too few replies of a call's kind have been read to judge that kind."""
        return self._of_kind[self.kinds[number]].seen < FIRST

    def add(self, number: int, outcome: Outcome, worth: Worth) -> None:
        """Count the outcome of a call."""
        kind, useful, fault = self._of_kind[self.kinds[number]], worth.useful, worth.fault
        if useful and worth.said:
            useful, fault = not kind.said.issuperset(worth.said), SAME
            kind.said.update(worth.said)
        if isinstance(outcome, Failure):
            kind.failed[outcome.error] += 1
            kind.remedy = kind.remedy or outcome.remedy
        elif useful:
            kind.useful += 1
        else:
            fault = fault or fault_of(outcome)
            kind.faults[fault] += 1
            if fault == kind.faults.most_common(1)[0][0]:
                kind.sample = outcome.text

    def check(self) -> None:
        """Raise GeneratorError if none of a kind's replies was of use, after its share of FIRST or all of its calls.

        Raises LimitTooLow instead if the limit of tokens is the reason; already after a kind's share of FIRST_OF_LIMIT,
        if the limit ended each of its replies.
        """
        kinds = list(self._of_kind.values())
        count = max(len(kinds), 1)
        ended = [kind for kind in kinds if kind.seen >= FIRST_OF_LIMIT // count and kind.limited]
        useless = [
            kind
            for kind in kinds
            if kind.useful <= (kind.faults[SAME] >= _MANY_SAME)
            and kind.seen
            and kind.seen >= min(FIRST // count, kind.expected)
        ]
        if ended or useless:
            raise self._error(ended or useless)

    def _error(self, kinds: Sequence[_Kind]) -> GeneratorError:
        seen, expected = sum(kind.seen for kind in kinds), sum(kind.expected for kind in kinds)
        failed = sum((kind.failed for kind in kinds), Counter[str]())
        faults = sum((kind.faults for kind in kinds), Counter[str]())
        few = f"All {seen:,}" if seen == expected else f"The first {seen:,}"
        few += "" if len(kinds) == len(self._of_kind) else f" {kinds[0].name}"
        if not faults:
            text, count = failed.most_common(1)[0]
            remedy = next((kind.remedy for kind in kinds if kind.remedy), _AGAIN)
            return GeneratorError(
                f"{few} calls failed; {count:,} of them with: {text}", remedy=self._with_way_out(remedy)
            )
        fault, count = faults.most_common(1)[0]
        of_use = "" if fault in (EMPTY, THOUGHTS, REFUSED, FORM, SPENT, CUT) else " of use"
        message = f"{few} replies hold no {self._wanted.unit}{of_use}; of {count:,} the reason is: {fault}."
        if sample := next((kind.sample for kind in kinds if kind.sample.strip()), ""):
            message += f' One reply: "{shown(sample)}"'
        if fault in (SPENT, CUT):
            more = max(4 * self._limit, LIMITS[1])
            remedy = f"Allow more: --set generate.max_reply_tokens={more}, {_NO_THINKING}"
            return LimitTooLow(message, remedy=self._with_way_out(remedy))
        remedy = _REMEDIES.get(fault, _OTHERWISE).format(another=self._wanted.another, no_thinking=_NO_THINKING)
        return GeneratorError(f"{message} Nothing more was asked for.", remedy=self._with_way_out(remedy))

    def _with_way_out(self, remedy: str) -> str:
        return f"{remedy.rstrip('.')}. {self._wanted.without}" if self._wanted.without else remedy
