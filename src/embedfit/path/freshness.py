"""Tells whether a stage's outputs come from its present inputs, settings and code, and if not, why not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from embedfit.config import ARRAYS, RECORDED, Config, array_files, decides_result, fields, path_kind, setting
from embedfit.corpus.sources.discover import discover
from embedfit.embedders.arrays import ids_file
from embedfit.files.atomic import is_temporary
from embedfit.files.beir import beir_files
from embedfit.files.hashes import Hashes, files_below
from embedfit.generators import generator
from embedfit.models.sources import EMBEDDERS
from embedfit.models.store.content import model_files
from embedfit.path.artefacts import Manifest, Query
from embedfit.path.forgotten import read_forgotten
from embedfit.path.stages import EVERY, STAGES, Stage, adapt_stages
from embedfit.path.workspace import FILES, Workspace, passages_of_model, written_sha256

State = Literal["fresh", "stale", "partial", "missing"]

#: Stands in place of a hash.
ABSENT = "absent"
_MOST_REASONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """The state of a stage. why: why it is not fresh, in a sentence; empty for a fresh one."""

    state: State
    why: str = ""


def freshness(stage: Stage, workspace: Workspace, config: Config) -> Freshness:
    """Compare a stage's manifest with its inputs, settings, code and outputs as they are now."""
    manifest = workspace.read_manifest(stage.name)
    if manifest is None:
        if workspace.has_scratch(stage.name):
            return Freshness(state="partial", why="it began and did not end")
        if any(workspace.path(name).exists() for name in stage.writes):
            return Freshness(state="partial", why="its files are there, but nothing says that they are whole")
        return Freshness(state="missing", why="it has not run yet")
    reasons = list(_reasons(stage, manifest, workspace, config))
    return Freshness(state="stale", why=_listed(reasons)) if reasons else Freshness(state="fresh")


def all_freshness(workspace: Workspace, config: Config) -> dict[str, Freshness]:
    """The freshness of the folder's stages. A stage after one that is not fresh is at best stale."""
    result: dict[str, Freshness] = {}
    for stages in _pipelines(workspace, config):
        first = ""
        for stage in stages:
            now = result.get(stage.name) or freshness(stage, workspace, config)
            if first and now.state == "fresh":
                now = Freshness(state="stale", why=f"{first} comes before it and is not fresh")
            first = first or (stage.name if now.state != "fresh" else "")
            result[stage.name] = now
    return result


def _pipelines(workspace: Workspace, config: Config) -> Iterator[tuple[Stage, ...]]:
    """The stages of `embedfit run`, and those of `embedfit adapt` in a folder where it ran."""
    adapts = config.adapt.vectors is not None
    later = [stage for stage in STAGES if stage.name not in ("ingest", "generate")]
    if not adapts or any(workspace.path(f"{stage.name}.manifest.json").exists() for stage in later):
        yield STAGES
    if adapts:
        yield adapt_stages(writes=config.writes_for_adapt)


# --- what a stage depends on


def settings_of(stage: Stage, workspace: Workspace, config: Config) -> dict[str, JsonValue]:
    """The settings that decide a stage's result, by dotted name, as JSON values.

    Paths of documents and models are in the form in which a run folder keeps them. Other paths are left out, because
    only the content of their files matters.
    """
    found: dict[str, JsonValue] = {}
    for key in _keys_of(stage, config):
        kind, value = path_kind(key), setting(config, key)
        if kind == "documents":
            found[key] = [workspace.stored_path(name) for name in value]
        elif kind == "model" and isinstance(value, str):
            path = model_path(key, value, config)
            found[key] = workspace.stored_path(path) if path else value
        elif kind == "spec" and isinstance(value, str) and value.startswith(RECORDED):
            found[key] = RECORDED
        elif kind == "vectors" and isinstance(value, str):
            path = None if value.startswith(ARRAYS) else model_path(key, value, config)
            found[key] = ARRAYS if value.startswith(ARRAYS) else workspace.stored_path(path) if path else value
        elif kind not in ("beir", "file") and decides_result(key):
            found[key] = value
    return found | {f"{key} is given": bool(setting(config, key)) for key in stage.given}


def _keys_of(stage: Stage, config: Config) -> list[str]:
    parts = (*stage.settings, *(stage.with_questions if config.queries else ()))
    return [key for key in fields() if any(key == part or key.startswith(f"{part}.") for part in parts)]


def inputs_of(stage: Stage, workspace: Workspace, config: Config, hashes: Hashes) -> dict[str, str]:
    """The stage's inputs: name → SHA-256 of the file, or words that say why it has none."""
    found = files_of_run((*stage.reads, *stage.may_read, *stage.brought), workspace, hashes)
    queries = workspace.path(FILES[Query])
    if stage.written_alone and queries.exists():
        found[queries.name] = written_sha256(queries)
    for name in stage.models:
        found |= _of_files(name, model_files(workspace.path(name)), hashes)
    for key in _keys_of(stage, config):
        found |= _outside(key, workspace, config, hashes)
    if stage.name == "ingest" and (last := passages_of_model(config.model)) is not None:
        found["model: passages.jsonl of its run"] = hashes.of(last)
    return found


def files_of_run(names: Iterable[str], workspace: Workspace, hashes: Hashes) -> dict[str, str]:
    """SHA-256 of files in the run folder. A folder's files are listed one by one."""
    found: dict[str, str] = {}
    for name in names:
        found |= _of_tree(workspace.path(name), name, hashes)
    return found


def outputs_of(stage: Stage, workspace: Workspace, hashes: Hashes) -> dict[str, str]:
    """The stage's outputs: name → SHA-256. Files that another stage adds to a folder are left out."""
    others = {name for other in EVERY if other.name != stage.name for name in other.writes}
    found = files_of_run((*stage.writes, *stage.may_write), workspace, hashes)
    return {name: value for name, value in found.items() if name not in others}


def _of_tree(path: Path, name: str, hashes: Hashes) -> dict[str, str]:
    if path.is_dir():
        files = [(inner, file) for inner, file in files_below(path) if not is_temporary(file.name)]
        return _of_files(name, files, hashes)
    return {name: hashes.of(path) if path.exists() else ABSENT}


def _of_files(name: str, files: Iterable[tuple[str, Path]], hashes: Hashes) -> dict[str, str]:
    return {f"{name}/{inner}": hashes.of(file) for inner, file in files} or {name: ABSENT}


def _outside(key: str, workspace: Workspace, config: Config, hashes: Hashes) -> dict[str, str]:
    """The files outside the run folder that a setting names."""
    kind, value = path_kind(key), setting(config, key)
    if kind is None or not value:
        return {}
    names = [value] if isinstance(value, str) else [str(item) for item in value]
    if kind == "spec":
        names = [name.removeprefix(RECORDED) for name in names if name.startswith(RECORDED)]
    if kind == "vectors":
        if str(value).startswith(ARRAYS):
            names = [str(file) for one in array_files(str(value)) for file in (one, ids_file(Path(one)))]
        else:
            kind = "model"
    if kind == "documents":
        return {f"{key}: {name}": known for name, known in _documents(names, workspace, config, hashes)}
    found: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        path = model_path(key, name, config) if kind == "model" else Path(name)
        if path is None:
            continue  # a name at a provider or on the hub
        files = (
            model_files(path)
            if kind == "model"
            else beir_files(path).items()
            if kind == "beir"
            else [(path.name if len(names) == 1 else f"{path.name} ({number})", path)]
        )
        found |= {f"{key}: {inner}": hashes.of(file) if file.exists() else ABSENT for inner, file in files}
    return found


def _documents(names: list[str], workspace: Workspace, config: Config, hashes: Hashes) -> Iterator[tuple[str, str]]:
    """(stored path, hash) of every file that ingest reads. A file that it skips has the reason in place of a hash."""
    there = [name for name in names if os.path.exists(name)]
    sources = discover(there, follow_links=config.ingest.follow_links)
    forgotten = read_forgotten(workspace)
    for source in sources:
        if forgotten.has_document(source.document_id):
            continue
        if forgotten.contents and not source.problem and hashes.of(source.path) in forgotten.contents:
            continue
        yield source.stored_path(workspace), f"not read: {source.problem}" if source.problem else hashes.of(source.path)


def model_path(key: str, name: str, config: Config) -> Path | None:
    """The folder or file of a model that a setting names, or None for an alias, a hub id or a provider's model."""
    if key == "generate.llm" and not generator(config.generate.generator).reads_files:
        return None
    if key in ("evaluate.systems", "adapt.vectors"):
        name = name.partition("|")[0].removeprefix("hybrid:")
    if name in EMBEDDERS or (key == "generate.judge" and name == "llm"):
        return None
    path = Path(name).expanduser()
    return path if path.exists() else None


# --- why it is stale


def _reasons(stage: Stage, manifest: Manifest, workspace: Workspace, config: Config) -> Iterator[str]:
    if manifest.settings is None:
        yield f"it was made by embedfit {manifest.code}, which kept no list of the settings and files that it used"
        return
    if manifest.code != str(stage.version):
        yield f"embedfit's code for it gives other results now (version {manifest.code}, now {stage.version})"
    yield from _changed_settings(manifest.settings, settings_of(stage, workspace, config))
    if manifest.stopped_at is not None and (
        config.generate.max_cost is None or config.generate.max_cost > manifest.stopped_at
    ):
        yield f"--max-cost ended it at ${manifest.stopped_at:,.2f} and allows more now"
    hashes = Hashes(workspace.root)
    inputs = inputs_of(stage, workspace, config, hashes) | files_of_run(manifest.opened, workspace, hashes)
    yield from _changed_files(manifest.inputs, inputs)
    yield from _changed_files(manifest.outputs, outputs_of(stage, workspace, hashes))
    hashes.keep()


def _changed_settings(before: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> Iterator[str]:
    """Sentences on changed settings. A setting that the manifest lacks is newer, so its default was in force."""
    for key, value in now.items():
        old = before[key] if key in before else fields()[key].default if key in fields() else None
        if _json(old) != _json(value):
            yield f"{key} was {_json(old)} and is {_json(value)}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, ABSENT), now.get(name, ABSENT)
        if old != new:
            shown = name.removeprefix("docs: ").removeprefix("eval_docs: ").replace("\n", "\\n")
            yield f"{shown} {'is new' if old == ABSENT else 'is gone' if new == ABSENT else 'has changed'}"


def _listed(reasons: list[str]) -> str:
    more = len(reasons) - _MOST_REASONS
    return "; ".join(reasons[:_MOST_REASONS]) + (f"; and {more:,} more" if more > 0 else "")
