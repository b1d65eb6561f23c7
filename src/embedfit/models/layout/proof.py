"""The proof that our vectors of a model folder equal sentence-transformers', or the first module that differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue
from typing_extensions import TypedDict

from embedfit.errors import ModelError, first_line
from embedfit.models.architecture import DOCUMENT, PASSAGE_PROMPTS, QUERY, Architecture, StaticEmbedding
from embedfit.models.encoder import Encoder
from embedfit.models.layout.golden import NAME as GOLDEN
from embedfit.models.layout.golden import GoldenCheck, check_golden
from embedfit.models.layout.modules import Head
from embedfit.models.layout.prompts import open_model, prescribed
from embedfit.models.layout.reading import read_architecture

#: The value of the command line's option that names the comparison.
SENTENCE_TRANSFORMERS = "sentence-transformers"
#: Short and long, over most windows, of several scripts, with characters that tokenizers treat in their own ways.
TEXTS = (
    "How do I mute the TV?",
    "The warranty covers parts and labour for two years from the date of purchase, as shown on the receipt.",
    "a",
    "MÜNCHEN, Straße 5; naïve café – 東京タワー 안녕하세요 🙂",
    "tab\tand  spaces\u00a0and\u2028lines\nend ",
    "The sound is off, and the remote control does not answer. " * 400,
)
#: Largest allowed difference of any number, for vectors of length 1. For longer vectors it grows with the length.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorComparison:
    """Our vectors beside sentence-transformers'.

    difference: the largest of any number, divided by the longest vector's length if that is over 1. least_cosine: the
    least cosine of a text's two vectors. differs: the first step that differs ("token ids", "Pooling"), empty if none
    does.
    """

    texts: int
    difference: float
    least_cosine: float
    differs: str

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differs

    def sentence(self) -> str:
        """The result as a sentence for people."""
        numbers = f"largest difference {self.difference:.1e}, least cosine {self.least_cosine:.7f}, {self.texts} texts"
        if self.same:
            return f"The vectors are sentence-transformers' ({numbers})."
        return f"The vectors DIFFER from sentence-transformers' ({numbers}). First to differ: {self.differs}."


class ExaminationResult(TypedDict):
    """What `embedfit doctor MODEL --json` prints.

    comparison: with sentence-transformers; golden: with the vectors in the folder. prompts_from: whose the prompts are.
    """

    folder: str
    modules: list[str]
    dimensions: int
    max_tokens: int
    query_prompt: str
    passage_prompt: str
    prompts_from: str
    similarity: str
    comparison: dict[str, JsonValue] | None
    golden: dict[str, JsonValue] | None


def _with_same(found: VectorComparison | GoldenCheck | None) -> dict[str, JsonValue] | None:
    return None if found is None else {**asdict(found), "same": found.same}


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """A model's architecture, its prompts, and the comparisons of its vectors that were made.

    golden: with the vectors that lie in its folder.
    """

    folder: Path
    layout: Architecture
    source: str
    comparison: VectorComparison | None = None
    golden: GoldenCheck | None = None

    @property
    def same(self) -> bool:
        """Whether no comparison found a difference."""
        return all(one is None or one.same for one in (self.comparison, self.golden))

    def as_dict(self) -> ExaminationResult:
        """The result as JSON values, for --json."""
        return {
            "folder": str(self.folder),
            "modules": self.layout.describe(),
            "dimensions": self.layout.width,
            "max_tokens": self.layout.max_tokens,
            "query_prompt": self.layout.query_instruction,
            "passage_prompt": self.layout.document_instruction,
            "prompts_from": self.source,
            "similarity": self.layout.similarity,
            "comparison": _with_same(self.comparison),
            "golden": _with_same(self.golden),
        }

    def lines(self) -> list[str]:
        """The result as lines for people."""
        layout = self.layout
        found = [
            f"{self.folder}",
            *(f"  {number}. {line}" for number, line in enumerate(layout.describe(), 1)),
            f"  vectors: {layout.width} numbers, {'length 1' if layout.normalize else 'of any length'}",
            f"  before queries:  {layout.query_instruction!r}",
            f"  before passages: {layout.document_instruction!r}",
            f"  prompts are {self.source}",
        ]
        others = sorted(set(layout.prompts) - {"query", *PASSAGE_PROMPTS})
        if others and not layout.query_instruction:
            names = ", ".join(map(repr, others))
            found.append(f"  The folder also holds the prompts {names}, which nothing asks for: to put one before")
            found.append("  queries, give its text as --set query_instruction=TEXT.")
        if layout.similarity != "cosine":
            found.append(f"  The folder names the similarity {layout.similarity!r}; embedfit ranks by cosine.")
        if self.golden is not None:
            found.append(f"  {self.golden.sentence()}")
        if self.comparison is not None:
            found.append(f"  {self.comparison.sentence()}")
        return found


def examine(model: str, *, compare: bool) -> Examination:
    """Open a model by alias, hub id or path, and compare it, in fp32, with the golden vectors in its folder.

    compare: with sentence-transformers too.
    """
    folder, layout = open_model(model)
    own = read_architecture(folder)
    found = prescribed(model, folder)
    if own.prompts and own.prompts == layout.prompts:
        source = "the folder's own"
    elif found is None:
        source = "none: the folder holds none, and none that its authors prescribe is known"
    elif found.query or found.passage:
        source = f"those that the authors prescribe ({found.source})"
    else:
        source = f"none, as the authors say ({found.source})"
    comparison, golden = None, None
    if compare or (folder / GOLDEN).exists():
        encoder = Encoder.load(folder, precision="fp32", layout=layout)
        golden = check_golden(folder, layout, lambda texts, is_query: encoder.encode(texts, is_query=is_query))
        comparison = compare_with_sentence_transformers(encoder) if compare else None
    return Examination(folder=folder, layout=layout, source=source, comparison=comparison, golden=golden)


def compare_with_sentence_transformers(encoder: Encoder, texts: Sequence[str] = TEXTS) -> VectorComparison:
    """Encode texts as queries and as passages, with our encoder and with sentence-transformers under the same prompts.

    encoder: in fp32. Raises ModelError if sentence-transformers can't open the folder.
    """
    theirs = _open(encoder.folder)
    worst, least, differs = 0.0, 1.0, ""
    for is_query in (True, False):
        prompt, tower = encoder.instruction(is_query), encoder.tower(is_query=is_query)
        beside = theirs if encoder.layout.queries is None else _route(theirs, QUERY if is_query else DOCUMENT)
        own = encoder.encode(texts, is_query=is_query)
        other = np.asarray(beside.encode(list(texts), prompt=prompt, show_progress_bar=False), np.float32)
        if own.shape != other.shape:
            return VectorComparison(
                texts=len(texts), difference=np.inf, least_cosine=0.0, differs="the number of dimensions"
            )
        lengths = np.linalg.norm(own, axis=1), np.linalg.norm(other, axis=1)
        worst = max(worst, float(np.abs(own - other).max()) / max(1.0, float(lengths[1].max())))
        least = min(least, float(((own * other).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)).min()))
        if not worst <= TOLERANCE and not differs:
            differs = _first_difference(tower, beside, texts, prompt, is_query=is_query)
    return VectorComparison(texts=2 * len(texts), difference=worst, least_cosine=least, differs=differs)


def _open(folder: Path) -> Any:  # noqa: ANN401 - sentence-transformers has no annotations that hold here
    from sentence_transformers import SentenceTransformer  # slow to import

    try:
        model = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
        )
    except Exception as error:  # its errors have no common base class
        raise ModelError(f"sentence-transformers can't open {folder}: {first_line(error)}") from error
    return model


def _route(router: Any, role: str) -> Any:  # noqa: ANN401
    """The tower that sentence-transformers takes for texts of a role, as a model of its own."""
    from sentence_transformers import SentenceTransformer

    first, *rest = router.children()
    modules = [*first.sub_modules[first._resolve_route(task=role)], *rest]
    return SentenceTransformer(modules=modules, device="cpu", truncate_dim=router.truncate_dim)


@torch.inference_mode()
def _first_difference(encoder: Encoder, theirs: Any, texts: Sequence[str], prompt: str, *, is_query: bool) -> str:  # noqa: ANN401
    """The first module whose output differs, text by text, so that no padding plays a part."""
    layout = encoder.layout
    for text in texts:
        features = theirs.preprocess([text], prompt=prompt)
        (ids,) = encoder.token_ids([text], is_query=is_query)
        if features["input_ids"].flatten().tolist() != ids:
            return f"token ids (tokenizer, lower-casing, window or prompt) of {text[:40]!r}"
        states = encoder.run([ids])
        hidden, mask = states.last.float().cpu(), states.mask.cpu()
        steps = [name for name, _ in theirs.named_children()]
        for number, name in enumerate(steps):
            features = theirs[number](features)
            module = layout.modules[number] if number < len(layout.modules) else None
            expected = features.get("token_embeddings") if number == 0 else features.get("sentence_embedding")
            found = hidden if number == 0 else _until(encoder, number, hidden, mask, prompt)
            if number == 0 and isinstance(layout.first, StaticEmbedding):
                continue
            if expected is None or not _close(found.numpy(), expected.numpy()):
                return f"module {name}: {type(module).__name__} of {text[:40]!r}"
    return "the last step, after all modules"


def _until(encoder: Encoder, number: int, hidden: torch.Tensor, mask: torch.Tensor, prompt: str) -> torch.Tensor:
    """Our vectors after the module of that number."""
    layout = encoder.layout
    part = Architecture(modules=layout.modules[: number + 1], prompts=layout.prompts)
    skip = 0 if layout.pooling.include_prompt else encoder.text_tokenizer.prompt_length(prompt, layout.max_tokens)
    return Head.load(encoder.folder, part).vectors(hidden, mask, torch.tensor([skip]) if skip else None)


def _close(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> bool:
    if found.shape != expected.shape:
        return False
    scale = max(1.0, float(np.abs(expected).max()))
    return bool(np.abs(found - expected).max() <= TOLERANCE * scale)
