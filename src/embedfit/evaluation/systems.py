"""The names of systems, and the embedder behind each.

    minilm, bge-base, owner/name, a folder     a model on this machine, with its own query instruction
    bm25                                       no embedder at all
    hybrid:SYSTEM                              a system's ranking fused with BM25's
    titan-v2, titan-v2:256                     Amazon Titan Text Embeddings V2 through Bedrock, 1024 or 512 or 256 wide
    openai:URL#MODEL                           any OpenAI-compatible embeddings endpoint (key in OPENAI_API_KEY)
    tei:URL                                    Text Embeddings Inference, or `embedfit serve` (key in EMBEDFIT_API_KEY)
    sagemaker:NAME@REGION                      a SageMaker endpoint that runs either of them

A name may end in |INSTRUCTION to put that text before every query, such as "bge-base|query: ".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedfit.config import Config
from embedfit.errors import UsageError
from embedfit.evaluation.remote import OpenAiEndpoint, SageMakerEndpoint, TeiEndpoint
from embedfit.evaluation.titan import WIDTHS, Titan
from embedfit.evaluation.vectors import Embedder, Storage
from embedfit.models.encoder import Encoder, base_instruction
from embedfit.models.hardware import best_precision
from embedfit.models.layout import Layout, read_layout
from embedfit.models.sources import resolve_model
from embedfit.runtime import Runtime
from embedfit.workspace import sha256_file, sha256_json

Vectors = npt.NDArray[np.float32]

#: Changing how vectors are computed means changing this: stored ones are then not found.
_VERSION = 1
_KEY_FILES = ("model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")


class LocalModel:
    """A model folder. Loaded when a vector is really missing, released when asked to."""

    storage: Storage = "key"

    def __init__(self, name: str, folder: Path, *, query_instruction: str | None = None) -> None:
        self.name = name
        self.folder = folder
        self.layout = with_instruction(read_layout(folder), query_instruction)
        self._encoder: Encoder | None = None
        self._key: str | None = None

    @property
    def key(self) -> str:
        """Hash of weights, tokenizer, layout and precision."""
        if self._key is None:
            files = {name: sha256_file(self.folder / name) for name in _KEY_FILES if (self.folder / name).exists()}
            layout = {name: value for name, value in asdict(self.layout).items() if name != "prompts"}
            if self.layout.document_instruction:
                layout["document"] = self.layout.document_instruction
            self._key = sha256_json(
                {"version": _VERSION, "files": files, "layout": layout, "precision": best_precision()}
            )
        return self._key

    @property
    def instruction(self) -> str:
        """The layout's query instruction."""
        return self.layout.query_instruction

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, H)."""
        if self._encoder is None:
            self._encoder = Encoder.load(self.folder, query_instruction=self.instruction)
        return self._encoder.encode(texts, is_query=is_query)

    def release(self) -> None:
        """Drop the weights."""
        self._encoder = None


def with_instruction(layout: Layout, instruction: str | None) -> Layout:
    """The layout with another query instruction; None leaves it as it is."""
    if instruction is None:
        return layout
    return replace(layout, prompts={**layout.prompts, "query": instruction})


def local_model(label: str, name: str, *, query_instruction: str | None = None) -> LocalModel:
    """A model by alias, hub id or path. query_instruction: default its right one."""
    folder = resolve_model(name)
    instruction = base_instruction(name, folder) if query_instruction is None else query_instruction
    return LocalModel(label, folder, query_instruction=instruction)


def base_model(config: Config) -> LocalModel:
    """The base of a run with its right query instruction, whatever the tuned model was trained with."""
    folder = resolve_model(config.model)
    instruction = base_instruction(config.model, folder, otherwise=config.query_instruction)
    return LocalModel("base", folder, query_instruction=instruction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A system's name, taken apart. kind: "bm25", "local", "titan", "openai", "tei" or "sagemaker"."""

    kind: str
    target: str = ""
    detail: str = ""
    instruction: str | None = None
    hybrid: bool = False

    @property
    def dense(self) -> Spec:
        """The system without the fusion."""
        return replace(self, hybrid=False)


_SAGEMAKER = re.compile(r"^(?P<name>[A-Za-z0-9](?:-?[A-Za-z0-9]){0,62})(?:@(?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?$")


def parse(name: str) -> Spec:
    """Take a system's name apart. Raises UsageError that says what the form is."""
    text, separator, instruction = name.partition("|")
    prompt = instruction if separator else None
    if text.startswith("hybrid:"):
        spec = parse(text.removeprefix("hybrid:"))
        if spec.kind == "bm25" or spec.hybrid:
            raise UsageError(f"{name!r}: a hybrid is of a dense system and BM25.", remedy="For example: hybrid:minilm")
        return replace(spec, hybrid=True, instruction=prompt)
    kind, _, target = text.partition(":")
    if text == "bm25":
        return Spec(kind="bm25")
    if kind == "titan-v2":
        if target and target not in map(str, WIDTHS):
            raise UsageError(f"{name!r}: Titan V2 is {', '.join(map(str, WIDTHS))} wide.", remedy="Use: titan-v2:512")
        return Spec(kind="titan", target=target or "1024", instruction=prompt)
    if kind in ("openai", "tei"):
        url, _, model = target.partition("#")
        if not re.match(r"https?://[^/]", url) or (kind == "openai" and not model):
            form = "openai:http://localhost:8080/v1#MODEL" if kind == "openai" else "tei:http://localhost:8080"
            raise UsageError(f"{name!r} is not of the form {form}.", remedy=f"For example: {form}")
        return Spec(kind=kind, target=url.rstrip("/"), detail=model, instruction=prompt)
    if kind == "sagemaker":
        match = _SAGEMAKER.match(target)
        if match is None:
            raise UsageError(f"{name!r} is not of the form sagemaker:NAME@REGION.", remedy="Name an endpoint.")
        return Spec(kind=kind, target=match["name"], detail=match["region"] or "", instruction=prompt)
    if not text:
        raise UsageError("A system has no name.", remedy="For example: minilm, bm25, titan-v2 or a model folder.")
    return Spec(kind="local", target=text, instruction=prompt)


@contextmanager
def opened_embedders() -> Iterator[dict[str, Embedder]]:
    """A dictionary for the embedders that are opened on the way; at the end their ledgers are closed."""
    opened: dict[str, Embedder] = {}
    try:
        yield opened
    finally:
        for embedder in opened.values():
            if isinstance(embedder, Titan):
                embedder.close()


def open_embedder(name: str, runtime: Runtime, *, max_cost: float | None = None, run: str = "") -> Embedder:
    """The embedder of a system other than bm25. max_cost: USD that `run` may spend where it is a paid one."""
    spec = parse(name)
    if spec.kind == "titan":
        return Titan.connect(int(spec.target), runtime, instruction=spec.instruction or "", max_cost=max_cost, run=run)
    if spec.kind == "openai":
        return OpenAiEndpoint.connect(name, spec.target, spec.detail, instruction=spec.instruction or "")
    if spec.kind == "tei":
        return TeiEndpoint.connect(name, spec.target, instruction=spec.instruction)
    if spec.kind == "sagemaker":
        return SageMakerEndpoint.connect(name, spec.target, spec.detail, instruction=spec.instruction)
    if spec.kind == "local":
        return local_model(name, spec.target, query_instruction=spec.instruction)
    raise UsageError(f"{name} has no vectors.")
