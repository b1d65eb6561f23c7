"""A check that the base model's vocabulary knows the documents' language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer

from embedfit.retrieval.languages import languages_of, name_of
from embedfit.retrieval.words import DENSE

#: The largest share of tokens that stand for signs outside the vocabulary.
MAX_UNKNOWN = 0.05
#: Tokens a letter or mark, of the letters and marks alone: the signs between them (quotes, operators of code) are a
#: token each in every language. Latin: .2 to .3 where a model knows the language, .4 in German by an English one
#: (minilm). Other scripts with spaces: about .3, and .6 to 1. Dense scripts: up to 1, and the two or three bytes of a
#: letter.
MAX_LATIN, MAX_OTHER, MAX_DENSE = 0.36, 0.5, 1.3
_SAMPLE, _HEAD = 200, 600
#: With fewer letters than this the check says nothing.
_MIN_LETTERS = 500
_UNKNOWN = ("[UNK]", "<unk>")
_LIMITS = {"latin": MAX_LATIN, "other": MAX_OTHER, "dense": MAX_DENSE}
MULTILINGUAL = ("BAAI/bge-m3", "intfloat/multilingual-e5-small")


def _kind(char: str) -> str:
    """The kind of script of a letter or mark, "" for other characters."""
    if not char.isalpha() and not unicodedata.category(char).startswith("M"):
        return ""
    if char < "\u0370" or "\u1e00" <= char < "\u1f00":
        return "latin"
    return "dense" if DENSE.match(char) else "other"


def unknown_language(texts: Sequence[str], tokenizer: Tokenizer, model: str) -> str:
    """A note for people if the model's tokenizer breaks a sample of the texts into scraps, else "".

    tokenizer: without truncation and padding. model: its name, as the user gave it.
    """
    step = max(1, -(-len(texts) // _SAMPLE))
    sample = ["".join(char if _kind(char) else " " for char in text[:_HEAD]) for text in texts[::step]]
    counts = Counter(_kind(char) for text in sample for char in text)
    letters = counts.total() - counts[""]
    if letters < _MIN_LETTERS:
        return ""
    ids = [one for encoding in tokenizer.encode_batch(sample, add_special_tokens=False) for one in encoding.ids]
    unknown = {tokenizer.token_to_id(token) for token in _UNKNOWN} - {None}
    share = sum(one in unknown for one in ids) / max(len(ids), 1)
    limit = sum(limit * counts[kind] for kind, limit in _LIMITS.items()) / letters
    dense = 2 * counts["dense"] > letters
    if share > MAX_UNKNOWN:
        how = f"{share:.0%} of the tokens that it makes of them are “unknown”"
    elif len(ids) > limit * letters:
        how = (
            f"it takes {len(ids) / letters:.1f} tokens a letter"
            if dense
            else (f"one of its tokens holds {letters / len(ids):.1f} of their letters, where 4 to 5 are usual")
        )
    else:
        return ""
    names = " and ".join(name_of(code) for code in languages_of(sample)) or "their language"
    return (
        f"Note: {model} does not know the language of these documents ({names}): {how}. Take one that does, such as "
        f"{' or '.join(f'--model {name}' for name in MULTILINGUAL)}."
    )
