"""Making the judge that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embedfit.config import GenerateConfig
from embedfit.errors import UsageError
from embedfit.generators import generator
from embedfit.judging.by_cross_encoder import CrossEncoderJudge
from embedfit.judging.by_llm import LlmJudge
from embedfit.judging.judge import Judge
from embedfit.llm.opening import opened_model
from embedfit.llm.protocol import extra_of
from embedfit.models.cross_encoder import CrossEncoder
from embedfit.models.sources import resolve_model
from embedfit.runtime import Runtime

#: The value of generate.judge that lets the generator's own model judge.
OWN_MODEL = "llm"
NAME_A_JUDGE = "Name one: --set generate.judge=llm, or a cross-encoder's folder or hub id."


@contextmanager
def opened_judge(generate: GenerateConfig, runtime: Runtime, *, run: str) -> Iterator[Judge]:
    """The judge that generate.judge names. run: the name under which the ledger counts its cost.

    Raises UsageError if none is named, ModelError for a folder that holds no cross-encoder.
    """
    if generate.judge is None:
        raise UsageError("No judge is named.", remedy=NAME_A_JUDGE)
    if generate.judge == OWN_MODEL:
        with opened_model(generate, runtime, run=run) as model:
            yield LlmJudge(
                model,
                runtime,
                free=generator(generate.generator).free,
                max_tokens=generate.max_reply_tokens,
                extra=extra_of(generate.extra_body),
            )
        return
    yield CrossEncoderJudge(CrossEncoder.load(resolve_model(generate.judge)), runtime.report)
