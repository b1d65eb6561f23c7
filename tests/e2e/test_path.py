"""The whole path with a scripted writer and a tiny model: files in, a whole run folder out; fresh, stale, resumed."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from embedfit.commands.indexing import index_run
from embedfit.config import Config, resolve, save
from embedfit.errors import CheckFailed, EmbedfitError
from embedfit.files.beir import read_beir
from embedfit.llm.protocol import Request
from embedfit.models.store.vectors import VectorStore
from embedfit.numerics.machine import encoding_precision
from embedfit.path.pipeline import STAGES, check_order, run_all, states
from embedfit.path.workspace import Workspace
from embedfit.retrieval.metrics import judge, score
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel

ANIMALS = ("otter", "heron", "badger", "lynx", "viper", "moth", "trout", "crane", "mole", "finch")
PLACES = ("river", "marsh", "forest", "ridge", "desert", "lamp", "lake", "field", "burrow", "hedge")


def documents(folder: Path) -> Path:
    folder.mkdir()
    for animal, place in zip(ANIMALS, PLACES, strict=True):
        parts = [
            f"# The {animal}\n\nThe {animal} lives near the {place} for most of the year and is rarely seen by day.\n",
            f"## Food\n\nAt night the {animal} leaves the {place} to look for food, mostly small insects and seeds.\n",
            f"## Young\n\nIn spring the {animal} raises two to four young, hidden deep in the {place}, until June.\n",
            f"## Danger\n\nFloods, roads and dogs are what a {animal} has to fear when its {place} is disturbed.\n",
        ]
        (folder / f"{animal}.md").write_text("\n".join(parts))
    return folder


def write_query(request: Request) -> str:
    text = request.messages[-1].content
    animal = next(animal for animal in ANIMALS if animal in text)
    part = next((word for word in ("food", "young", "fear") if word in text), "live")
    style = text.rsplit("Write: ", 1)[-1].split()[0].lower()
    return f"{style} about what the {animal} does: {part}"


@pytest.fixture(scope="module")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Config, Runtime, FakeModel]:
    root = tmp_path_factory.mktemp("path")
    config = resolve(
        preset="offline",
        overrides={
            "docs": [str(documents(root / "docs"))],
            "model": str(tiny_bert),
            "train": {"epochs": 1, "batch_size": 8},
            "merge": {"steps": 2},
            "evaluate": {"bootstrap": 100},
            "generate": {"round_trip_k": 0},
        },
    )
    workspace, model = Workspace(root / "run"), FakeModel(write_query)
    vectors = VectorStore(root / "vectors")
    runtime = Runtime(ledger=root / "ledger.sqlite", vectors=vectors, language_model=model)
    try:
        run_all(workspace, config, runtime)
    except CheckFailed:
        pass  # a random model may well fail the check; everything after it must be there all the same
    return workspace, config, runtime, model


def test_every_file_of_the_contract_is_there(finished: tuple[Workspace, Config, Runtime, FakeModel]) -> None:
    workspace = finished[0]
    for name in (
        "documents.jsonl", "passages.jsonl", "queries.jsonl", "train.jsonl", "eval/corpus.jsonl", "eval/queries.jsonl",
        "eval/qrels/test.tsv", "finetuned/model.safetensors", "merged/README.md", "query_map.safetensors",
        "finetuned/embedfit.json", "merged/embedfit.json",
        "merge.json", "check.json", "scores.jsonl", "summary.json", "report.html", "train.manifest.json",
    ):  # fmt: skip
        assert workspace.path(name).exists(), name
    assert not workspace.path(".partial").exists()


def test_the_summary_has_the_contract_s_keys(finished: tuple[Workspace, Config, Runtime, FakeModel]) -> None:
    summary = json.loads(finished[0].path("summary.json").read_text())
    assert summary["schema"] == 1
    assert {"base", "finetuned", "merged", "bm25", "hybrid_base", "hybrid_merged"} <= set(summary["systems"])
    assert {"rrf", "default_base", "default", "chosen"} <= set(summary["systems"])
    metrics = {
        "hit@1",
        "hit@3",
        "hit@5",
        "hit@10",
        "mrr@10",
        "ndcg@10",
        "map@100",
        "recall@10",
        "recall@100",
        "precision@10",
    }
    for system in summary["systems"].values():
        assert metrics <= set(system["metrics"])
        low, high = system["ci95"]["ndcg@10"]
        assert 0 <= low <= system["metrics"]["ndcg@10"] <= high <= 1
    assert {"ship", "alpha", "why"} <= set(summary["decision"])
    assert summary["data"]["eval_kind"] == "synthetic"
    assert summary["data"]["documents"] == 10
    assert summary["cost"]["calls"] > 0
    assert {"ingest", "generate", "mine", "train", "merge", "check"} <= set(summary["timings_s"])
    row = next(r for r in summary["comparisons"] if (r["a"], r["b"], r["metric"]) == ("merged", "base", "ndcg@10"))
    assert 0 < row["p_value"] <= 1 and row["queries"] == summary["data"]["eval_queries"]


def test_no_training_text_is_of_a_held_out_passage(finished: tuple[Workspace, Config, Runtime, FakeModel]) -> None:
    from embedfit.path.artefacts import Passage, TrainRow

    workspace = finished[0]
    held_out = {p.content for p in workspace.read(Passage) if p.split in ("dev", "test")}
    assert held_out
    for row in workspace.read(TrainRow):
        assert not held_out & {*row.pos, *row.neg}


def test_a_second_run_does_nothing(finished: tuple[Workspace, Config, Runtime, FakeModel]) -> None:
    workspace, config, runtime, model = finished
    calls = len(model.asked)
    assert set(states(workspace, config).values()) == {"fresh"}
    assert run_all(workspace, config, runtime) == []
    assert len(model.asked) == calls


def test_a_changed_setting_makes_its_stage_stale_and_no_earlier_one(
    finished: tuple[Workspace, Config, Runtime, FakeModel],
) -> None:
    workspace, config = finished[:2]
    changed = config.model_copy(update={"mine": config.mine.model_copy(update={"negatives": 2})})
    now = states(workspace, changed)
    assert now["ingest"] == now["generate"] == "fresh"
    assert now["mine"] == now["train"] == now["evaluate"] == "stale"


def test_a_touched_output_makes_its_stage_stale(finished: tuple[Workspace, Config, Runtime, FakeModel]) -> None:
    workspace, config = finished[:2]
    path = workspace.path("merge.json")
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    assert states(workspace, config)["merge"] == "stale"
    path.write_bytes(before)
    assert states(workspace, config)["merge"] == "fresh"


def test_sentence_transformers_gives_the_vectors_of_the_saved_models(
    finished: tuple[Workspace, Config, Runtime, FakeModel],
) -> None:
    from sentence_transformers import SentenceTransformer

    from embedfit.models.encoder import Encoder

    for name in ("finetuned", "merged"):
        folder = finished[0].path(name)
        theirs = SentenceTransformer(str(folder), device="cpu")
        ours = Encoder.load(folder, precision="fp32")
        texts = ["what the otter does", "The lynx lives near the ridge"]
        assert (ours.encode(texts, is_query=True) * theirs.encode_query(texts)).sum(1).min() > 0.9999
        assert theirs.prompts["query"] == "query: "


def test_the_order_of_the_stages_is_checked() -> None:
    check_order()
    with pytest.raises(EmbedfitError, match=r"reads queries\.jsonl, which no earlier stage writes"):
        check_order(tuple(stage for stage in STAGES if stage.name != "generate"))
    with pytest.raises(EmbedfitError, match="written by both"):
        check_order((*STAGES, STAGES[0]))


def test_the_search_snippet_of_the_report_finds_what_its_row_says(
    finished: tuple[Workspace, Config, Runtime, FakeModel],
) -> None:
    """What the page shows, copied and run as it stands, over the index that the page has built."""
    workspace, config, runtime, _ = finished
    save(config, workspace.path("embedfit.toml"))
    page = workspace.path("report.html").read_text("utf-8")
    code = re.search(r'aria-label="Search from Python"><code class="python">(.*?)</code>', page, re.S)
    assert code is not None
    index_run(workspace.root, runtime=runtime)
    names: dict[str, Any] = {}
    exec(compile(html.unescape(code.group(1)), "snippet", "exec"), names)
    data = read_beir(workspace.path("eval"))
    hits = names["index"].search_all(list(data.queries.values()), 10)
    found = [[hit.passage_id for hit in of_query] for of_query in hits]
    values = score(judge(found, [data.qrels[query] for query in data.queries]), ("ndcg@10",))["ndcg@10"]
    expected = workspace.read_json("summary.json")["systems"]["chosen"]["metrics"]["ndcg@10"]
    assert values.mean() == pytest.approx(expected, abs=0.005 if encoding_precision() != "fp32" else 1e-6)


def test_manifests_say_what_the_numbers_were_made_with(
    finished: tuple[Workspace, Config, Runtime, FakeModel],
) -> None:
    manifest = finished[0].read_manifest("train")
    assert manifest is not None
    assert {"python", "torch", "transformers", "numpy"} <= set(manifest.versions)
    assert manifest.versions["torch"] == torch.__version__
