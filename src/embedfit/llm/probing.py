"""Whether a model's replies are of use, found out from the first ones, before the others are paid for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from embedfit.errors import GeneratorError
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.protocol import Failure, Reply, Request
from embedfit.llm.replies import CUT, EMPTY, FORM, REFUSED, SPENT, THOUGHTS, fault_of, shown

#: Calls after which the replies must be of use; no other call is sent before their replies have been read.
FIRST = 24
#: Calls of these after which a higher limit is tried, where the limit ended every one.
FIRST_OF_LIMIT = 8
#: Tokens of a reply, tried one after the other where the limit ends the replies; 0: the request's own.
LIMITS = (0, 2048, 8192)

_NO_THINKING = (
    "or turn its thinking off: --set 'generate.extra_body={chat_template_kwargs={enable_thinking=false}}' (vLLM, "
    "SGLang) or --set 'generate.extra_body={reasoning_effort=\"low\"}' (OpenAI)"
)
#: How another model that writes queries is named.
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
#: What is wrong with replies that are whole and yet of no use.
SAME = "it says the same of every passage"
#: So many replies that say the same are no chance.
_MANY_SAME = 3


class LimitTooLow(GeneratorError):
    """The first replies were of no use because they ended at the limit of tokens."""


def parts(model: LedgeredModel, requests: Sequence[Request], groups: Sequence[str], *, free: bool) -> list[list[int]]:
    """The requests, by number, in parts to be asked one after the other: FIRST of them in two parts, then the others.

    groups: the kind of each request; kinds take turns in the first parts. free: nothing is paid for, so all are one
    part.
    """
    everything = list(range(len(requests)))
    if free or len(requests) <= FIRST_OF_LIMIT or not model.can_split(requests, FIRST):
        return [everything]
    of_kind = [[n for n in everything if groups[n] == kind] for kind in dict.fromkeys(groups)]
    in_turn = [n for row in itertools.zip_longest(*of_kind) for n in row if n is not None]
    first, second = in_turn[:FIRST_OF_LIMIT], in_turn[FIRST_OF_LIMIT:FIRST]
    taken = {*first, *second}
    return [part for part in (first, second, [n for n in everything if n not in taken]) if part]


def within_limit(model: LedgeredModel, requests: Sequence[Request], limit: int) -> list[Request]:
    """The requests with a limit of tokens; 0: their own. Whole replies under a lower limit are not asked for again."""
    result = [replace(request, max_tokens=max(limit, request.max_tokens)) if limit else request for request in requests]
    for lower in reversed([tokens for tokens in LIMITS if tokens < limit]):
        tried = [replace(r, max_tokens=max(lower, r.max_tokens)) if lower else r for r in requests]
        for number, reply in enumerate(model.stored(tried)):
            if reply is not None and reply.finish != "length":
                result[number] = tried[number]
    return result


@dataclass(slots=True)
class _Kind:
    expected: int = 0
    useful: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    sample: str = ""
    remedy: str = ""
    said: set[tuple[str, ...]] = field(default_factory=set)

    @property
    def seen(self) -> int:
        return self.useful + self.failed.total() + self.faults.total()


class Tally:
    """How many replies of each kind were of use.

    what: they should hold, such as "query". limit: of tokens that a setting or LIMITS gave, 0 for the requests' own.
    another: how another model is named. without: a sentence that ends each remedy.
    """

    def __init__(
        self,
        groups: Sequence[str],
        what: str,
        limit: int = 0,
        *,
        another: str = ANOTHER_WRITER,
        without: str = "",
    ) -> None:
        self._what, self._limit, self._another, self._without = what, limit, another, without
        self._kinds: dict[str, _Kind] = {kind: _Kind(expected=n) for kind, n in Counter(groups).items()}

    def doubts(self, group: str) -> bool:
        """Whether too few replies of a kind have been seen to say that they are of use."""
        return self._kinds[group].seen < FIRST

    def add(
        self, group: str, outcome: Reply | Failure, *, useful: bool, fault: str = "", said: tuple[str, ...] = ()
    ) -> None:
        """Count an outcome of a request.

        fault: why it is of no use, where that is not seen from the reply itself. said: what was read from it, where
        other passages should give something else.
        """
        kind = self._kinds[group]
        if useful and said and self.doubts(group):
            useful, fault = said not in kind.said, SAME
            kind.said.add(said)
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
        """Raise GeneratorError where a kind has had its share of FIRST, or all of its own, and none was of use.

        LimitTooLow where the limit of tokens is why; of a share of FIRST_OF_LIMIT, where it ended each.
        """
        kinds = list(self._kinds.values())
        few = FIRST_OF_LIMIT // max(len(kinds), 1)
        ended = [kind for kind in kinds if kind.seen >= few and kind.faults[SPENT] + kind.faults[CUT] == kind.seen]
        if ended:
            raise self._error(ended)
        share = FIRST // len(kinds) if kinds else 0
        useless = [
            k
            for k in kinds
            if k.useful <= (k.faults[SAME] >= _MANY_SAME) and k.seen and k.seen >= min(share, k.expected)
        ]
        if useless:
            raise self._error(useless)

    def _error(self, kinds: Sequence[_Kind]) -> GeneratorError:
        kind = _Kind(
            expected=sum(k.expected for k in kinds),
            sample=next(filter(None, (k.sample for k in kinds)), ""),
            remedy=next(filter(None, (k.remedy for k in kinds)), _AGAIN),
        )
        for one in kinds:
            kind.failed += one.failed
            kind.faults += one.faults
        few = f"All {kind.seen:,}" if kind.seen == kind.expected else f"The first {kind.seen:,}"
        few += "" if len(kinds) == len(self._kinds) else f" {self._name(kinds[0])}"
        if not kind.faults:
            text, count = kind.failed.most_common(1)[0]
            return GeneratorError(
                f"{few} calls failed; {count:,} of them with: {text}", remedy=self._remedy(kind.remedy)
            )
        fault, count = kind.faults.most_common(1)[0]
        of_use = "" if fault in (EMPTY, THOUGHTS, REFUSED, FORM, SPENT, CUT) else " of use"
        message = f"{few} replies hold no {self._what}{of_use}; of {count:,} the reason is: {fault}."
        if kind.sample.strip():
            message += f' One reply: "{shown(kind.sample)}"'
        if fault in (SPENT, CUT):
            more = max(4 * self._limit, LIMITS[1])
            remedy = f"Allow more: --set generate.max_reply_tokens={more}, {_NO_THINKING}"
            return LimitTooLow(message, remedy=self._remedy(remedy))
        remedy = _REMEDIES.get(fault, _OTHERWISE).format(another=self._another, no_thinking=_NO_THINKING)
        return GeneratorError(f"{message} Nothing more was asked for.", remedy=self._remedy(remedy))

    def _name(self, kind: _Kind) -> str:
        return next(name for name, one in self._kinds.items() if one is kind)

    def _remedy(self, text: str) -> str:
        return f"{text.rstrip('.')}. {self._without}" if self._without else text
