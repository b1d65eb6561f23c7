"""The artefact to deploy: a model folder, a prefix in S3 or a model of the hub, checked before anything is made."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedfit.deploy.options import slug
from embedfit.errors import ModelError, UsageError
from embedfit.files.hashes import sha256_file
from embedfit.files.textfiles import Json, json_of
from embedfit.models.architecture import DOCUMENT, QUERY
from embedfit.models.layout.families import FAMILIES
from embedfit.models.layout.files import ADAPTER
from embedfit.models.layout.router import CONFIG as ROUTER
from embedfit.models.layout.towers import tower_folder

#: Endings of files that a server reads; everything else (losses, cards, checkpoints) stays here.
_SERVED = (".json", ".safetensors", ".txt", ".model", ".onnx", ".onnx_data")
_REQUIRED = ("config.json", "tokenizer.json", "model.safetensors")
_GRAPHS = (".onnx", ".onnx_data")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a model folder. key: its path in the folder, with slashes."""

    key: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A model that can be deployed; exactly one of folder, s3_uri and hub_id is set.

    run: the label of the run that it belongs to. sha256: of the files, or of the name if the files are elsewhere.
    state_folder: the folder of the deployment's state. notes: its drawbacks, for people. has_dense: whether a Dense
    changes its vectors after pooling, as in a query map.
    """

    run: str
    sha256: str
    state_folder: Path
    folder: Path | None = None
    files: tuple[ModelFile, ...] = ()
    s3_uri: str | None = None
    hub_id: str | None = None
    notes: tuple[str, ...] = ()
    has_dense: bool = False


def resolve_artefact(model: str, *, aliases: dict[str, str], user_folder: Path, device: str) -> Artefact:
    """The artefact that a name stands for: s3://…, a run folder, a model folder, an alias or a hub id.

    aliases: alias → hub id. user_folder: keeps the state of models that have no folder here.
    Raises ModelError or UsageError, each with a remedy.
    """
    if model.startswith("s3://"):
        return _from_s3(model, user_folder)
    path = Path(model).expanduser()
    if path.is_dir():
        return _from_folder(path, device)
    hub_id = aliases.get(model, model)
    if re.match(r"^[\w.-]+/[\w.-]+$", hub_id) and not model.startswith((".", "/", "~")):
        return Artefact(
            run=slug(hub_id.split("/")[-1]),
            sha256=hashlib.sha256(f"hub:{hub_id}".encode()).hexdigest(),
            state_folder=user_folder / "deploy" / slug(hub_id, 80),
            hub_id=hub_id,
            notes=("The container downloads the model from the Hugging Face hub each time an instance starts.",),
        )
    raise ModelError(
        f"There is no model {model!r}: it is no folder here, no s3:// prefix, no hub id (owner/name) and no alias.",
        remedy=f"Aliases are {', '.join(aliases)}. A run folder or a model folder is given by its path.",
    )


def state_folder_of(model: str, user_folder: Path) -> Path:
    """The folder of the state of a model's deployments, whether or not the model can be deployed (any more)."""
    if model.startswith("s3://"):
        return user_folder / "deploy" / slug(model.removeprefix("s3://"), 80)
    path = Path(model).expanduser()
    # A deleted model folder still has its state beside it or in its run folder: destroy must find that.
    for candidate in _state_candidates(path):
        if candidate.is_dir():
            return candidate
    if path.is_dir():
        return _state_folder(path)
    return user_folder / "deploy" / slug(model, 80)


def run_label(model: str) -> str:
    """The label of the run that a model name belongs to, as its deployments are tagged."""
    if model.startswith("s3://"):
        return slug(model.removeprefix("s3://"))
    path = Path(model).expanduser()
    if path.is_dir() or path.parent.name:
        return slug(run_folder_of(path).resolve().name)
    return slug(model.split("/")[-1])


def _whole(path: Path) -> Path:
    """The model of two towers that a folder is a tower of; the folder itself otherwise."""
    is_tower = path.name in (QUERY, DOCUMENT) and (path.parent / ROUTER).exists()
    return path.parent if is_tower else path


def _state_candidates(path: Path) -> tuple[Path, ...]:
    path = _whole(path)
    return path / "deploy", path.parent / "deploy", path.parent / f"{path.name}.deploy"


def run_folder_of(path: Path) -> Path:
    """The run folder of a model folder, or of a tower's, inside one; the folder itself otherwise."""
    path = _whole(path)
    if (path / "embedfit.toml").exists():
        return path
    return path.parent if (path.parent / "embedfit.toml").exists() else path


def _state_folder(path: Path) -> Path:
    path, run = _whole(path), run_folder_of(path)
    return run / "deploy" if (run / "embedfit.toml").exists() else path.parent / f"{path.name}.deploy"


def _from_s3(uri: str, user_folder: Path) -> Artefact:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if uri.endswith(".tar.gz"):
        raise UsageError(
            f"{uri} is an archive; a prefix with the plain files is deployed (no unpacking at start).",
            remedy="Unpack it under a prefix and give s3://bucket/prefix/",
        )
    if not bucket or not prefix.strip("/"):
        raise UsageError(f"{uri!r} is not a prefix in S3.", remedy="It looks like s3://bucket/path/of/the/model/")
    whole = f"s3://{bucket}/{prefix.rstrip('/')}/"
    return Artefact(
        run=slug(prefix.rstrip("/").rsplit("/", 1)[-1]),
        sha256=hashlib.sha256(whole.encode()).hexdigest(),
        state_folder=user_folder / "deploy" / slug(f"{bucket}/{prefix}", 80),
        s3_uri=whole,
        notes=("The files in S3 are used as they are; they are not uploaded, and destroy leaves them alone.",),
    )


def _from_folder(path: Path, device: str) -> Artefact:
    model = model_folder_of(path)
    folder = query_tower(model)
    problems = tei_problems(folder, device)
    if problems:
        raise ModelError(
            f"Text Embeddings Inference can't load {folder}: {'; '.join(problems)}.",
            remedy="Write the folder with embedfit (merge, or models.folder.save_model): it uses the layout TEI reads.",
        )
    # TEI's ONNX engine runs the graph and pools; it leaves out the Dense, which candle applies.
    without = _GRAPHS if _has_dense(folder) else ()
    files = tuple(
        ModelFile(
            key=file.relative_to(folder).as_posix(), path=file, size=file.stat().st_size, sha256=sha256_file(file)
        )
        for file in sorted(folder.rglob("*"))
        if _is_served(file, folder) and file.suffix not in without
    )
    digest = hashlib.sha256("".join(f"{file.key}\0{file.sha256}\n" for file in files).encode()).hexdigest()
    return Artefact(
        run=slug(run_folder_of(model).resolve().name),
        sha256=digest,
        state_folder=_state_folder(model),
        folder=folder,
        files=files,
        notes=tuple(_notes(model, folder, files, device)),
        has_dense=_has_dense(folder),
    )


def query_tower(model: Path) -> Path:
    """The folder that an endpoint serves: of two towers the one of queries, which search asks."""
    return tower_folder(model, is_query=True) if (model / ROUTER).exists() else model


def _notes(model: Path, folder: Path, files: Sequence[ModelFile], device: str) -> Iterator[str]:
    if folder != model:
        passages = tower_folder(model, is_query=False)
        yield (
            f"The model has two towers. The endpoint gets the one of queries, {folder}. Passages are encoded by the "
            f"other, {passages}: index with it here (embedfit index), or give it an endpoint of its own: "
            f"embedfit deploy sagemaker plan {shlex.quote(str(passages))}"
        )
    elif _whole(folder) != folder:
        texts = "queries" if folder.name == QUERY else "passages"
        yield f"This is one of a model's two towers: the endpoint encodes {texts} alone."
    yield from _other_parts(model)
    if device != "cpu":
        return
    if _has_dense(folder):
        yield (
            "The model has a Dense, which the CPU image's ONNX engine leaves out: its slower engine (candle) runs, and "
            "onnx/model.onnx is not uploaded."
        )
    elif not any(file.key == "onnx/model.onnx" for file in files):
        yield "There is no onnx/model.onnx: the CPU image falls back to its slower engine (candle)."


def _other_parts(model: Path) -> Iterator[str]:
    """Where the parts of the run's retriever run that an endpoint can't compute."""
    path = run_folder_of(model) / "retriever.json"
    chosen = (_json(path) or {}).get("retriever", {}) if path.exists() else {}
    names = [part["name"] for part in chosen.get("parts", ())]
    others = [name for name in names if name not in ("one", "windows", "queries")]
    others += ["tokens (late interaction)"] if chosen.get("rerank") else []
    if not names:
        return
    dense = [name for name in names if name not in others]
    yield (
        f"The run's retriever has the parts {', '.join(dense + others)}. The endpoint computes the vector of a query"
        + (f"; {', '.join(others)} run where the index is" if others else "")
        + f": embedfit serve {shlex.quote(str(run_folder_of(model)))}, or a database (embedfit index --to URL)."
    )


def _has_dense(folder: Path) -> bool:
    modules: list[dict[str, str]] = _json(folder / "modules.json") or []
    return any(str(module.get("type", "")).endswith(".Dense") for module in modules)


def _is_served(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    hidden = parts[0] == ADAPTER or any(part.startswith(".") for part in parts)
    return file.is_file() and file.suffix in _SERVED and not hidden


def model_folder_of(path: Path) -> Path:
    """The model in a folder: for a run folder the one that its evaluation ships, for a model folder itself."""
    if not (path / "embedfit.toml").exists():
        return path
    ship = "merged"
    if (path / "summary.json").exists():
        decided = _json(path / "summary.json").get("decision", {}).get("ship", "merged")
        if decided == "base":
            raise ModelError(
                f"The evaluation in {path} decided to keep the base model: there is nothing of its own to deploy.",
                remedy=f"Deploy the base by its name, or {path / 'merged'} if you want the tuned model all the same.",
            )
        ship = decided if decided in ("merged", "finetuned") else "merged"
    if not (path / ship).is_dir():
        raise ModelError(f"{path / ship} is missing.", remedy=f"Run: embedfit merge --run {path}")
    return path / ship


def tei_problems(folder: Path, device: str = "gpu") -> tuple[str, ...]:
    """The faults that keep Text Embeddings Inference from booting a folder, or from giving the model's vectors.

    device: "cpu" or "gpu".
    TEI up to 1.9.3 wants sentence-transformers' old keys: a folder saved by version 5.4 or later does not boot.
    """
    problems = [f"{name} is missing" for name in _REQUIRED if not (folder / name).is_file()]
    config = _json(folder / "config.json") or {}
    family = FAMILIES.get(str(config.get("model_type")))
    if family is not None:
        has_graph = (folder / "onnx" / "model.onnx").exists() and not _has_dense(folder)
        problem = family.tei_problem(config, device=device, has_graph=has_graph)
        problems += [problem] if problem else []
    modules = _json(folder / "modules.json")
    if modules is None:
        return (*problems, "modules.json is missing, so it would guess the pooling")
    for module in modules:
        if not str(module.get("type", "")).startswith("sentence_transformers.models."):
            problems.append(f"modules.json names the type {module.get('type')!r}, a path it does not know")
            break
    problems += _pooling_problems(folder, modules)
    if (folder / "sentence_bert_config.json").exists():
        if "max_seq_length" not in _json(folder / "sentence_bert_config.json"):
            problems.append("sentence_bert_config.json has no max_seq_length")
    return tuple(problems)


def _pooling_problems(folder: Path, modules: list[dict[str, str]]) -> list[str]:
    path = next((module.get("path") for module in modules if str(module.get("type", "")).endswith(".Pooling")), None)
    if not path:
        return ["modules.json has no Pooling"]
    config = _json(folder / path / "config.json") or {}
    needed = ("word_embedding_dimension", "pooling_mode_cls_token", "pooling_mode_mean_tokens")
    return [f"{path}/config.json has no {key}" for key in needed if key not in config]


def _json(path: Path) -> Json:
    """The JSON object of a file; None if the file is missing."""
    return json_of(path) if path.exists() else None
