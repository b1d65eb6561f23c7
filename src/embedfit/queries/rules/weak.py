"""The rules against what small models write in place of a query: lists, loops, fragments, copies, invented figures.

Of the questions of people in six corpora at most 3 in 1,000 are of these kinds, of a small model's kept queries 80.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from embedfit.queries.rules.candidate import Candidate, Rule, longest_shared_run
from embedfit.retrieval.languages import detect, stop_words
from embedfit.retrieval.words import DENSE, size, word_set, words, words_or_pairs

#: A mark of punctuation between the items of a list, in any script. A space follows the western ones.
_BETWEEN_ITEMS = re.compile(r"(?:[,;|](?=\s|$)|[、，；،؛•·])\s*")
_ASKS = re.compile(r"[?？؟;՞፧]\s*$")
#: A list has this many items of at most so many words. If all stand in the passage, fewer items make a list.
LIST_ITEMS, ITEM_WORDS, COPIED_ITEMS = 4, 3, 3
_NUMBER = re.compile(r"\d+(?:[.,:/x×-]\d+)*")
#: From this share of digits among letters and digits on, and with this many numbers, a text is a row of a table. A
#: letter of a dense script counts for three.
DIGITS, NUMBERS = 0.4, 3
#: A text of which this share of the words with a meaning came before says everything twice.
SAID_BEFORE = 0.5
#: Languages with spaces in which no word is doubled to mean more. In others, such as Indonesian or Turkish, many are.
_NEVER_DOUBLED = frozenset(("en", "de", "nl", "fr", "es", "pt", "sv", "no", "da"))
_DOUBLED = re.compile(r"(?<![\w'’-])([^\W\d_]{3,})[\s,]+\1(?![\w'’-])")
#: A query of this many words or more that stands in the passage as it is.
COPIED_WHOLE = 5
#: Words that a query has in a row with an example of the prompt, and that are more than the way in which it begins.
SHARED_WITH_EXAMPLE = 7
#: A number of two digits and more that is no part of a name, such as Covid-19 or Office365.
_FIGURE = re.compile(r"(?<![A-Za-z\d.,-])\d{2,}(?![A-Za-z\d])")
_YEAR = re.compile(r"(?<![\d.,])(?:19|20)\d\d(?!\d|[.,]\d)")
_TWO_DIGITS = re.compile(r"(?<!\d)\d\d(?!\d)")
_PERCENTAGE = re.compile(r"(\d+(?:[.,]\d+)?) ?[%٪％]")
#: Second parts of sentences whose subject stands in the sentence before: "Can also be used to …". No question begins
#: so; "Can I also …" has its subject.
_FRAGMENT = re.compile(
    r"\W*(?:"
    r"(?:can|could|may|might|must|should|will|would|is|are|was|were|has|have) (?:also|then|only|not|now)? ?be(?:en)? \w"
    r"|(?:is|are|was|were) (?:also |then |only )?(?:used|required|needed|shown|displayed|located|included|called)"
    r" (?:to|in|as|for|by|when)\b"
    r"|(?:can|may|could|will|must|should) also \w+"
    r"|(?:as well as|such as|or else|and also|and then)\b"
    r"|(?:peut|peuvent|est|sont) (?:également|aussi) (?:être )?\w|(?:ainsi que|y compris|tels? que|telles? que)\b"
    r"|(?:también|además) (?:se )?(?:puede|pueden|es|son|está|están) \w|así como\b"
    r"|(?:può|possono) (?:anche|inoltre) essere \w|(?:também|além disso) (?:pode|podem|é|são) \w"
    r"|(?:также|кроме того,?) (?:можно|может|могут|является)\b"
    r"|(?:也|还|還|并且|並且|以及|同时|同時)(?:可以|可|能|会|會|需要)|また、|さらに、|또한 "
    r")",
    re.IGNORECASE,
)
#: Particles and words that make a question of such a beginning.
_QUESTION_WORD = re.compile(r"[吗嗎呢么]|か$|(?:까|나요|가요)$|\bли\b")


def _asks(text: str) -> bool:
    return bool(_ASKS.search(text) or _QUESTION_WORD.search(text))


def _inside(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Whether some words stand in a row in others."""
    return f" {' '.join(inner)} " in f" {' '.join(outer)} "


def a_list(candidate: Candidate) -> str:
    """Items one after the other, or one item twice, instead of something to look for."""
    if _asks(candidate.text):
        return ""
    items = [tuple(found) for part in _BETWEEN_ITEMS.split(candidate.text) if (found := words(part))]
    if len(items) >= 2 and len(set(items)) < len(items):
        return "a list: it names a thing twice"
    if len(items) >= LIST_ITEMS and max(map(size, items)) <= ITEM_WORDS:
        return "a list"
    if len(items) < COPIED_ITEMS:
        return ""
    passage = words(f"{candidate.title}\n{candidate.passage}")
    return "a list: copied from its passage" if all(_inside(item, passage) for item in items) else ""


def a_row_of_numbers(candidate: Candidate) -> str:
    """Numbers, with hardly a word that says what they are."""
    text = candidate.text
    digits = sum(character.isdigit() for character in text)
    letters = sum(3 if DENSE.match(character) else 1 for character in text if character.isalpha())
    numbers = len(_NUMBER.findall(text))
    named = sum(not any(map(str.isdigit, word)) for word in words(text))
    return "mostly numbers" if numbers >= max(NUMBERS, named) and digits >= DIGITS * (digits + letters) else ""


def loops(candidate: Candidate) -> str:
    """Words that come again and again: a phrase twice in a row, a word twice in a row, or half of all words."""
    tokens = words(candidate.text)
    for length in range(2, len(tokens) // 2 + 1):
        for start in range(len(tokens) - 2 * length + 1):
            first = tokens[start : start + length]
            if first == tokens[start + length : start + 2 * length] and size(first) >= 2:
                return "malformed: repeats itself"
    language = detect(candidate.passage)
    unmeaning = _stop_words(language)
    doubled = _DOUBLED.search(candidate.text.casefold()) if language in _NEVER_DOUBLED else None
    if doubled and doubled[1] not in unmeaning:
        return "malformed: repeats itself"
    meaning = [word for word in words_or_pairs(candidate.text) if word not in unmeaning and not word.isdigit()]
    again = len(meaning) - len(set(meaning))
    return "malformed: repeats itself" if len(meaning) >= 4 and again >= SAID_BEFORE * len(meaning) else ""


def _stop_words(language: str) -> frozenset[str]:
    return frozenset(stop_words(language)) if language else frozenset()


def a_fragment(candidate: Candidate) -> str:
    """The second half of a sentence, without its subject."""
    return "a fragment" if _FRAGMENT.match(candidate.text) and not _asks(candidate.text) else ""


def copied_whole(candidate: Candidate) -> str:
    """Words that stand in the passage just so, such as a heading. A question that does so is still one."""
    query = words(candidate.text)
    if size(query) < COPIED_WHOLE or _asks(candidate.text):
        return ""
    return "copies a whole phrase" if _inside(query, words(f"{candidate.title}\n{candidate.passage}")) else ""


def invented_figures(candidate: Candidate) -> str:
    """A year, percentage or other number of which the passage knows nothing.

    A passage that holds other years may be asked for this one, as a table is.
    """
    text, passage = _plain_digits(candidate.text), _plain_digits(f"{candidate.title}\n{candidate.passage}")
    if _FIGURE.search(text) and not _NUMBER.search(passage):
        return "names a number that its passage does not"
    if any(year not in passage for year in _YEAR.findall(text)):
        if not _YEAR.search(passage) and not _TWO_DIGITS.search(passage):
            return "names a year that its passage does not"
    if any(not _holds(passage, number) for number in _PERCENTAGE.findall(text)):
        return "names a percentage that its passage does not"
    return ""


def _plain_digits(text: str) -> str:
    """A text with 0 to 9 in place of other scripts' digits."""
    return text if text.isascii() else re.sub(r"[^\D0-9]", lambda match: str(int(match[0])), text)


def _holds(passage: str, number: str) -> bool:
    return any(form in passage for form in (number, number.replace(",", "."), number.replace(".", ",")))


def from_an_example(examples: Collection[str], names: Collection[str]) -> Rule:
    """A rule that drops what is about an example of the prompt instead of about the passage.

    examples: the prompt's queries. names: folded words that the prompt's passages have and others seldom do.
    """
    known = [words(example) for example in examples]
    telling = frozenset(names)

    def rule(candidate: Candidate) -> str:
        query = words(candidate.text)
        passage = word_set(f"{candidate.title}\n{candidate.passage}")
        if telling.intersection(query) - passage:
            return "is about an example of the prompt"
        for example in known:
            run = longest_shared_run(query, example)
            if size(run) >= SHARED_WITH_EXAMPLE and not set(run) <= passage:
                return "repeats an example of the prompt"
        return ""

    return rule


#: The rules that need nothing but a query and its passage, in the order in which they are applied.
RULES: tuple[Rule, ...] = (a_list, a_row_of_numbers, loops, a_fragment, copied_whole, invented_figures)
