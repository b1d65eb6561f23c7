"""The verb `forget`. It takes things out of everything that embedfit keeps of a run, and reports what it can't take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embedfit.commands import runs
from embedfit.commands.indexing import index_run
from embedfit.config import Config
from embedfit.errors import UsageError
from embedfit.files.hashes import Hashes
from embedfit.forgetting.files import Place, leftovers, run_files
from embedfit.forgetting.stores import ledger_rows, vectors
from embedfit.forgetting.target import Named, Target, target_of
from embedfit.index.store.manifest import IN_RUN, is_index, read_manifest
from embedfit.path.artefacts import Passage, Query
from embedfit.path.forgotten import read_forgotten, write_forgotten
from embedfit.path.freshness import freshness, inputs_of, outputs_of
from embedfit.path.stages import stage_named
from embedfit.path.workspace import FILES, Workspace
from embedfit.runtime import Runtime

#: The map that `embedfit adapt` wrote.
QUERY_MAP = "adapt/query_map.safetensors"
#: Stages whose outputs are edited in place. They stay fresh; only later stages run again.
_EDITED = ("ingest", "generate", "mine")
#: Keeps what a command found before it changed anything: the fresh stages, and the models that had seen the target.
_NOTES = ".forgetting.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """The result of forgetting a target.

    places: where it was. models: folders of the run whose models were trained on it. sent: models of providers that
    were sent it. leftovers: files of the run that still hold it. done: False if nothing was changed.
    """

    places: tuple[Place, ...]
    models: tuple[str, ...]
    sent: tuple[str, ...]
    leftovers: tuple[str, ...] = ()
    done: bool = False


def forget(
    run: str | Path,
    *,
    queries: Sequence[str] = (),
    query_ids: Sequence[str] = (),
    files: Sequence[str | Path] = (),
    documents: Sequence[str] = (),
    yes: bool = False,
    runtime: Runtime | None = None,
) -> Forgetting:
    """Take questions and documents out of a run folder, its index, the ledger and the cache of vectors.

    queries: texts; query_ids: ids in queries.jsonl; files: files of questions, as `--queries` reads them; documents:
    ids or paths. yes: delete without asking; else the user sees the places and is asked first. If the command was
    killed, the same command finishes the work. Raises EmbedfitError.
    """
    runtime = runs.with_consent(runtime or Runtime(), yes)
    workspace = Workspace(run)
    config = runs.stored_config(workspace)
    named = Named(queries=queries, query_ids=query_ids, files=[Path(one) for one in files], documents=documents)
    with workspace.lock():
        before = read_forgotten(workspace)
        target = target_of(named, workspace, before)
        again = bool(target.keys & before.queries) or (bool(documents) and not target.passages)
        places, sent = _everywhere(workspace, config, target, runtime, dry=True)
        rebuilt = is_index(workspace.path(IN_RUN))
        models = tuple(sorted({*_models(workspace, target, places), *_begun(workspace)["models"]}))
        found = Forgetting(places=tuple(places), models=models, sent=tuple(sent))
        _say(found, workspace, runtime, rebuilt=rebuilt)
        if not runtime.confirm("Delete it there?"):
            raise UsageError("Nothing was deleted.", remedy="Answer yes, or give --yes.")
        _note(workspace, config, target, models)
        _everywhere(workspace, config, target, runtime, dry=False)
    if rebuilt:
        _rebuild(workspace, runtime)
    with workspace.lock():
        _settle(workspace, config)
    left = tuple(leftovers(workspace, target))
    for line in _after(workspace, models, left, again=again):
        runtime.report.log(line)
    return replace(found, leftovers=left, done=True)


def _everywhere(
    workspace: Workspace, config: Config, target: Target, runtime: Runtime, *, dry: bool
) -> tuple[list[Place], list[str]]:
    """Every place that holds the target. The run's own files come last, because the target is found by them."""
    calls, sent = ledger_rows(runtime.ledger, target, runtime.report, dry=dry)
    return [
        *calls,
        *vectors(config, workspace, target, runtime.vectors, dry=dry),
        *run_files(workspace, target, dry=dry),
    ], sent


def _rebuild(workspace: Workspace, runtime: Runtime) -> None:
    """Build the index of what is left, with the same parts as before; with nothing left it is deleted."""
    manifest = read_manifest(workspace.path(IN_RUN))
    taken_out = set(manifest.made_of.removed)
    if all(passage.document_id in taken_out for passage in workspace.read(Passage)):
        workspace.remove(IN_RUN)
        runtime.report.log(f"forget: no passage is left, so {IN_RUN} is deleted")
        return
    index_run(
        workspace.root,
        tokens="tokens.npy" in manifest.files,
        written=manifest.written is not None,
        runtime=runtime,
    )


def _models(workspace: Workspace, target: Target, places: Sequence[Place]) -> tuple[str, ...]:
    """The models whose training rows hold the target, and a query map, which may have learned from it."""
    trained = any(place.name == "train.jsonl" for place in places)
    maps = (QUERY_MAP,) if target.keys or target.queries or target.passages else ()
    names = (*(("finetuned", "merged") if trained else ()), *maps)
    return tuple(name for name in names if workspace.path(name).exists())


def _begun(workspace: Workspace) -> dict[str, list[str]]:
    """The notes of a killed command, made before it changed anything; empty if no command was killed."""
    return dict(workspace.read_json(_NOTES)) if workspace.path(_NOTES).exists() else {"fresh": [], "models": []}


def _note(workspace: Workspace, config: Config, target: Target, models: Sequence[str]) -> None:
    """Note what is forgotten before anything is deleted. From then on ingest and generate leave it out."""
    fresh = {name for name in _EDITED if freshness(stage_named(name), workspace, config).state == "fresh"}
    begun = _begun(workspace)
    workspace.write_json(
        _NOTES, {"fresh": sorted(fresh | {*begun["fresh"]}), "models": sorted({*models, *begun["models"]})}
    )
    write_forgotten(workspace, target.forgotten)


def _settle(workspace: Workspace, config: Config) -> None:
    """Update the manifests of the stages that were fresh with the hashes of their edited files."""
    hashes = Hashes(workspace.root)
    for name in _begun(workspace)["fresh"]:
        stage, manifest = stage_named(name), workspace.read_manifest(name)
        if manifest is not None:
            inputs = manifest.inputs | inputs_of(stage, workspace, config, hashes)
            outputs = outputs_of(stage, workspace, hashes)
            workspace.write_manifest(replace(manifest, inputs=inputs, outputs=outputs))
    workspace.remove(_NOTES)


def _say(found: Forgetting, workspace: Workspace, runtime: Runtime, *, rebuilt: bool) -> None:
    log = runtime.report.log
    for place in found.places:
        log(f"forget: {place.name}: {place.count:,} {place.unit if place.count != 1 else place.unit[:-1]}")
    if rebuilt:
        log(f"forget: {IN_RUN}: the index is built again if it holds it")
    if not found.places:
        log("forget: none of the files holds it; it is noted, so that it stays out later")
    for one in found.sent:
        log(f"forget: {one} was sent it; only the provider can delete what it keeps")
    log(
        "forget: your own documents and files of questions are not changed. forgotten.json keeps hashes, so that this "
        "run leaves them out when it reads them again. Other run folders are not searched"
    )


def _after(workspace: Workspace, models: Sequence[str], left: Sequence[str], *, again: bool) -> list[str]:
    """The last log lines. again: some of it was forgotten before, so the training rows no longer show its models."""
    lines = []
    if models:
        command = "adapt" if models == (QUERY_MAP,) else "run"
        lines.append(
            f"forget: {' and '.join(models)} were trained on it, and weights can't forget. Train again: embedfit "
            f"{command} --run {workspace.root}. Delete copies that you made of them"
        )
    elif workspace.path("finetuned").exists() and again:
        lines.append("forget: it was forgotten before; which models were trained on it was said then")
    elif workspace.path("finetuned").exists():
        lines.append("forget: no model was trained on it")
    if left:
        lines.append(f"forget: these files still hold it: {', '.join(left)}")
    if workspace.path(FILES[Query]).exists():
        lines.append(f"forget: done. To bring the run's later files up to date: embedfit run --run {workspace.root}")
    else:
        lines.append("forget: done")
    return lines
