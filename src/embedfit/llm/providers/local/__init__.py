"""A small instruct model on this machine: openvino-genai runs GGUF files, transformers Hugging Face folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from embedfit.generators import Generator, Wanted, generator
from embedfit.models.sources import resolve_generator

if TYPE_CHECKING:
    from embedfit.config import GenerateConfig
    from embedfit.llm.opening import Outside
    from embedfit.llm.protocol import LanguageModel


def _open(settings: GenerateConfig, outside: Outside) -> LanguageModel:
    path = resolve_generator(settings.llm)
    if path.is_file() or (path / "openvino_model.xml").is_file():
        return cast("LanguageModel", generator("openvino").open(settings, outside))
    from embedfit.llm.providers.local.model import LocalGenerator  # loads torch, which takes seconds

    return LocalGenerator(path)


GENERATOR = Generator(
    name="local",
    open=_open,
    one_query_a_call=True,
    free=True,
    strong=False,
    reads_files=True,
    temperature=0.7,  # at a higher temperature small models write nonsense, where large ones find variety
    # It writes on the user's CPU; more than 3,000 queries cost more time than they are worth. In a large corpus they go
    # to a part of the passages, three to each (DUQGen: a thousand chosen passages beat five thousand). Questions are
    # its best queries. More than four queries of one dev passage hardly narrow an interval, because they rise and fall
    # together.
    wanted=Wanted(queries=3_000, least=1, most=4, passages=1_000, held_out=4, favourite="question"),
)
