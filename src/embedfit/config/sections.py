"""All settings of a run, by section and by dotted name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from pydantic import (
    model_validator,
)
from pydantic.fields import FieldInfo

from embedfit.config.kinds import RECORDED, PathKind, Section, decides, incidental
from embedfit.config.searching import AdaptConfig, AssessConfig, ChooseConfig, EvaluateConfig, IndexConfig
from embedfit.config.tuning import CheckConfig, MergeConfig, MineConfig, TrainConfig
from embedfit.config.writing import GenerateConfig, IngestConfig, with_generator
from embedfit.errors import UsageError
from embedfit.generators import generator

#: Models that have a name of their own: a folder of that name is given as ./NAME.
MODEL_ALIASES = (
    "minilm",
    "mpnet",
    "bge-small",
    "bge-base",
    "bge-large",
    "bge-m3",
    "qwen3-0.6b",
    "embeddinggemma",
    "gte-modernbert",
    "arctic-l-v2",
    "granite-r2",
    "e5-multilingual",
)


class Config(Section):
    """Everything that decides a run. Stored in the run folder as embedfit.toml."""

    preset: str = incidental("default")
    docs: tuple[str, ...] = decides((), path="documents")
    eval_docs: tuple[str, ...] = decides((), path="documents")
    eval_beir: str | None = decides(None, path="beir")
    queries: tuple[str, ...] = decides(
        (),
        description="files of questions that people asked: plain lines, or JSONL with query or text, and positives "
        "where they are known",
        path="file",
    )
    model: str = decides("bge-base", path="model")
    query_instruction: str | None = decides(None, description="default: the model's own")
    seed: int = decides(13, ge=0)
    ingest: IngestConfig = IngestConfig()
    generate: GenerateConfig = GenerateConfig()
    mine: MineConfig = MineConfig()
    train: TrainConfig = TrainConfig()
    merge: MergeConfig = MergeConfig()
    check: CheckConfig = CheckConfig()
    choose: ChooseConfig = ChooseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    index: IndexConfig = IndexConfig()
    adapt: AdaptConfig = AdaptConfig()
    assess: AssessConfig = AssessConfig()

    @property
    def training(self) -> TrainConfig:
        """The section `train` with its loss decided."""
        return self.train.decided(asked=bool(self.queries))

    @property
    def writes_for_adapt(self) -> bool:
        """Whether `embedfit adapt` has a language model write queries."""
        return self.adapt.written == "yes" or (self.adapt.written == "auto" and not self.queries)

    @model_validator(mode="after")
    def _offline_is_free(self) -> Config:
        refuse_bills(self)
        return self


def refuse_bills(config: Config) -> None:
    """Raise UsageError if the preset is offline, which never costs money, and the generator or judge may cost money.

    path.systems refuses paid embedders, because it knows their table.
    """
    generate = config.generate
    if generator(generate.generator).bills(generate):
        refuse_if_offline(config, f"generate.generator={generate.generator}")
    if (judge := config.choose.judge) and not judge.startswith(RECORDED):
        named = with_generator(generate, judge)
        if generator(named.generator).bills(named):
            refuse_if_offline(config, f"choose.judge={judge}")


def refuse_if_offline(config: Config, paid: str) -> None:
    """Raise UsageError if the preset is offline. paid: a setting, as "KEY=VALUE", that may cost money."""
    if config.preset == "offline":
        raise UsageError(
            f"The preset offline makes no paid call, but {paid} may cost money.",
            remedy="Leave that out, or name another preset and another folder with --run.",
        )


@cache
def fields() -> dict[str, FieldInfo]:
    """Every setting by its dotted name, such as train.epochs."""
    found: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= {f"{name}.{inner}": value for inner, value in field.annotation.model_fields.items()}
        else:
            found[name] = field
    return found


def decides_result(key: str) -> bool:
    """Whether a setting, by its dotted name, decides a result."""
    return bool(_said_of(key).get("decides", True))


def path_kind(key: str) -> PathKind | None:
    """The kind of files that a setting names, by its dotted name; None for a setting that names no file."""
    return cast("PathKind | None", _said_of(key).get("path"))


def _said_of(key: str) -> Mapping[str, object]:
    """The notes that decides() or incidental() left on a setting."""
    extra = fields()[key].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def setting(config: Config, key: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The JSON value of a setting by its dotted name."""
    value = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value
