"""The rules that drop queries that are not worth training on. Each rule is a pure function that gives a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embedfit.numerics.arrays import Ints, Vectors
from embedfit.numerics.near_duplicates import SAME_COSINE, close_pairs
from embedfit.queries.examples import EXAMPLE_NAMES, EXAMPLE_QUERIES
from embedfit.queries.rules import weak
from embedfit.queries.rules.candidate import Candidate, Rule, longest_shared_run
from embedfit.queries.rules.meta import META
from embedfit.retrieval import languages
from embedfit.retrieval.words import DENSE, count, size, word_set, words

#: Sentences by which a document tries to steer the model. The model must not have obeyed them.
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget) (?:(?:all|any|of|the|your|my|these|everything) ){0,3}"
    r"(?:above|previous|prior|earlier|instructions?|rules?)\b|"
    r"\b(?:system|hidden|secret) prompt\b|\byou are now\b|\bnew instructions?\b",
    re.IGNORECASE,
)

#: A full stop of Chinese, Japanese or Khmer may have no space behind it.
SENTENCE_END = re.compile(r"(?<=[.!?؟۔।॥။።])\s+|(?<=[。！？｡។៕])\s*|\n")

MIN_WORDS, MAX_WORDS, MAX_CHARACTERS = 2, 32, 240
COPIED_SPAN = 9
#: A language is certain from the first probability on; below the second one the expected language is ruled out.
SURE, RULED_OUT = 0.99, 0.001
BARE_INSTRUCTION = 7  # words
TWIN_COSINE, TWIN_JACCARD = 0.9, 0.8


def malformed(candidate: Candidate) -> str:
    """Not a line of ordinary text."""
    text = candidate.text
    if not any(character.isalpha() for character in text):
        return "malformed: no letters"
    if "\ufffd" in text or any(ord(character) < 32 for character in text):
        return "malformed: control or replacement characters"
    if re.search(r"https?://|<[a-z/][^>]*>|[{}\\]|```", text):
        return "malformed: markup"
    if re.search(r"(.)\1{5,}", text) or _repeats(words(text)):
        return "malformed: repeats itself"
    return ""


def _repeats(tokens: list[str]) -> bool:
    """Whether a run of one to four words comes three times in a row, as small models do when they loop."""
    longest = 8 if any(map(DENSE.match, tokens)) else 4  # dense scripts: two to three letters are a word
    for length in range(1, longest + 1):
        for start in range(len(tokens) - 3 * length + 1):
            first = tokens[start : start + length]
            again = tokens[start + length : start + 2 * length] == first
            if again and first == tokens[start + 2 * length : start + 3 * length] and size(first) >= 1:
                return True
    return False


def wrong_length(candidate: Candidate) -> str:
    """Too short to mean anything, or longer than anybody types."""
    length = count(candidate.text)
    if length < MIN_WORDS:
        return "too short"
    if length > MAX_WORDS or len(candidate.text) > MAX_CHARACTERS:
        return "too long"
    return ""


def talks_about_the_text(candidate: Candidate) -> str:
    """Asks about "the passage" rather than for its content (28% of LlamaIndex's published queries do)."""
    return "talks about the text" if META.search(candidate.text) else ""


def repeats_an_instruction(candidate: Candidate) -> str:
    """Carries on a sentence by which a document tried to steer the model."""
    return "repeats an instruction from the text" if _INSTRUCTION.search(candidate.text) else ""


def obeys_an_instruction(candidate: Candidate) -> str:
    """Obeys a sentence by which the passage tried to steer the model: most of its words occur only in that sentence.

    A sentence that only says "ignore the above" passes its role on to the next one.
    """
    sentences = SENTENCE_END.split(candidate.passage)
    steering: set[int] = set()
    for number, sentence in enumerate(sentences):
        if _INSTRUCTION.search(sentence):
            steering |= {number, number + 1} if count(sentence) <= BARE_INSTRUCTION else {number}
    if not steering:
        return ""
    told = word_set(" ".join(text for number, text in enumerate(sentences) if number in steering))
    rest = word_set(candidate.title)
    rest |= word_set(" ".join(text for number, text in enumerate(sentences) if number not in steering))
    all_words = word_set(candidate.text)
    query = [word for word in all_words if len(word) > 3 or DENSE.match(word)] or all_words
    only_told = sum(word in told and word not in rest for word in query)
    return "obeys an instruction from the text" if 2 * only_told > len(query) else ""


def copied(candidate: Candidate) -> str:
    """A long span of the passage, or its whole title: such a query teaches matching words, nothing else."""
    query = words(candidate.text)
    title = words(candidate.title)
    if title and query == title:
        return "copies the title"
    if size(query) >= COPIED_SPAN and size(longest_shared_run(query, words(candidate.passage))) >= COPIED_SPAN:
        return "copies a long span"
    return ""


def prompt_example(examples: Sequence[str]) -> Rule:
    """A rule that drops what merely repeats an example of the prompt."""
    known = {tuple(words(example)) for example in examples}

    def rule(candidate: Candidate) -> str:
        return "repeats an example of the prompt" if tuple(words(candidate.text)) in known else ""

    return rule


def other_language(asked: str) -> Rule:
    """A rule that drops a query in another language than asked for, if that is certain.

    asked: generate.language; if it is empty or unknown to us, the passage's own language is expected. Names and terms
    are at home in any language: a query half of whose words its passage has is not dropped.
    """
    wanted = languages.code_of(asked)

    def rule(candidate: Candidate) -> str:
        expected = wanted or languages.detect(candidate.passage)
        query = word_set(candidate.text)
        if not expected or not query or 2 * len(query & word_set(candidate.passage)) >= len(query):
            return ""
        found = languages.probabilities(candidate.text)
        best = max(found, key=lambda code: found[code], default="")
        sure = found.get(best, 0) >= SURE and found.get(expected, 0) < RULED_OUT and languages.is_named(best)
        if not sure or best == expected or languages.letters(candidate.text) < languages.MIN_LETTERS / 2:
            return ""
        whose = "asked for" if wanted else "its passage's"
        return f"in another language than {whose} ({languages.name_of(best)}, not {languages.name_of(expected)})"

    return rule


#: The rules in the order in which they are applied; the first reason counts.
TEXT_RULES: tuple[Rule, ...] = (
    malformed,
    wrong_length,
    talks_about_the_text,
    repeats_an_instruction,
    obeys_an_instruction,
    copied,
    *weak.RULES,
)


def text_rules(examples: Sequence[str], language: str) -> tuple[Rule, ...]:
    """All rules that need nothing but a query and its passage. examples: the user's; language: the wanted one."""
    own = weak.from_an_example(EXAMPLE_QUERIES, EXAMPLE_NAMES)
    return (*TEXT_RULES, other_language(language), prompt_example([*EXAMPLE_QUERIES, *examples]), own)


def first_reason(candidate: Candidate, rules: Sequence[Rule] = TEXT_RULES) -> str:
    """The first rule's reason to drop a candidate; empty if none has one."""
    return next((reason for rule in rules if (reason := rule(candidate))), "")


def exact_duplicates(texts: Sequence[str]) -> list[bool]:
    """True for every text whose words an earlier one already had."""
    seen: set[tuple[str, ...]] = set()
    result = []
    for text in texts:
        key = tuple(words(text))
        result.append(key in seen)
        seen.add(key)
    return result


def near_duplicates(
    vectors: Vectors, groups: Sequence[str], texts: Sequence[str], *, cosine: float = SAME_COSINE
) -> list[bool]:
    """True for every query that is close to an earlier kept one of the same passage.

    vectors: (Q, H) unit rows; groups: the passage of each query; texts: its text. A model that does not know a script
    gives all texts in it nearly one vector, so pairs in other scripts than Latin must share words too.
    """
    kept: dict[str, list[int]] = {}
    result = []
    for row, group in enumerate(groups):
        earlier = kept.setdefault(group, [])
        near = [other for other in earlier if float(vectors[other] @ vectors[row]) >= cosine]
        close = any(_share_words(texts[row], texts[other]) for other in near)
        result.append(close)
        if not close:
            earlier.append(row)
    return result


def _share_words(one: str, other: str) -> bool:
    """Whether two texts share half of their words, or are in Latin script, which every model knows."""
    if not _OTHER_SCRIPT.search(one):
        return True
    left, right = word_set(one), word_set(other)
    return 2 * len(left & right) >= len(left | right)


_OTHER_SCRIPT = re.compile(r"[^\W\d_\u0000-\u036f\u1e00-\u1eff]")


def lost_in_round_trip(
    ranks_by_system: Mapping[str, npt.NDArray[np.int64]], limits: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """True if no system finds the source in its top k (Promptagator, ICLR 2023).

    ranks: (Q,), 1-based; limits: (Q,), the k of each query.
    """
    best = np.min(np.stack(list(ranks_by_system.values())), axis=0)
    result: npt.NDArray[np.bool_] = best > limits
    return result


def twins(vectors: Vectors, texts: Sequence[str], of: Ints) -> dict[int, list[int]]:
    """For passages, the others that say the same in nearly the same words, and so are as relevant as themselves.

    vectors: (N, H) unit rows. of: (S,) the passages, ascending. Close vectors propose pairs, shared words decide on
    them.
    """
    found: dict[int, list[int]] = {}
    bags: dict[int, frozenset[str]] = {}
    for one, other in close_pairs(vectors, TWIN_COSINE, of):
        left = bags.setdefault(one, word_set(texts[one]))
        right = bags.setdefault(other, word_set(texts[other]))
        if len(left & right) >= TWIN_JACCARD * len(left | right):
            found.setdefault(one, []).append(other)
    return found
