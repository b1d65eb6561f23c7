"""The function behind `embedfit adapt`: the stages of an adaptation in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from typing_extensions import Unpack

from embedfit.adapting.stage import asked_texts
from embedfit.commands import runs
from embedfit.commands.preflight import refuse_silent_embedder
from embedfit.config import ARRAYS, Config, refuse_if_offline
from embedfit.embedders import registry
from embedfit.errors import UsageError
from embedfit.evaluation.evalset import read_eval_set
from embedfit.generators import generator
from embedfit.path import pipeline
from embedfit.path.artefacts import Adapted, Passage, Query, written
from embedfit.path.stages import adapt_stages
from embedfit.path.workspace import Workspace
from embedfit.queries.plan import plan as plan_of_queries
from embedfit.runtime import Runtime


def adapt(
    docs: runs.PathLike | Sequence[runs.PathLike] = (),
    *,
    run: runs.PathLike,
    vectors: str | None = None,
    settings: Mapping[str, object] | None = None,
    preset: str | None = None,
    yes: bool = False,
    runtime: Runtime | None = None,
    **options: Unpack[runs.RunOptions],
) -> Adapted:
    """Tune the search of an index whose vectors can't be changed: a map for queries, moved vectors of passages.

    docs: the passages of the index, best as a BEIR corpus.jsonl with their ids; default: those of the run folder.
    vectors: the index' embedder, such as titan-v2, openai:URL#MODEL, tei:URL or npy:P.npy,Q.npy; default: that of the
    run folder. settings: nested like embedfit.toml. yes: make paid calls without confirmation. options: as in run().
    Raises EmbedfitError.
    """
    runtime = runs.with_consent(runtime or Runtime(), yes)
    prepared = prepare(docs, run=run, vectors=vectors, settings=settings, preset=preset, runtime=runtime, **options)
    return carry_out(prepared, until=options.get("until"), force=options.get("force", False))


def prepare(
    docs: runs.PathLike | Sequence[runs.PathLike],
    *,
    run: runs.PathLike,
    vectors: str | None = None,
    settings: Mapping[str, object] | None = None,
    preset: str | None = None,
    runtime: Runtime,
    **options: Unpack[runs.RunOptions],
) -> runs.Prepared:
    """Check the arguments of an adaptation, which are those of adapt(). Raises EmbedfitError."""
    workspace = Workspace(run)
    given = runs.in_section(settings, "adapt", {} if vectors is None else {"vectors": vectors})
    if preset is None and not workspace.path("embedfit.toml").exists():
        given = {"model": "minilm", **{name: value for name, value in given.items() if value is not None}}
    config = runs.resolved(workspace, docs, runtime, preset=preset, settings=given, **options)
    check(config)
    return runs.Prepared(workspace=workspace, config=config, runtime=runtime)


def carry_out(prepared: runs.Prepared, *, until: str | None = None, force: bool = False) -> Adapted:
    """Do an adaptation, leaving out what is up to date."""
    workspace, config, runtime = prepared.workspace, prepared.config, prepared.runtime
    if pipeline.state(pipeline.stage_named("adapt"), workspace, config) != "fresh":
        refuse_silent_embedder(workspace, config, runtime)
    stages = adapt_stages(writes=config.writes_for_adapt)
    runs.run_config(workspace, config, runtime, until=until, force=force, stages=stages)
    return workspace.load(Adapted)


def plan(prepared: runs.Prepared) -> list[str]:
    """What an adaptation would call and cost, in sentences. It reads the documents, and sends and pays nothing."""
    workspace, config, runtime = prepared.workspace, prepared.config, prepared.runtime
    stages = adapt_stages(writes=config.writes_for_adapt)
    runs.run_config(workspace, config, runtime, until="ingest", stages=stages)
    passages, lines = workspace.read(Passage), []
    if config.writes_for_adapt:
        lines.append(f"Queries of {config.generate.generator}: {_cost_of_queries(workspace, config, runtime)}")
    name = str(config.adapt.vectors)
    if name.startswith(ARRAYS) or not registry.bills(name):
        return [*lines, f"Vectors of {name}: free"]
    with registry.opened_embedders() as opened:
        opened[name] = embedder = registry.open_embedder(name, runtime, run=str(workspace.root.resolve()))
        assert isinstance(embedder, registry.PaidEmbedder)  # it bills
        texts, questions = texts_of(workspace, config, passages)
        lines.append(f"Vectors of passages, {name}: {embedder.estimate(texts, is_query=False)}")
        lines.append(f"Vectors of questions, {name}: {embedder.estimate(questions, is_query=True)}")
    return lines


def _cost_of_queries(workspace: Workspace, config: Config, runtime: Runtime) -> str:
    """What the written queries would cost: the stage is begun, and its question whether to go on is answered by no."""
    if pipeline.state(pipeline.stage_named("generate"), workspace, config) == "fresh":
        return "all are written"
    if not generator(config.generate.generator).bills(config.generate):
        return "free"
    asked: list[str] = []

    def refuse(question: str) -> bool:
        asked.append(question)
        return False

    try:
        with workspace.lock():
            pipeline.run_stage(pipeline.stage_named("generate"), workspace, config, replace(runtime, confirm=refuse))
    except UsageError:
        if not asked:
            raise
    return asked[-1].removeprefix("Go on (").removesuffix(")?") if asked else "no calls: all replies are in the ledger"


def texts_of(workspace: Workspace, config: Config, passages: Sequence[Passage]) -> tuple[list[str], list[str]]:
    """The texts whose vectors an adaptation asks for: passages and questions, each once.

    Queries that are not written yet are counted as texts of the longest length.
    """
    texts, questions = [one.content for one in passages], [text for _, text in asked_texts(config)]
    if config.eval_beir is not None:
        found = read_eval_set(Path(config.eval_beir), "human", passages=passages)
        texts, questions = [*texts, *found.contents], [*questions, *found.queries]
    if config.writes_for_adapt:
        if workspace.has(Query):
            questions += [query.text for query in written(workspace.read(Query)) if query.kept]
        else:
            count = len(plan_of_queries(passages, config.generate, seed=config.seed))
            questions += [f"{n:06} ".ljust(3 * config.generate.max_query_tokens, "x") for n in range(count)]
    return list(dict.fromkeys(texts)), list(dict.fromkeys(questions))


def check(config: Config) -> None:
    """Raise UsageError if no vectors are named, or the preset is offline and they may cost money."""
    vectors = config.adapt.vectors
    if vectors is None:
        raise UsageError(
            "No vectors are named.", remedy="For example: embedfit adapt corpus.jsonl --vectors titan-v2 --run runs/ad"
        )
    if vectors.startswith(ARRAYS):
        if not config.queries:
            raise UsageError(
                "Vectors in files need questions that have vectors too.",
                remedy="Name the file of the questions whose ids QUESTIONS.ids.txt has: --queries FILE",
            )
        return
    if registry.bills(vectors):
        refuse_if_offline(config, f"adapt.vectors={vectors}")


def report_path(run: runs.PathLike) -> Path:
    """The page of an adaptation."""
    return Workspace(run).existing("adapt/report.html")
