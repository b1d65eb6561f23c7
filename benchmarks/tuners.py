"""What recipe_vs_peers.py compares: recipes of embedfit, and the trainers of FlagEmbedding and sentence-transformers.

Each leaves a model folder like the base's, of which all start. Scripts of peers/ do the work in a process of their own,
whose peak memory is measured, and peers have an environment of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from train_throughput import FLAG, SBERT, SEED, Environment

from embedfit.config import Config, resolve
from embedfit.models.encoder import Encoder, load_base
from embedfit.models.folder import read_tensors, save_model
from embedfit.numerics.machine import best_precision

HERE = Path(__file__).resolve().parent
#: Rooms of the source whose code decides a tuned model.
TUNING = ("mining", "teaching", "training", "merging", "models", "numerics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is trained. rows, passages: at most, for all systems; 0: all. steps: of all systems; 0: their own.

    epochs: the peers'. group, batch: FlagEmbedding's; group: passages of a row.
    """

    rows: int = 512
    passages: int = 0
    steps: int = 0
    epochs: int = 1
    group: int = 4
    batch: int = 16


QUICK = Effort(rows=64, passages=80, steps=4, group=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A corpus' training material. source: a run folder whose kept train queries are the rows."""

    name: str
    source: Path
    config: Config
    rows: list[dict[str, Any]]
    pool: list[str]
    effort: Effort

    @property
    def max_tokens(self) -> int:
        """Where every system cuts a text."""
        return min(self.base.layout.max_tokens, 512)

    @property
    def base(self) -> Encoder:
        """The model that all systems start from."""
        return load_base(self.config.model, self.config.query_instruction)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Something that tunes.

    tune(job, work, python) leaves a model folder at work/model and returns what its scripts say. decides: what, beside
    the rows, decides its model. scripts: of peers/.
    """

    name: str
    tune: Callable[[Job, Path, str], dict[str, Any]]
    scripts: tuple[str, ...]
    decides: Callable[[Effort], object]
    environment: Environment | None = None


def code(rooms: Sequence[str]) -> str:
    """A hash of the source of packages: other code, other outcome."""
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted((HERE.parent / "src" / "embedfit" / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def run(python: str, script: str, spec: Mapping[str, object], work: Path) -> dict[str, Any]:
    """Run a script of peers/ with its spec. Returns its result, with peak_mb of its process.

    Raises CalledProcessError after printing the last lines of what it said.
    """
    paths = work / f"{script}.spec.json", work / f"{script}.result.json"
    paths[0].write_text(json.dumps(spec), "utf-8")
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [python, str(HERE / "peers" / script), *map(str, paths)]
    log = work / "log.txt"
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=work)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print("\n".join(log.read_text("utf-8", "replace").splitlines()[-15:]), flush=True)
        raise subprocess.CalledProcessError(process.returncode, command)
    found: dict[str, Any] = json.loads(paths[1].read_text("utf-8")) if paths[1].exists() else {}
    return {**found, "peak_mb": usage.ru_maxrss >> 10}


def embedfit(name: str, preset: str, settings: Mapping[str, Any]) -> System:
    """A recipe of embedfit."""

    def settings_of(effort: Effort, rows: int = 0) -> dict[str, Any]:
        chosen = {"model": "minilm", "query_instruction": "", "seed": SEED, **settings}
        batch = resolve(preset=preset, overrides=chosen).train.batch_size
        if effort.steps and rows:
            epochs = effort.steps / -(-rows // batch)
            chosen = {**chosen, "train": {**settings.get("train", {}), "epochs": epochs}}
        return chosen

    def tune(job: Job, work: Path, python: str) -> dict[str, Any]:
        chosen = settings_of(job.effort, len(job.rows))
        spec = {"source": str(job.source), "out": str(work / "run"), "preset": preset, "settings": chosen}
        found = run(python, "tune_embedfit.py", spec, work)
        (work / "run" / "merged").rename(work / "model")
        shutil.rmtree(work / "run")
        alpha = "" if found["alpha"] is None else f", α {found['alpha']:g}"
        return {"peak_mb": found["peak_mb"], "note": f"ships {found['ship']}{alpha}"}

    def decides(effort: Effort) -> object:
        config = resolve(preset=preset, overrides=settings_of(effort))
        return [config.model_dump(mode="json", include={"model", "mine", "train", "merge", "seed"}), code(TUNING)]

    return System(name=name, tune=tune, scripts=("tune_embedfit.py",), decides=decides)


#: What the preset "default" was in the first edition: one model for queries and passages, InfoNCE, mined negatives.
FIRST_EDITION: dict[str, dict[str, Any]] = {
    "mine": {"negatives": 4, "depth": 50, "max_relative_score": 0.95, "teacher": "none"},
    "train": {
        "loss": "infonce",
        "tune": "both",
        "hard_negatives": 4,
        "temperature": 0.05,
        "dropout": 0.0,
        "keep": "best",
    },
    "merge": {"max_alpha": 0.5, "steps": 2},
}


def save_as_base(job: Job, trained: Path, out: Path) -> None:
    """A peer's weights in a folder that is otherwise the base's."""
    base = job.base
    own = read_tensors(base.folder)
    tensors = {key.removeprefix("bert."): tensor for key, tensor in read_tensors(trained).items()}
    save_model(out, {key: tensors[key] for key in own if key in tensors}, base=base.folder, layout=base.layout)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def tune_flagembedding(job: Job, work: Path, python: str) -> dict[str, Any]:
    """Mine as hn_mine does, then run FlagEmbedding's trainer."""
    effort, base = job.effort, job.base
    common = {"model": str(base.folder), "pooling": base.layout.pooling.name, "seed": SEED, "device": device()}
    mining = {
        **common,
        "rows": str(written(job, work)),
        "pool": str(work / "pool.json"),
        "mined": str(work / "mined.jsonl"),
        "max_tokens": job.max_tokens,
        "range": (3, 200),
        "negatives": 15,
    }
    mined = run(python, "mine_flagembedding.py", mining, work)
    # Its own scripts have half precision, which it can't use on a CPU, and gradient checkpointing, which makes a step
    # longer and changes no result.
    training = {
        **common,
        "rows": str(work / "mined.jsonl"),
        "out": str(work / "trained"),
        "steps": effort.steps or effort.epochs * (len(job.rows) // effort.batch),
        "batch": effort.batch,
        "group": effort.group,
        "query_tokens": job.max_tokens,
        "passage_tokens": job.max_tokens,
        "temperature": 0.02,
        "learning_rate": 1e-5,
        "drop_last": True,
        "best": True,
        "bf16": best_precision() == "bf16",
    }
    found = run(python, "train_flagembedding.py", training, work)
    save_as_base(job, work / "trained", work / "model")
    return {"peak_mb": max(found["peak_mb"], mined["peak_mb"]), "note": f"{len(found['seconds'])} steps"}


def tune_sentence_transformers(job: Job, work: Path, python: str) -> dict[str, Any]:
    """Pairs alone, as its training overview has it."""
    batch = 16
    spec = {
        "model": str(job.base.folder),
        "rows": str(written(job, work)),
        "out": str(work / "trained"),
        "steps": job.effort.steps or job.effort.epochs * -(-len(job.rows) // batch),
        "batch": batch,
        "group": 1,
        "passage_tokens": job.max_tokens,
        "temperature": 0.05,
        "learning_rate": 2e-5,
        "seed": SEED,
        "best": True,  # no duplicates in a batch
        "cached": False,
        "bf16": best_precision() == "bf16",
        "device": device(),
    }
    found = run(python, "train_sentence_transformers.py", spec, work)
    save_as_base(job, work / "trained", work / "model")
    return {"peak_mb": found["peak_mb"], "note": f"{len(found['seconds'])} steps"}


def written(job: Job, work: Path) -> Path:
    """The rows of a job as the lines that peers read, beside all its train passages."""
    (work / "pool.json").write_text(json.dumps(job.pool), "utf-8")
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in job.rows), "utf-8")
    return work / "rows.jsonl"


SYSTEMS = (
    embedfit("default", "default", {}),
    embedfit("infonce", "default", FIRST_EDITION),
    embedfit("aws-blog", "aws-blog", {}),
    System(
        name="FlagEmbedding",
        tune=tune_flagembedding,
        scripts=("mine_flagembedding.py", "train_flagembedding.py"),
        decides=lambda effort: [effort.steps, effort.epochs, effort.group, effort.batch, FLAG.requirements],
        environment=FLAG,
    ),
    System(
        name="sentence-transformers",
        tune=tune_sentence_transformers,
        scripts=("train_sentence_transformers.py",),
        decides=lambda effort: [effort.steps, effort.epochs, SBERT.requirements],
        environment=SBERT,
    ),
)
