"""Every family of models beside sentence-transformers: the same vectors, and how fast it encodes, trains and is served.

    python benchmarks/model_families.py                       # all families
    python benchmarks/model_families.py --families bert qwen3
    python benchmarks/model_families.py --quick               # tiny models, three families, no file

Each model is random, of MiniLM's size (6 layers of 384 numbers), and saved by sentence-transformers in the family's
real layout, so no hub is needed. The texts have lognormal lengths up to 128 tokens. Writes the table to
benchmarks/results/model_families.json after each family; the same command again goes on with those that the file lacks
(--anew: with none). tok/s are tokens without padding a second
of the process' own CPU time, in fp32 and one thread, so that other work on the machine hardly counts.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from train_throughput import HERE, machine

sys.path.insert(0, str(HERE.parent))
from embedfit.errors import EmbedfitError
from embedfit.files.atomic import atomic_file
from embedfit.models.architecture import Architecture
from embedfit.models.encoder import Encoder
from embedfit.models.layout.files import read_json
from embedfit.models.layout.proof import compare_with_sentence_transformers
from embedfit.models.layout.reading import read_architecture
from embedfit.serving.engines.choice import candidates
from embedfit.serving.engines.warmup import tokens_a_second
from embedfit.serving.settings import ServeSettings
from embedfit.training.batches import micro_batches
from embedfit.training.memory import MemoryBudget, keep_heap
from embedfit.training.step import accumulate_gradients
from embedfit.training.trunk import Trunk
from tests.models.tiny_families import FAMILIES, save_family, save_static, two_dense

WIDTH, WINDOW = 384, 128
SIZES = {
    "hidden_size": WIDTH, "d_model": WIDTH, "dim": WIDTH, "num_hidden_layers": 6, "n_layers": 6, "num_layers": 6,
    "num_attention_heads": 12, "n_heads": 12, "num_heads": 12, "num_key_value_heads": 6, "head_dim": 32, "d_kv": 32,
    "intermediate_size": 1536, "hidden_dim": 1536, "d_ff": 1536, "max_position_embeddings": 514,
    "local_attention": 128, "sliding_window": 128, "embedding_size": 128,
}  # fmt: skip
QUICK = SIZES | {
    "hidden_size": 64, "d_model": 64, "dim": 64, "num_hidden_layers": 2, "n_layers": 2, "num_layers": 2,
    "num_attention_heads": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "d_kv": 16,
    "intermediate_size": 128, "hidden_dim": 128, "d_ff": 128, "embedding_size": 32,
}  # fmt: skip
#: Facts of a machine in which rows of one table agree.
_MACHINE = ("cpu", "cores", "torch", "transformers")
ENGINES = ("openvino", "onnx", "torch")


def main() -> None:
    """Measure the families that were asked for; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*FAMILIES, "static"]
    parser.add_argument("--families", nargs="+", choices=known, metavar="FAMILY", help="default: all")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="tiny models of three families; no file is written")
    parser.add_argument("--anew", action="store_true", help="measure again what the file has")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "model_families.json")
    options = parser.parse_args()
    keep_heap()
    torch.set_num_threads(1)
    texts, sizes = made_texts(options.texts), QUICK if options.quick else SIZES
    families = options.families or (["bert", "gemma3_text", "static"] if options.quick else known)
    about = {"machine": machine(), "sizes": sizes, "texts": len(texts)}
    found = {} if options.quick or options.anew else measured_before(options.out, about)
    print(f"{'family':24}{'cosine':>10}{'encode tok/s':>14}{'(theirs)':>10}{'train tok/s':>13}  engines; TEI")
    options.out.parent.mkdir(exist_ok=True)
    for family in families:
        if family not in found:
            with tempfile.TemporaryDirectory() as name:
                found[family] = measured(family, Path(name) / family.replace(", ", "-"), texts, sizes)
        print(line(found[family]), flush=True)
        if not options.quick:
            report = about | {"families": [found[name] for name in known if name in found]}
            with atomic_file(options.out) as file:
                file.write(json.dumps(report, indent=1) + "\n")
    print(f"{len(families)} families" + ("" if options.quick else f", written to {options.out}"))


def measured_before(path: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a file by family; none of a file that was measured on other texts or sizes, or elsewhere."""
    report = json.loads(path.read_text("utf-8")) if path.exists() else {}
    machines = [{name: one.get("machine", {}).get(name) for name in _MACHINE} for one in (report, about)]
    same = machines[0] == machines[1] and all(report.get(name) == about[name] for name in ("sizes", "texts"))
    return {row["family"]: row for row in report["families"]} if same else {}


def made_texts(count: int) -> list[str]:
    """Random letters, as many as a text has tokens: of lognormal lengths, 4 to the window."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.7, 0.8, count), 4, WINDOW - 4).astype(int)
    return ["".join(rng.choice(list("abcdefgh "), length)) + "." for length in lengths]


def measured(family: str, folder: Path, texts: list[str], sizes: dict[str, int]) -> dict[str, Any]:
    """One row of the table."""
    if family == "static":
        save_static(folder)
    else:
        after = partial(two_dense, sizes["hidden_size"]) if family == "gemma3_text" else None
        layers = ["sliding_attention", "full_attention"] * (sizes["num_hidden_layers"] // 2)
        save_family(family, folder, sizes={**sizes, "layer_types": layers}, after=after, max_seq_length=WINDOW)
    layout = read_architecture(folder)
    encoder = Encoder.load(folder, precision="fp32")
    same = compare_with_sentence_transformers(encoder, [*texts, "tab\tand ﬁ İ 東京 🙂", "long " * 200])
    theirs = SentenceTransformer(str(folder), device="cpu")
    tokens = sum(map(len, encoder.token_ids(texts)))
    config = read_json(folder / "config.json", optional=True)
    tei = {device: layout.family.tei_problem(config, device=device, has_graph=False) for device in ("cpu", "gpu")}
    graph = layout.family.tei_problem(config, device="cpu", has_graph=layout.family.exports)
    return {
        "family": family,
        "name": layout.family.name,
        "least_cosine": round(same.least_cosine, 7),
        "largest_difference": same.difference,
        "encode_tokens_per_second": rate(lambda: encoder.encode(texts), tokens),
        "sentence_transformers_tokens_per_second": rate(
            lambda: theirs.encode(texts, batch_size=32, show_progress_bar=False), tokens
        ),
        "train_tokens_per_second": None if family == "static" else train_rate(encoder, texts),
        "engines": {name: engine_rate(folder, layout, name) for name in ENGINES},
        "tei": {**tei, "cpu with onnx/model.onnx": graph},
    }


def rate(work: Callable[[], object], tokens: int) -> int:
    """Tokens a second of CPU time, the better of two runs."""
    seconds = []
    for _ in range(2):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return round(tokens / min(seconds))


def train_rate(encoder: Encoder, texts: list[str]) -> int:
    """Tokens a second of training steps: each text is a query and the next one its passage."""
    rows = [np.array(ids, np.int32) for ids in encoder.token_ids(texts)]
    trunk, half = Trunk(encoder), len(rows) // 2
    runs = micro_batches(np.array([len(row) for row in rows]), 4096)

    def loss(vectors: torch.Tensor) -> torch.Tensor:
        scores = vectors[:half] @ vectors[half : 2 * half].T / 0.05
        return torch.nn.functional.cross_entropy(scores, torch.arange(half))

    memory = MemoryBudget(2 << 30, trunk.weights())
    return rate(lambda: accumulate_gradients(trunk, rows, runs, loss, memory=memory), sum(map(len, rows)))


def engine_rate(folder: Path, layout: Architecture, name: str) -> int | str:
    """Tokens a second of an engine, or why it can't run the model."""
    try:
        settings = ServeSettings(engine=name, precision="fp32")
        engine = candidates(folder, layout, settings, threads=1, gated=False)[0].load()
    except EmbedfitError as error:
        return f"{error.message} {error.remedy}".replace(str(folder), "FOLDER")
    return round(tokens_a_second(engine, layout.max_tokens, time.process_time))


def line(row: dict[str, Any]) -> str:
    """A row of the table, for people."""
    engines = [
        f"{name} {value:,}" if isinstance(value, int) else f"no {name}" for name, value in row["engines"].items()
    ]
    cpu, gpu, graph = row["tei"].values()
    tei = "TEI" if not cpu else "TEI with a graph" if not graph else "TEI on GPUs" if not gpu else "no TEI"
    train = row["train_tokens_per_second"]
    return (
        f"{row['family']:24}{row['least_cosine']:10.7f}{row['encode_tokens_per_second']:14,}"
        f"{row['sentence_transformers_tokens_per_second']:10,}{f'{train:,}' if train else '-':>13}  "
        f"{', '.join(engines)}; {tei}"
    )


if __name__ == "__main__":
    main()
