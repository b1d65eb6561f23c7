"""The architecture of a model: an ordered list of modules, as data.

layout.reading reads it from a model folder. Encoder, training, engines, exports, cards and deployments ask it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

from embedfit.errors import ModelError
from embedfit.models.layout.families import FAMILIES, Attention, Family

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
#: Every pooling, in the order in which the flags of old folders are concatenated.
POOLING_MODES: tuple[PoolingMode, ...] = get_args(PoolingMode)
#: Names of prompts by role: sentence-transformers takes the first one that a model has for passages.
PASSAGE_PROMPTS = ("document", "passage", "corpus")
#: The routes of a model of two towers, as encode_query and encode_document take them, and the towers' folders.
QUERY: Literal["query"] = "query"
DOCUMENT: Literal["document"] = "document"
#: Activations of a Dense module by the last part of the class's path; both forms of each are in modules.py.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "Sigmoid", "SiLU", "GELU")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """The transformer that transformers' AutoModel builds. max_tokens: of a text, special tokens included."""

    path: str = ""
    model_type: str
    hidden_size: int
    max_tokens: int
    lower_case: bool = False
    attention: Attention = "bidirectional"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticEmbedding:
    """A vector for each token of the vocabulary; a text's vector is their mean. No special tokens are added."""

    path: str = ""
    hidden_size: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """Token states to one vector; several modes are concatenated. include_prompt: whether the prompt's are pooled."""

    modes: tuple[PoolingMode, ...]
    include_prompt: bool = True

    @property
    def name(self) -> str:
        """The pooling's name, such as "cls" or "cls+mean"."""
        return "+".join(self.modes)

    @property
    def label(self) -> str:
        """The pooling's name for people: "CLS", "mean", "last-token"."""
        names = {"cls": "CLS", "lasttoken": "last-token", "weightedmean": "weighted mean"}
        return " and ".join(names.get(mode, mode) for mode in self.modes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A linear layer with an activation. residual: the input is added to its output."""

    path: str
    inputs: int
    outputs: int
    bias: bool
    activation: str
    residual: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize:
    """Vectors divided by their length."""


Module = Transformer | StaticEmbedding | Pooling | Dense | Normalize


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The modules of a model folder in order, and its settings for texts and vectors.

    prompts: by name, empty ones left out. default_prompt: the name of the one that sentence-transformers' encode()
    puts before texts. similarity: the folder's own ("cosine", "dot", …). dimensions: the length that
    vectors are cut to at the end; None: they are not cut. queries: the tower that encodes queries, in a model of two
    towers; the modules are then those of passages. None: one tower encodes both.
    """

    modules: tuple[Module, ...]
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    dimensions: int | None = None
    queries: Architecture | None = None

    @classmethod
    def plain(
        cls,
        *,
        pooling: PoolingMode,
        max_tokens: int,
        hidden_size: int,
        model_type: str = "bert",
        normalize: bool = True,
        prompts: Mapping[str, str] | None = None,
    ) -> Architecture:
        """A transformer, a pooling and, with normalize, a norm, as BGE, MiniLM and E5 have them."""
        first = Transformer(model_type=model_type, hidden_size=hidden_size, max_tokens=max_tokens)
        last = (Normalize(),) if normalize else ()
        return cls(modules=(first, Pooling(modes=(pooling,)), *last), prompts=dict(prompts or {}))

    def tower(self, *, is_query: bool) -> Architecture:
        """The tower that encodes queries or passages, as an architecture of one tower."""
        if self.queries is None:
            return self
        return self.queries if is_query else replace(self, queries=None)

    @property
    def has_map(self) -> bool:
        """Whether queries go through the modules of passages and then through more: a map is all that differs."""
        return self.queries is not None and self.queries.modules[: len(self.modules)] == self.modules

    @property
    def first(self) -> Transformer | StaticEmbedding:
        """The module that turns tokens into states."""
        first = self.modules[0]
        if not isinstance(first, Transformer | StaticEmbedding):
            raise ModelError("This is a bug: the first module reads no tokens.")
        return first

    @property
    def pooling(self) -> Pooling:
        """The pooling of token states to one vector; a StaticEmbedding has the mean."""
        return next((module for module in self.modules if isinstance(module, Pooling)), Pooling(modes=("mean",)))

    @property
    def after_pooling(self) -> tuple[Dense | Normalize, ...]:
        """The modules that change the pooled vector."""
        return tuple(module for module in self.modules if isinstance(module, Dense | Normalize))

    @property
    def normalize(self) -> bool:
        """Whether the folder's vectors have length 1."""
        return any(isinstance(module, Normalize) for module in self.modules) and self.dimensions is None

    @property
    def hidden_size(self) -> int:
        """Numbers of a token's state."""
        return self.first.hidden_size

    @property
    def width(self) -> int:
        """Numbers of a text's vector."""
        width = self.hidden_size * len(self.pooling.modes)
        for module in self.modules:
            width = module.outputs if isinstance(module, Dense) else width
        return min(width, self.dimensions or width)

    @property
    def max_tokens(self) -> int:
        """The longest text that is read, in tokens, special ones included."""
        return self.first.max_tokens

    @property
    def model_type(self) -> str:
        """The model's type in transformers, or "static"."""
        return self.first.model_type if isinstance(self.first, Transformer) else "static"

    @property
    def family(self) -> Family:
        """The row of the table of families for models of this type."""
        return FAMILIES[self.model_type]

    @property
    def query_instruction(self) -> str:
        """The text put before every query; empty where the model has none."""
        return self.tower(is_query=True).prompts.get("query", "")

    @property
    def document_instruction(self) -> str:
        """The text put before every passage, such as E5's "passage: "; empty for BGE, MiniLM and most others."""
        return document_instruction(self.prompts) or self.default_instruction

    @property
    def default_instruction(self) -> str:
        """The text that sentence-transformers' encode() puts before texts whose role nobody named."""
        return self.prompts.get(self.default_prompt, "") if self.default_prompt else ""

    def with_prompts(self, **prompts: str | None) -> Architecture:
        """A copy with other prompts by name; None leaves one as it is."""
        given = {name: text for name, text in prompts.items() if text is not None}
        queries = None if self.queries is None else self.queries.with_prompts(**given)
        return replace(self, prompts={**self.prompts, **given}, queries=queries)

    def records(self) -> list[list[object]]:
        """The modules as JSON values: the type's name and the fields. Paths are those in the tower's own folder."""
        found: list[list[object]] = []
        for module in self.modules:
            fields = asdict(module)
            if "path" in fields:
                fields["path"] = in_tower(fields["path"])
            found.append([type(module).__name__, fields])
        return found

    def describe(self) -> list[str]:
        """One line a module, for people. Those of two towers say which texts they are for."""
        if self.queries is not None:
            roles = (("passages", self.tower(is_query=False)), ("queries", self.queries))
            return [f"{role}: {line}" for role, tower in roles for line in tower.describe()]
        lines = [_described(module) for module in self.modules]
        return [*lines, f"cut to {self.dimensions} numbers"] if self.dimensions else lines


def document_instruction(prompts: Mapping[str, str]) -> str:
    """The prompt for passages, under any name that sentence-transformers' encode_document knows.

    encode_document treats an unset "document" as found, and so skips E5's "passage", with which its authors trained.
    This function finds it.
    """
    return next((prompts[name] for name in PASSAGE_PROMPTS if prompts.get(name)), "")


def in_tower(name: str) -> str:
    """The path of a file or module of two towers, in the folder of its own tower; any other path as it is."""
    first, _, rest = name.partition("/")
    return rest if first in (QUERY, DOCUMENT) else name


def _described(module: Module) -> str:
    named = asdict(module)
    path = named.pop("path", "")
    values = ", ".join(f"{name} {'+'.join(v) if isinstance(v, tuple) else v}" for name, v in named.items())
    return f"{type(module).__name__}{f' in {path}/' if path else ''}{f': {values}' if values else ''}"
