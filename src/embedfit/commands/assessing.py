"""The function behind `embedfit assess`: documents, models and questions → what to build, before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import Unpack

from embedfit.assessing.stage import check
from embedfit.commands import runs
from embedfit.generators import generator
from embedfit.path import pipeline
from embedfit.path.artefacts import Assessed, Passage
from embedfit.path.stages import ASSESSING
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime


def assess(
    docs: runs.PathLike | Sequence[runs.PathLike] = (),
    *,
    run: runs.PathLike,
    models: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    preset: str | None = None,
    yes: bool = False,
    runtime: Runtime | None = None,
    **options: Unpack[runs.RunOptions],
) -> Assessed:
    """Compare untrained models and retrievers on documents. `embedfit run --run DIR` goes on in the same folder.

    models: the models to compare; the first is the run's. preset: "offline" if none is named for a new folder. Other
    arguments are as in run(). Raises EmbedfitError.
    """
    runtime = runs.with_consent(runtime or Runtime(), yes)
    prepared = prepare(docs, run=run, models=models, settings=settings, preset=preset, runtime=runtime, **options)
    return carry_out(prepared, until=options.get("until"), force=options.get("force", False))


def prepare(
    docs: runs.PathLike | Sequence[runs.PathLike],
    *,
    run: runs.PathLike,
    models: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    preset: str | None = None,
    runtime: Runtime,
    **options: Unpack[runs.RunOptions],
) -> runs.Prepared:
    """Check the arguments of an assessment, which are those of assess()."""
    workspace = Workspace(run)
    given = runs.in_section(settings, "assess", {"models": list(models)} if models else {})
    if models:
        given["model"] = models[0]
    if preset is None and not workspace.path("embedfit.toml").exists():
        preset = "offline"
    config = runs.resolved(workspace, docs, runtime, preset=preset, settings=given, **options)
    check(config)
    return runs.Prepared(workspace=workspace, config=config, runtime=runtime)


def carry_out(prepared: runs.Prepared, *, until: str | None = None, force: bool = False) -> Assessed:
    """Do an assessment, leaving out what is up to date."""
    workspace = prepared.workspace
    runs.run_config(workspace, prepared.config, prepared.runtime, until=until, force=force, stages=ASSESSING)
    return workspace.load(Assessed)


def plan(prepared: runs.Prepared) -> list[str]:
    """What an assessment would do and pay for, in sentences. It reads the documents and asks no model."""
    workspace, config = prepared.workspace, prepared.config
    runs.run_config(workspace, config, prepared.runtime, until="ingest", stages=ASSESSING)
    passages = len(workspace.read(Passage))
    named = [config.model, *(one for one in config.assess.models if one != config.model)]
    lines = [f"{len(named)} models encode {passages:,} passages and their windows: {', '.join(named)}"]
    if pipeline.state(ASSESSING[1], workspace, config) == "fresh":
        return [*lines, "Everything is up to date."]
    if config.eval_beir is not None:
        return [*lines, "The questions and answers of --eval-beir assess: no language model is asked."]
    if config.queries:
        judge = config.choose.judge
        lines.append(
            f"Up to {config.choose.questions} of people's questions assess"
            + (f", whose results {judge} grades." if judge else ", if the file names their answers.")
        )
    writer = config.generate.generator
    free = "free" if not generator(writer).bills(config.generate) else "it asks before it pays, and --max-cost holds"
    lines.append(f"Otherwise {writer} writes about {config.assess.questions} questions ({free}).")
    return lines
