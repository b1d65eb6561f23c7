"""The only table of the stages, in their order, with the files that each reads and writes and its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedfit.errors import EmbedfitError

#: The hashes that the run was told to forget. `embedfit forget` writes the file, no stage does.
FORGOTTEN = "forgotten.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of the path.

    module: its function `run` takes the workspace, the configuration and the runtime. run: a function of tests in its
    place. version: raised if the same inputs and settings give another result; see tests/stage_code.py. 1: embedfit
    0.1. writes: files and folders that must be whole when it is done. may_write: those that it writes under some
    settings and removes under others. reads: files of the run folder. models: folders that it reads as models.
    may_read: files that it reads if they exist. brought: such files that a person makes by another command. glances:
    files that it reads only to tell how long something took; a change in them does not make it stale. settings: the
    parts of the configuration that its result depends on. If a setting names a file, a change of the content makes the
    stage stale, but a change of its place does not. given: settings for which it only matters whether they are set.
    with_questions: settings that count only if there are questions that people asked.
    written_alone: whether only the queries that a language model wrote count in queries.jsonl, so that a log of
    questions does not make the stage stale.
    """

    name: str
    module: str
    version: int
    writes: tuple[str, ...]
    settings: tuple[str, ...]
    reads: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    brought: tuple[str, ...] = ()
    may_write: tuple[str, ...] = ()
    glances: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    with_questions: tuple[str, ...] = ()
    written_alone: bool = False
    run: Callable[..., None] | None = None


_MODEL = ("model", "query_instruction", "seed")
#: The stages whose times summary.json has.
BEFORE_EVALUATE = ("ingest", "generate", "mine", "train", "merge", "check", "choose")
_BEFORE_EVALUATE = tuple(f"{name}.manifest.json" for name in BEFORE_EVALUATE)

STAGES: tuple[Stage, ...] = (
    Stage(
        name="ingest",
        module="embedfit.corpus.stage",
        version=3,
        may_read=(FORGOTTEN,),
        writes=("documents.jsonl", "passages.jsonl", "metadata.jsonl", "dropped_passages.jsonl"),
        settings=("docs", "eval_docs", "model", "seed", "ingest", "generate.dev_share", "generate.test_share"),
        given=("eval_beir",),
    ),
    Stage(
        name="generate",
        module="embedfit.queries.stage",
        version=10,
        reads=("passages.jsonl",),
        may_read=(FORGOTTEN,),
        writes=("queries.jsonl",),
        may_write=("eval",),
        settings=(*_MODEL, "generate", "queries", "choose.questions"),
        given=("eval_beir", "eval_docs"),
        with_questions=("eval_beir",),
    ),
    Stage(
        name="mine",
        module="embedfit.mining.stage",
        version=2,
        written_alone=True,
        reads=("passages.jsonl", "queries.jsonl"),
        writes=("train.jsonl",),
        may_write=("judgements.jsonl",),
        settings=(
            *_MODEL,
            "mine",
            *(f"generate.{name}" for name in ("judge", "generator", "llm", "max_reply_tokens", "extra_body")),
        ),
    ),
    Stage(
        name="train",
        module="embedfit.training.stage",
        version=10,
        reads=("passages.jsonl", "queries.jsonl", "train.jsonl"),
        writes=("finetuned",),
        may_write=("query_map.safetensors",),
        settings=(*_MODEL, "train", "mine.teacher", "queries"),
    ),
    Stage(
        name="merge",
        module="embedfit.merging.stage",
        version=8,
        written_alone=True,
        reads=("passages.jsonl", "queries.jsonl"),
        may_read=("query_map.safetensors",),
        models=("finetuned",),
        writes=("merged", "merge.json"),
        settings=(*_MODEL, "merge", "train.tune", "train.loss", "queries"),
    ),
    Stage(
        name="check",
        module="embedfit.evaluation.check",
        version=2,
        written_alone=True,
        reads=("passages.jsonl", "queries.jsonl"),
        models=("merged",),
        writes=("check.json",),
        settings=(*_MODEL, "check"),
    ),
    Stage(
        name="choose",
        module="embedfit.choosing.stage",
        version=4,
        reads=("passages.jsonl", "queries.jsonl", "merge.json"),
        models=("merged",),
        brought=("person_grades.jsonl",),
        writes=("retriever.json",),
        may_write=("grades.jsonl", "pool.jsonl"),
        settings=(
            *_MODEL,
            "choose",
            "index",
            "train.tune",
            "train.loss",
            *(f"generate.{name}" for name in ("generator", "max_reply_tokens", "extra_body")),
        ),
    ),
    Stage(
        name="evaluate",
        module="embedfit.evaluation.stage",
        version=7,
        reads=("documents.jsonl", "passages.jsonl", "queries.jsonl", "train.jsonl", "merge.json", "retriever.json"),
        models=("finetuned", "merged"),
        may_read=("eval", "judgements.jsonl", "query_map.safetensors"),
        glances=_BEFORE_EVALUATE,
        writes=("scores.jsonl", "evaluation.json", "summary.json"),
        settings=(
            *_MODEL,
            "evaluate",
            "eval_beir",
            "index",
            "generate.generator",
            "train.tune",
            "train.loss",
            "queries",
        ),
    ),
    Stage(
        name="report",
        module="embedfit.reporting.stage",
        version=5,
        reads=(
            "documents.jsonl",
            "passages.jsonl",
            "dropped_passages.jsonl",
            "queries.jsonl",
            "merge.json",
            "check.json",
            "evaluation.json",
            "summary.json",
        ),
        may_read=(
            "finetuned/losses.jsonl",
            "finetuned/training.json",
            # Manifests hold the settings that the report shows, and the duration of each stage.
            *_BEFORE_EVALUATE,
            "evaluate.manifest.json",
        ),
        models=("merged",),
        writes=("report.html", "merged/README.md"),
        settings=(),
    ),
)

#: The stages of `embedfit adapt`, after ingest and, if a language model writes queries, generate.
ADAPTING: tuple[Stage, ...] = (
    Stage(
        name="adapt",
        module="embedfit.adapting.stage",
        version=1,
        reads=("passages.jsonl",),
        may_read=(FORGOTTEN,),
        brought=("queries.jsonl", "eval", "grades.jsonl", "person_grades.jsonl"),
        writes=("adapt",),
        settings=(*_MODEL, "adapt", "queries", "eval_beir", "evaluate.bootstrap"),
    ),
    Stage(
        name="adapt_report",
        module="embedfit.reporting.adapted",
        version=1,
        reads=("adapt/adapt.json",),
        writes=("adapt/report.html",),
        settings=(),
    ),
)
#: The stages of `embedfit assess`, which trains nothing.
ASSESSING: tuple[Stage, ...] = (
    STAGES[0],
    Stage(
        name="assess",
        module="embedfit.assessing.stage",
        version=1,
        reads=("documents.jsonl", "passages.jsonl"),
        may_read=(FORGOTTEN,),
        brought=("person_grades.jsonl", "queries.jsonl"),
        writes=("assess",),
        settings=(
            *_MODEL,
            "assess",
            "generate",
            "queries",
            "eval_beir",
            "choose",
            "index.tokens",
            "evaluate.bootstrap",
        ),
    ),
)
EVERY = (*STAGES, *ADAPTING, ASSESSING[1])

#: The stage that writes each file and folder of a run.
WRITERS = {name: stage.name for stage in EVERY for name in (*stage.writes, *stage.may_write)}


def writer_of(name: str) -> str | None:
    """The stage that writes a file of a run, or the folder that it lies in."""
    return WRITERS.get(name) or WRITERS.get(name.split("/")[0])


def stage_named(name: str) -> Stage:
    """The stage with this name."""
    return next(stage for stage in EVERY if stage.name == name)


def adapt_stages(*, writes: bool) -> tuple[Stage, ...]:
    """The stages of `embedfit adapt`. writes: whether a language model writes queries."""
    return (stage_named("ingest"), *([stage_named("generate")] if writes else ()), *ADAPTING)


def check_order(stages: Sequence[Stage] = STAGES) -> None:
    """Fail unless everything that a stage reads is an earlier stage's output, and no output has two writers."""
    written = {FORGOTTEN: "forget"}
    for stage in stages:
        for name in (*stage.reads, *stage.models, *stage.may_read, *stage.glances):
            if name not in written and name.split("/")[0] not in written:
                raise EmbedfitError(f"The stage {stage.name} reads {name}, which no earlier stage writes.")
        for name in (*stage.writes, *stage.may_write):
            if name in written:
                raise EmbedfitError(f"{name} is written by both {written[name]} and {stage.name}.")
            written[name] = stage.name
        written[f"{stage.name}.manifest.json"] = stage.name
