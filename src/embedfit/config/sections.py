"""The settings of every stage: their types, defaults and limits, and whether they decide a result."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, TypeVar, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from embedfit import plugins
from embedfit.errors import UsageError
from embedfit.generators import generator, generators

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
StyleName = Literal["question", "keywords", "conversational", "claim", "title", "cause", "problem"]


#: Tokens of a window, if passages have a vector for each window: docs/recipe.md has the gain.
WINDOW_TOKENS: Final = 64


#: The kinds of files that settings name: documents to read, a BEIR folder, one file, or a model (a folder or a name). A
#: spec such as recorded:FILE names a file; a spec such as bedrock:MODEL does not. Vectors are the name of an embedder,
#: or of two files behind npy:.
PathKind = Literal["documents", "beir", "file", "model", "spec", "vectors"]
#: The beginning of a spec that names a file.
RECORDED = "recorded:"
#: The beginning of a name of vectors in files: npy:PASSAGES.npy,QUESTIONS.npy.
ARRAYS = "npy:"


T = TypeVar("T")


def decides(
    default: T,
    *,
    path: PathKind | None = None,
    description: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> T:
    """A setting that decides a result: changing it makes the stages that depend on it stale. Limits as pydantic's."""
    extra: JsonDict = {"decides": True, "path": path}
    made: T = Field(default, json_schema_extra=extra, description=description, ge=ge, gt=gt, le=le, lt=lt)
    return made


def incidental(default: T, *, description: str | None = None, ge: float | None = None) -> T:
    """A setting of how the work is done, such as its price limit. Changing it makes nothing stale."""
    made: T = Field(default, json_schema_extra={"decides": False}, description=description, ge=ge)
    return made


#: The largest number of any setting; the system's own limits of times and sizes lie above it.
_LARGEST = 1_000_000_000


class Section(BaseModel):
    """A group of settings: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        kinds = {int, float} & {of := cls.model_fields[str(info.field_name)].annotation, *get_args(of)}
        if isinstance(value, bool) and kinds:
            raise ValueError("a number is needed, not true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _no_overflow(cls, value: object) -> object:
        if isinstance(value, int | float) and abs(value) > _LARGEST:
            raise ValueError(f"at most {_LARGEST:,} is possible")
        return value


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


#: The loss that leaves the passages' vectors as they are.
CORPUS_LOSS: Final = "corpus-distil"


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
    loss: str = decides("infonce", description="docs/training.md lists them, plug-ins add others")
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

    @property
    def tuned(self) -> Literal["map", "query", "both"]:
        """What is tuned; never "auto"."""
        if self.tune == "auto":
            return "map" if self.loss == CORPUS_LOSS else "both"
        return self.tune

    @model_validator(mode="after")
    def _towers_need_a_corpus(self) -> TrainConfig:
        if self.tuned != "both" and self.loss != CORPUS_LOSS:
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
        description="equal steps of α up to max_alpha that are tried; 1 is measured too, for the report",
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


_JUDGE = re.compile(r"bedrock:.+|openai:https?://[^/#]+[^#]*#.+|recorded:.+", re.DOTALL)


class ChooseConfig(Section):
    """Questions and grades → the retriever that ships."""

    judge: str | None = decides(
        None,
        description="the judge of search results: bedrock:MODEL, openai:URL#MODEL, or recorded:FILE; default: nobody",
        path="spec",
    )
    questions: int = decides(50, ge=1, le=100_000, description="the most of people's questions that are graded")
    pool: int = decides(5, ge=1, le=100, description="this many best passages of each candidate are graded")

    @field_validator("judge")
    @classmethod
    def _of_known_form(cls, judge: str | None) -> str | None:
        if judge is not None and not _JUDGE.match(judge):
            raise ValueError(f"{judge!r} is none of bedrock:MODEL, openai:URL#MODEL and {RECORDED}FILE")
        return judge


class IndexConfig(Section):
    """Passages, model and retriever → a folder that is searched."""

    tokens: Literal["auto", "yes", "no"] = decides(
        "auto", description="token vectors for the second stage; auto: up to 50,000 passages"
    )
    queries: Literal["auto", "yes", "no"] = decides(
        "auto",
        description="written queries in the index; auto: those of a strong writer, where nearly all passages have some",
    )


class EvaluateConfig(Section):
    """Systems → scores."""

    systems: tuple[str, ...] = decides((), description="further systems, such as titan-v2", path="model")
    bootstrap: int = decides(2000, ge=100)
    windows: Literal[0, 64] = decides(
        WINDOW_TOKENS, description="also measure the windows of passages alone, as an index has them; 0: don't"
    )


class AdaptConfig(Section):
    """Vectors of an embedder that can't be changed → a map for its query vectors, and moved passage vectors."""

    vectors: str | None = decides(
        None,
        description="the embedder of the index: titan-v2, openai:URL#MODEL, tei:URL, sagemaker:NAME@REGION, a model; "
        "or npy:PASSAGES.npy,QUESTIONS.npy, with the ids in PASSAGES.ids.txt and QUESTIONS.ids.txt",
        path="vectors",
    )
    written: Literal["auto", "yes", "no"] = decides(
        "auto", description="whether a language model writes queries; auto: only if there is no file of questions"
    )
    share: float | None = decides(
        None, ge=0, le=1, description="weight of the map beside the unchanged vector; default: chosen by the evidence"
    )
    move: bool = decides(False, description="write the vectors of passages, moved towards their written queries")
    move_weight: float = decides(
        0.3, ge=0, lt=1, description="weight of the mean of a passage's written queries in its moved vector"
    )

    @field_validator("vectors")
    @classmethod
    def _two_files(cls, vectors: str | None) -> str | None:
        if vectors is not None and vectors.startswith(ARRAYS):
            array_files(vectors)
        return vectors


def array_files(vectors: str) -> tuple[str, str]:
    """The two files of npy:PASSAGES.npy,QUESTIONS.npy. Raises ValueError for another form."""
    first, comma, second = vectors.removeprefix(ARRAYS).partition(".npy,")
    if not first or not comma or not second.removesuffix(".npy") or not second.endswith(".npy"):
        raise ValueError(f"{vectors!r} is not of the form {ARRAYS}PASSAGES.npy,QUESTIONS.npy")
    return f"{first}.npy", second


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
