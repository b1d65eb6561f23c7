"""The settings of the stages that tune a model: mine, train, merge, check."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import (
    NonNegativeFloat,
    field_validator,
    model_validator,
)

from embedfit import plugins
from embedfit.config.kinds import Section, decides, incidental
from embedfit.errors import UsageError


class MineConfig(Section):
    """Queries → training rows."""

    negatives: int = decides(4, ge=0, le=10_000, description="hard negatives a row")
    depth: int = decides(50, ge=1, description="candidates come from the top ranks of the base model down to this one")
    max_relative_score: float = decides(
        0.95, gt=0, le=2, description="candidates scoring above this share of the positive are dropped (NV-Retriever)"
    )
    teacher: Literal["none", "fused", "judge"] = decides(
        "none",
        description="source of the scores for train.loss=distil: the base model's cosines (none), BM25 and "
        "the base model fused, or generate.judge's",
    )
    judge_max_relative_score: float = decides(
        0.6,
        gt=0,
        le=1,
        description="with teacher=judge, negatives that the judge scores above this share of the positive are dropped",
    )


#: The loss that leaves the passages' vectors as they are, and the one that moves them.
CORPUS_LOSS: Final = "corpus-distil"
BATCH_LOSS: Final = "in-batch-distil"


class LoraConfig(Section):
    """An adapter that trains instead of the model's own weights."""

    rank: int | None = decides(
        None,
        ge=0,
        le=1024,
        description="width of the matrices; 0: the model's own weights train. Default: 16 for models above 300 million "
        "weights, else 0",
    )


class TrainConfig(Section):
    """Training rows → fine-tuned model."""

    epochs: float = decides(
        0, ge=0, description="0: chosen to make about 30 steps, 60 with in-batch-distil, 150 with corpus-distil"
    )
    batch_size: int = decides(64, ge=2)
    learning_rate: float = decides(0.0, ge=0, description="0: chosen from the model's size")
    warmup_ratio: float = decides(0.1, ge=0, le=1)
    weight_decay: float = decides(0.01, ge=0)
    max_grad_norm: float = decides(1.0, gt=0)
    temperature: float = decides(0.05, gt=0)
    loss: str = decides(
        "infonce",
        description="docs/training.md lists them, plug-ins add others; auto: corpus-distil with --queries or if tune "
        "is map or query, else in-batch-distil",
    )
    tune: Literal["auto", "map", "query", "both"] = decides(
        "auto",
        description="what changes: a linear map on query vectors (map), the tower of queries (query), one model for "
        "queries and passages (both); auto: map with train.loss=corpus-distil, which map and query need, else both",
    )
    corpus_teacher: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = decides(
        (0.0, 0.7, 0.3),
        description="parts in the teacher of corpus-distil: the base model's one vector, its windows, BM25",
    )
    label_share: float = decides(
        0.3,
        ge=0,
        le=1,
        description="with corpus-distil, the share of a target that goes to the passage that the query was written of",
    )
    map_steps: int = decides(200, ge=1, le=100_000, description="steps of the query map, which takes seconds")
    map_learning_rate: float = decides(1e-3, gt=0)
    map_prior: float = decides(
        15.0, ge=0, description="how strongly few queries hold the query map near the identity, which changes nothing"
    )
    hard_negatives: int = decides(4, ge=0, description="hard negatives of a row that a step uses")
    in_batch_negatives: bool = decides(True)
    both_directions: bool = decides(False)
    guide_margin: float = decides(
        0.0,
        ge=0,
        le=1,
        description="mask in-batch negatives that the base model scores above (1 - margin) × positive; 0: off",
    )
    infonce_weight: float = decides(0.1, ge=0, description="weight of InfoNCE beside distillation")
    teacher_temperature: float = decides(
        0.3,
        gt=0,
        description="divides the teacher's scores: a judge's are 0 to 1; of in-batch-distil and corpus-distil they are "
        "deviations",
    )
    teacher_weights: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = decides(
        (4, 2, 1),
        description="parts in the teacher of in-batch-distil: the base model's windows, its tokens, BM25",
    )
    matryoshka: tuple[int, ...] = decides(())
    query_max_tokens: int = decides(64, ge=8)
    passage_max_tokens: int = decides(0, ge=0, description="0: the model's window, at most 512")
    dropout: float = decides(0.0, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = decides("auto")
    memory_mb: int = incidental(0, ge=0, description="peak memory of a step; 0: chosen from the machine's memory")
    tokens_per_micro_batch: int = decides(0, ge=0, description="0: chosen from the precision and the cores")
    eval_every: int = decides(
        0, ge=0, description="steps between dev scores; 0: five times, or once at the end with keep=last"
    )
    keep: Literal["best", "last"] = decides(
        "best", description="the weights to keep: the best by dev score, or the last ones"
    )
    patience: int = decides(
        3, ge=0, description="dev scores without a new best before training stops; 0: never. Not with keep=last"
    )
    checkpoint_every: int = incidental(
        0, ge=0, description="steps between checkpoints; 0: a fifth of all, or eval_every if that is less"
    )
    compile: bool = incidental(False)
    lora: LoraConfig = decides(
        LoraConfig(), description="lora.rank: of an adapter (LoRA) that trains instead of the model's own weights"
    )

    @field_validator("loss")
    @classmethod
    def _registered(cls, name: str) -> str:
        if name == "auto":
            return name
        try:
            plugins.place_of("embedfit.losses", name)
        except UsageError as error:
            raise ValueError(f"{error.message} {error.remedy}".rstrip(".")) from error
        return name

    @field_validator("teacher_weights", "corpus_teacher")
    @classmethod
    def _some_weight(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        if not sum(weights):
            raise ValueError("one of the three weights must be above 0")
        return weights

    def decided(self, *, asked: bool) -> TrainConfig:
        """The same section with its loss decided. asked: whether people's questions train.

        People's questions name no passage, and a map learns from them in seconds. docs/recipe.md has measurements.
        """
        if self.loss != "auto":
            return self
        corpus = self.tune in ("map", "query") or (asked and self.tune == "auto")
        return self.model_copy(update={"loss": CORPUS_LOSS if corpus else BATCH_LOSS})

    @property
    def tuned(self) -> Literal["map", "query", "both"]:
        """What is tuned; never "auto". The loss must be decided."""
        if self.tune == "auto":
            return "map" if self.loss == CORPUS_LOSS else "both"
        return self.tune

    @model_validator(mode="after")
    def _towers_need_a_corpus(self) -> TrainConfig:
        if self.tune in ("map", "query") and self.loss not in (CORPUS_LOSS, "auto"):
            raise ValueError(
                f"train.tune={self.tune} leaves the passages' vectors as they are, which train.loss={self.loss} can't: "
                "use train.loss=corpus-distil, or train.tune=both"
            )
        return self


class MergeConfig(Section):
    """Fine-tuned model + base → merged model."""

    alpha: float | None = decides(
        None, ge=0, le=1, description="weight of the fine-tuned model; default: chosen on dev"
    )
    max_alpha: float = decides(
        0.5,
        gt=0,
        le=1,
        description="the largest α that may be chosen, because written queries overrate a model that learned from them",
    )
    steps: int = decides(
        2,
        ge=1,
        le=100,
        description="equal steps of α up to max_alpha that are tried; 1 too if only queries are tuned, for the report",
    )
    max_retention_loss: float = decides(
        0.01, ge=0, description="largest drop on the retention set that a merged model may show"
    )
    max_dev_loss: float = decides(
        0.03, ge=0, description="ship only if the loss on dev is, by its 95% interval, surely smaller than this"
    )
    retention_beir: str | None = decides(
        None,
        description="a BEIR folder of general queries; default: agreement with the base on text outside the corpus",
        path="beir",
    )
    always_ship: bool = decides(False, description="ship the merged model whatever the gate says (as LM-Cocktail does)")


class CheckConfig(Section):
    """Similar and different pairs."""

    pairs: str | None = decides(
        None,
        description="JSONL of {query, passage, similar: true|false}; default: drawn from the dev part",
        path="file",
    )
    count: int = decides(50, ge=2)
