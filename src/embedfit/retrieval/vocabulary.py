"""Whether a model's vocabulary knows the language of a corpus.

A vocabulary that was learned on a language keeps its common words whole; another one cuts them into letters, or has no
token for them. That is a sign, not a proof: a model may know words that it learned little about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from tokenizers import Tokenizer

from embedfit.retrieval.languages import languages_of, name_of, script_of
from embedfit.retrieval.words import normalised

#: A larger share of unknown tokens, or a smaller share of common words that stay whole, is a warning.
MOST_UNKNOWN, FEWEST_WHOLE = 0.03, 0.5
#: The most passages that are read, their characters, and the number of common words that are looked at.
_PASSAGES, _HEAD, _WORDS = 400, 600, 150
#: Fewer common words than this show nothing.
_ENOUGH = 20
#: Scripts that put no spaces between words.
_UNSPACED = ("Chinese", "Japanese", "Thai", "Lao", "Khmer", "Burmese", "Tibetan")
#: An alias of a model that knows about a hundred languages.
MULTILINGUAL = "e5-multilingual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """How a vocabulary keeps a corpus. language: its commonest one, "" if none is certain.

    unknown: the share of tokens that stand for what the vocabulary lacks. whole: the share of the common words that are
    one token; None if words are few or not spaced.
    """

    language: str
    unknown: float
    whole: float | None

    @property
    def is_known(self) -> bool:
        """Whether the vocabulary seems to know the language."""
        return self.unknown <= MOST_UNKNOWN and (self.whole is None or self.whole >= FEWEST_WHOLE)

    def warning(self, model: str) -> str:
        """A sentence for people, "" if the vocabulary knows the language. model: its name."""
        if self.is_known:
            return ""
        what = f"{name_of(self.language)}, the documents' language" if self.language else "the documents' language"
        if self.unknown > MOST_UNKNOWN:
            why = f"{self.unknown:.0%} of their text are tokens that it lacks"
        else:
            why = f"it keeps only {self.whole:.0%} of their {_WORDS} commonest words whole"
        other = (
            "" if model == MULTILINGUAL else f" A model that knows about a hundred languages: --model {MULTILINGUAL}"
        )
        return f"The model {model} does not seem to know {what}: {why}.{other}"


def known(tokenizer: Tokenizer, contents: Sequence[str]) -> Known:
    """How a vocabulary keeps a sample of a corpus. tokenizer: without truncation."""
    step = max(1, -(-len(contents) // _PASSAGES))
    heads = [text[:_HEAD] for text in islice(contents, 0, None, step)]
    language = next(iter(languages_of(heads)), "")
    spaced = script_of(language) not in _UNSPACED
    return Known(
        language=language, unknown=_unknown(tokenizer, heads), whole=_whole(tokenizer, heads) if spaced else None
    )


def _unknown(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """The share of tokens of letters that are the vocabulary's mark of an unknown text."""
    marks = _marks(tokenizer)
    counts: Counter[bool] = Counter()
    for text, encoding in zip(texts, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        counts.update(token in marks for token, (start, stop) in pairs if any(map(str.isalpha, text[start:stop])))
    return counts[True] / max(1, counts.total())


def _marks(tokenizer: Tokenizer) -> set[int]:
    return {mark for name in ("[UNK]", "<unk>", "<|unk|>") if (mark := tokenizer.token_to_id(name)) is not None}


def _whole(tokenizer: Tokenizer, texts: Sequence[str]) -> float | None:
    """The share of the commonest words of two letters or more that are one token within a text."""
    words = Counter(
        word
        for text in texts
        for one in normalised(text).split()
        if len(word := one.strip(".,;:!?()[]\"'«»„“”‘’—–-/")) > 1 and word.isalpha()
    )
    common = [word for word, count in words.most_common(_WORDS) if count > 1]
    if len(common) < _ENOUGH:
        return None
    # Behind another word, because many vocabularies mark the space before a word.
    first, marks = len(tokenizer.encode("a", add_special_tokens=False).ids), _marks(tokenizer)
    found = tokenizer.encode_batch([f"a {word}" for word in common], add_special_tokens=False)
    return sum(len(one.ids) - first <= 1 and not marks.intersection(one.ids) for one in found) / len(common)
