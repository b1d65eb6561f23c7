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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from embedfit.errors import UsageError
from embedfit.evaluation.remote import OpenAiEndpoint, SageMakerEndpoint, TeiEndpoint
from embedfit.evaluation.titan import WIDTHS, Titan
from embedfit.models.local import local_model
from embedfit.models.vectors import Embedder
from embedfit.runtime import Runtime

Vectors = npt.NDArray[np.float32]


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
