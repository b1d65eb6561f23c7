"""The function behind `embedfit adapt`: the stages of an adaptation in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import Unpack

from embedfit.commands import runs
from embedfit.config import ARRAYS, Config, refuse_if_offline
from embedfit.embedders import registry
from embedfit.errors import UsageError
from embedfit.path.artefacts import Adapted
from embedfit.path.stages import adapt_stages
from embedfit.path.workspace import Workspace
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
    workspace = Workspace(run)
    is_new = not workspace.path("embedfit.toml").exists()
    given = dict(settings or {})
    if vectors is not None:
        named = given.get("adapt")
        given["adapt"] = {**(named if isinstance(named, Mapping) else {}), "vectors": vectors}
    if is_new and preset is None:
        given = {"model": "minilm", **{name: value for name, value in given.items() if value is not None}}
    runtime = runs.with_consent(runtime or Runtime(), yes)
    resolved = runs.resolved(workspace, docs, runtime, preset=preset, settings=given, **options)
    check(resolved)
    runs.run_config(
        workspace,
        resolved,
        runtime,
        until=options.get("until"),
        force=options.get("force", False),
        stages=adapt_stages(writes=resolved.writes_for_adapt),
    )
    return workspace.load(Adapted)


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
