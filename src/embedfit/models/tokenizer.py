"""The tokenizer of a model folder, exactly as sentence-transformers sets it up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tokenizers import Tokenizer, normalizers

from embedfit.errors import ModelError, first_line
from embedfit.files.atomic import atomic_file
from embedfit.files.textfiles import without_surrogates
from embedfit.models.architecture import Architecture, StaticEmbedding
from embedfit.models.layout.files import shapes
from embedfit.models.layout.reading import read_architecture

Side = Literal["left", "right"]
#: The names of the token embeddings in the families' weights, without their prefixes.
_TABLES = (
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_tokens.weight",
    "shared.weight",
    "embedding.weight",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTokenizer:
    """A tokenizer without truncation and padding, with the settings by which texts are cut.

    special: ids of special tokens. side: the end at which a text that is too long is cut.
    """

    tokenizer: Tokenizer
    special: frozenset[int]
    side: Side

    def token_ids(self, texts: list[str], limit: int) -> list[list[int]]:
        """Token ids with special tokens, cut to the limit."""
        tokenizer = self.tokenizer
        tokenizer.enable_truncation(limit, direction=self.side)
        try:
            return [
                encoding.ids for encoding in tokenizer.encode_batch_fast([without_surrogates(text) for text in texts])
            ]
        finally:
            tokenizer.no_truncation()

    def prompt_length(self, prompt: str, limit: int) -> int:
        """How many tokens of a text's beginning are the prompt's, counted as sentence-transformers counts them.

        That is the length of the prompt alone, with special tokens but without a special one at its end.
        """
        if not prompt:
            return 0
        (ids,) = self.token_ids([prompt], limit)
        return len(ids) - (1 if ids and ids[-1] in self.special else 0)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a model folder, without truncation or padding."""
    return open_tokenizer(folder, read_architecture(folder)).tokenizer


def open_tokenizer(folder: Path, architecture: Architecture) -> TextTokenizer:
    """The tokenizer that sentence-transformers uses for a folder: transformers' own, or the file of a static model.

    Raises ModelError for one that can't be read, or that makes ids for which the model has no vector.
    """
    first = architecture.first
    where = folder / first.path
    if isinstance(first, StaticEmbedding):
        found = TextTokenizer(tokenizer=_from_file(where / "tokenizer.json"), special=frozenset(), side="right")
        found.tokenizer.post_processor = None  # static embeddings add no special tokens
    else:
        found = _from_transformers(where, lower_case=first.lower_case)
    found.tokenizer.no_truncation()
    found.tokenizer.no_padding()
    _check_table(where, found.tokenizer)
    return found


def cached_tokenizer(folder: Path, architecture: Architecture, cache: Path) -> TextTokenizer:
    """open_tokenizer() without loading transformers: another process makes the tokenizer once and keeps it in a file.

    cache: the file, whose name stands for the folder's content.
    """
    if "transformers" in sys.modules:
        return open_tokenizer(folder, architecture)
    if not cache.exists():
        command = [sys.executable, "-m", "embedfit.models.tokenizer", str(folder.resolve()), str(cache)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not cache.exists():
            lines = (done.stderr.strip() or "no message").splitlines()
            raise ModelError(f"The tokenizer of {folder} could not be read: {lines[-1]}")
    stored = json.loads(cache.read_text("utf-8"))
    tokenizer = Tokenizer.from_str(stored["tokenizer"])
    return TextTokenizer(tokenizer=tokenizer, special=frozenset(stored["special"]), side=stored["side"])


def _from_file(path: Path) -> Tokenizer:
    if not path.exists():
        raise ModelError(f"{path.parent} is not a whole model folder: {path.name} is missing.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{path} can't be read: {error}") from error


def plain_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder that is no embedding model, such as a cross-encoder's."""
    tokenizer = _from_transformers(folder, lower_case=False).tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_transformers(folder: Path, *, lower_case: bool) -> TextTokenizer:
    from transformers import AutoTokenizer  # slow to import

    if (folder / "tokenizer.json").exists():
        _from_file(folder / "tokenizer.json")  # its own error names the file
    try:
        loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer: Tokenizer = loaded.backend_tokenizer
    except Exception as error:  # the kind depends on the file and on its fault
        raise ModelError(f"{folder} has no tokenizer that can be read: {first_line(error)}") from error
    if lower_case and not _lowers(tokenizer.normalizer):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *_parts(tokenizer.normalizer)])
    if "token_type_ids" in loaded.model_input_names and any(tokenizer.encode("a").type_ids):
        raise ModelError(f"The tokenizer of {folder} gives texts another token type than 0, which embedfit does not.")
    side: Side = "left" if loaded.truncation_side == "left" else "right"
    return TextTokenizer(tokenizer=tokenizer, special=frozenset(loaded.all_special_ids), side=side)


def _lowers(normalizer: object) -> bool:
    """Whether sentence-transformers takes a tokenizer for lower-casing. It never does for BERT's own."""
    return any(isinstance(part, normalizers.Lowercase) for part in _parts(normalizer))


def _parts(normalizer: object) -> list[normalizers.Normalizer]:
    # The type stubs do not say that a sequence can be listed.
    found = list(cast("Iterable[object]", normalizer)) if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    return [part for part in found if isinstance(part, normalizers.Normalizer)]


def _check_table(folder: Path, tokenizer: Tokenizer) -> None:
    """Every id that the tokenizer makes must have a row in the table of token embeddings."""
    rows = [shape[0] for name, shape in shapes(folder).items() if name.endswith(_TABLES) and len(shape) == 2]
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if rows and largest >= max(rows):
        raise ModelError(
            f"{folder}: the tokenizer has ids up to {largest}, but the model has vectors for {max(rows)} tokens.",
            remedy="The tokenizer belongs to another model, or tokens were added without resizing the model.",
        )


def _main(folder: str, target: str) -> None:
    found = open_tokenizer(Path(folder), read_architecture(Path(folder)))
    stored = {"tokenizer": found.tokenizer.to_str(), "special": sorted(found.special), "side": found.side}
    with atomic_file(Path(target)) as file:
        json.dump(stored, file)


if __name__ == "__main__":
    _main(*sys.argv[1:])
