"""The stages in their order: what each reads, writes and depends on. The only table of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedfit.config import Config
from embedfit.errors import EmbedfitError
from embedfit.path.forgotten import FORGOTTEN
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime

Run = Callable[[Workspace, Config, Runtime], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of the path.

    module: holds its `run`. version: raised when the same inputs and settings give another result; see
    tests/stage_code.py; 1 was embedfit 0.1. reads: files of the run folder. models: its folders that are read as
    models. may_read: what it reads if it is there. brought: the same of files that no stage writes, but a person by
    another command. writes: files and folders that must be whole when it is done.
    may_write: what it writes under some settings and removes under others. glances: what it reads only to say
    how long something took; a change there makes it not stale. settings: the parts of the configuration that its
    result depends on; of those that name files the content counts, not the place. given: settings of which it
    only matters whether they are set. written_alone: of queries.jsonl only what a language model wrote counts, so that
    a log of questions makes nothing stale that is not made of it. run: instead of the module's own, in tests.
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
    written_alone: bool = False
    run: Run | None = None

    def start(self, workspace: Workspace, config: Config, runtime: Runtime) -> None:
        """Do the stage's work.

        Its package loads torch or a reader of documents. `embedfit status` and a run that is up to date must
        not wait for that, so the package is imported here.
        """
        run: Run = self.run or importlib.import_module(self.module).run
        run(workspace, config, runtime)


_MODEL = ("model", "query_instruction", "seed")
#: The stages whose times the evaluation tells.
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
        version=3,
        reads=("passages.jsonl",),
        may_read=(FORGOTTEN,),
        writes=("queries.jsonl",),
        may_write=("eval",),
        settings=(*_MODEL, "generate", "queries", "choose.questions"),
        given=("eval_beir", "eval_docs"),
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
        version=4,
        written_alone=True,
        reads=("passages.jsonl", "queries.jsonl", "train.jsonl"),
        writes=("finetuned",),
        settings=(*_MODEL, "train"),
    ),
    Stage(
        name="merge",
        module="embedfit.merging.stage",
        version=2,
        written_alone=True,
        reads=("passages.jsonl", "queries.jsonl"),
        models=("finetuned",),
        writes=("merged", "merge.json"),
        settings=(*_MODEL, "merge"),
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
        version=2,
        reads=("passages.jsonl", "queries.jsonl", "merge.json"),
        models=("merged",),
        brought=("person_grades.jsonl",),
        writes=("retriever.json",),
        may_write=("grades.jsonl", "pool.jsonl"),
        settings=(
            *_MODEL,
            "choose",
            "index",
            *(f"generate.{name}" for name in ("generator", "max_reply_tokens", "extra_body")),
        ),
    ),
    Stage(
        name="evaluate",
        module="embedfit.evaluation.stage",
        version=4,
        reads=("documents.jsonl", "passages.jsonl", "queries.jsonl", "train.jsonl", "merge.json", "retriever.json"),
        models=("finetuned", "merged"),
        may_read=("eval", "judgements.jsonl"),
        glances=_BEFORE_EVALUATE,
        writes=("scores.jsonl", "evaluation.json", "summary.json"),
        settings=(*_MODEL, "evaluate", "eval_beir", "index", "generate.generator"),
    ),
    Stage(
        name="report",
        module="embedfit.reporting.stage",
        version=3,
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
            # They hold the settings that the report shows, and what each stage took.
            *_BEFORE_EVALUATE,
            "evaluate.manifest.json",
        ),
        models=("merged",),
        writes=("report.html", "merged/README.md"),
        settings=(),
    ),
)


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def check_order(stages: Sequence[Stage] = STAGES) -> None:
    """Fail unless everything that a stage reads is an earlier stage's output, and no output has two writers."""
    written = {FORGOTTEN: "forget"}  # a command, not a stage
    for stage in stages:
        for name in (*stage.reads, *stage.models, *stage.may_read, *stage.glances):
            if name not in written and name.split("/")[0] not in written:
                raise EmbedfitError(f"The stage {stage.name} reads {name}, which no earlier stage writes.")
        for name in (*stage.writes, *stage.may_write):
            if name in written:
                raise EmbedfitError(f"{name} is written by both {written[name]} and {stage.name}.")
            written[name] = stage.name
        written[f"{stage.name}.manifest.json"] = stage.name
