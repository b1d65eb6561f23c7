"""The settings of the stages that read documents and write queries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import (
    ValidationError,
    field_validator,
    model_validator,
)

from embedfit.config.kinds import Section, decides, incidental
from embedfit.errors import UsageError
from embedfit.generators import generator, generators

StyleName = Literal["question", "keywords", "conversational", "claim", "title", "cause", "problem"]


class IngestConfig(Section):
    """Documents → passages."""

    max_tokens: int = decides(
        0, ge=0, description="tokens of a passage with its title; 0: what the model's window holds, at most 256"
    )
    min_characters: int = decides(60, ge=0, description="shorter passages are dropped, with the reason recorded")
    max_file_mb: int = decides(100, ge=1, description="larger text files are skipped, with the reason recorded")
    max_seconds: int = decides(
        60, ge=1, description="for reading one document, plus 10 for each MiB; slower documents are skipped"
    )
    max_memory_mb: int = decides(
        2048, ge=256, description="memory for reading one document; those that take more are skipped (on Linux)"
    )
    follow_links: bool = decides(
        False,
        description="read the files elsewhere to which links in the documents' folders lead; else they are skipped",
    )


class GenerateConfig(Section):
    """Passages → queries."""

    generator: str = decides("bedrock", description="writes the queries: see docs/generators.md; plug-ins add others")
    llm: str | None = decides(
        None,
        description="model id at the provider, a GGUF file or model folder for local, the file of queries for "
        "recorded; default: the generator's own",
        path="model",
    )
    base_url: str | None = incidental(None, description="address of an OpenAI-compatible server")
    region: str | None = incidental(None, description="AWS region; default: the environment's")
    batch_s3_uri: str | None = incidental(None, description="s3://bucket/prefix for bedrock-batch")
    batch_role_arn: str | None = incidental(None, description="role that Bedrock assumes for batch jobs")
    queries_per_passage: int = decides(
        0, ge=0, le=50, description="0: chosen from the number of passages and the generator"
    )
    max_passages: int = decides(
        0,
        ge=0,
        description="write queries for at most this many passages, spread over the documents; 0: automatic",
    )
    styles: tuple[StyleName, ...] = decides(("question", "keywords", "conversational", "claim", "title"))
    temperature: float | None = decides(None, ge=0, le=2, description="default: .7 for local, .9 for others")
    top_p: float = decides(0.95, gt=0, le=1)
    max_query_tokens: int = decides(40, ge=8, le=256)
    max_reply_tokens: int = decides(
        0,
        ge=0,
        le=200_000,
        description="tokens that a reply may take, thoughts included; 0: what the queries need, and more for a model "
        "whose replies end at that limit. Not of local",
    )
    extra_body: dict[str, object] = decides(
        {}, description="further fields of each call, such as {chat_template_kwargs = {enable_thinking = false}}"
    )
    examples: str | None = decides(
        None, description="file of the user's own queries, one a line, for the prompt", path="file"
    )
    log_examples: int = decides(
        6,
        ge=0,
        le=8,
        description="questions of --queries that the prompt shows as examples if generate.examples names no file; "
        "0: none",
    )
    domain: str = decides("", description="a hint for the prompt, such as 'annual reports of US companies'")
    language: str = decides("", description="language of the queries; empty: the passage's own")
    max_cost: float | None = incidental(None, ge=0, description="USD, never exceeded")
    round_trip_k: int = decides(
        20,
        ge=0,
        description="a training query is kept if its passage is in the top k of BM25 or the base model; 0: no check",
    )
    margin: float | None = decides(
        None,
        ge=-100,
        le=100,
        description="a training query is dropped as vague if BM25 and the base model's windows score its passage less "
        "than this above the best other one, in deviations; default: no check",
    )
    judge: str | None = decides(
        None,
        description="the judge of whether a passage answers a query: llm (the generator's own model), or a "
        "cross-encoder's folder or hub id; default: nobody",
        path="model",
    )
    judge_min: float = decides(
        0.5,
        ge=0,
        le=1,
        description="a query is dropped if the judge scores its passage below this, of 1; 0: no such filter",
    )
    dev_share: float = decides(0.15, gt=0, lt=1)
    test_share: float = decides(0.15, ge=0, lt=1, description="only without --eval-docs and --eval-beir")

    @model_validator(mode="before")
    @classmethod
    def _of_spec(cls, values: object) -> object:
        return without_spec(values) if isinstance(values, dict) else values

    @field_validator("generator")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return generator(name).name
        except UsageError as error:
            raise ValueError(f"{error.message.rstrip('.')}. {(error.remedy or '').rstrip('.')}") from error

    @model_validator(mode="after")
    def _writer_can_judge(self) -> GenerateConfig:
        if self.judge == "llm" and not generator(self.generator).judges:
            raise ValueError(
                f"the generator {self.generator} can't judge, as generate.judge=llm asks it to: name a cross-encoder's "
                "folder or hub id with --set generate.judge=…, or nobody with --set generate.judge=default"
            )
        return self

    @field_validator("extra_body")
    @classmethod
    def _plain_fields(cls, fields: dict[str, object]) -> dict[str, object]:
        for name, setting in _OWN_FIELDS.items():
            if name in fields:
                raise ValueError(f"{name} is not set here: {setting}")
        try:
            json.dumps(fields, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"it must hold what JSON can say ({error})") from error
        return fields


def without_spec(generate: Mapping[str, object]) -> Mapping[str, object]:
    """The settings of [generate], a generator such as recorded:FILE taken apart into its name and its settings."""
    name, separator, rest = str(generate.get("generator", "")).partition(":")
    if not separator or name not in generators():
        return generate
    behind = generators()[name].spec(rest)
    for key, value in behind.items():
        if generate.get(key) not in (None, value):
            raise ValueError(f"generate.{key} and generator={name}:{rest} are both named: leave one out")
    return {**generate, "generator": name, **behind}


def with_generator(settings: GenerateConfig, spec: str) -> GenerateConfig:
    """The settings with another language model, such as bedrock:MODEL, openai:URL#MODEL, local or recorded:FILE.

    Their region, limits and prompts stay. Raises UsageError for a spec that names no generator.
    """
    own = settings.model_dump(exclude={"generator", "llm", "base_url"})
    try:
        return GenerateConfig.model_validate({**own, "generator": spec})
    except ValidationError as error:
        what = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise UsageError(f"{spec!r} names no language model: {what}.") from error


#: Fields of a call that have settings of their own, or that would make its replies unreadable.
_OWN_FIELDS = {
    "model": "use generate.llm",
    "messages": "the prompt is made of the passages",
    "max_tokens": "use generate.max_reply_tokens",
    "max_completion_tokens": "use generate.max_reply_tokens",
    "temperature": "use generate.temperature",
    "top_p": "use generate.top_p",
    "seed": "use seed",
    "n": "each call brings one reply",
    "stream": "replies are read whole",
}
