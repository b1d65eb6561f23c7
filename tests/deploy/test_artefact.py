from __future__ import annotations

import json
import shlex

import pytest

from embedfit.deploy.artefact import run_label, state_folder_of, tei_problems
from embedfit.errors import ModelError, UsageError
from embedfit.models.layout.towers import plain_folders
from embedfit.testing.tiny_model import make_tiny_bert
from tests.deploy.fake_account import artefact_of, make_model_folder
from tests.models.tiny_towers import SHAPES


def test_a_model_in_a_run_folder(model_folder, tmp_path):
    (model_folder / "README.md").write_text("a card")
    (model_folder / "losses.jsonl").write_text("{}")
    (model_folder / ".cache").mkdir()
    (model_folder / ".cache" / "x.json").write_text("{}")
    artefact = artefact_of(model_folder, tmp_path)
    assert artefact.run == "em"
    assert artefact.state_folder == model_folder.parent / "deploy"
    assert {file.key for file in artefact.files} == {
        "1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json",
    }  # fmt: skip
    assert any("onnx/model.onnx" in note for note in artefact.notes)
    before = artefact.sha256
    (model_folder / "config.json").write_text('{"a": 1}')
    assert artefact_of(model_folder, tmp_path).sha256 != before


def test_a_run_folder_deploys_what_its_evaluation_decided(model_folder, tmp_path):
    run = model_folder.parent
    assert artefact_of(run, tmp_path).folder == model_folder
    make_model_folder(tmp_path / "x" / "finetuned").rename(run / "finetuned")
    (run / "summary.json").write_text(json.dumps({"decision": {"ship": "finetuned"}}))
    assert artefact_of(run, tmp_path).folder == run / "finetuned"
    (run / "summary.json").write_text(json.dumps({"decision": {"ship": "base"}}))
    with pytest.raises(ModelError, match="decided to keep the base"):
        artefact_of(run, tmp_path)


def test_a_lone_folder_keeps_its_state_beside_it(tmp_path):
    folder = make_model_folder(tmp_path / "models" / "mine")
    (tmp_path / "models" / "embedfit.toml").unlink()
    artefact = artefact_of(folder, tmp_path)
    assert artefact.state_folder == tmp_path / "models" / "mine.deploy"
    assert artefact.run == "mine"


def test_the_state_is_found_without_the_model(model_folder, tmp_path):
    """destroy must work after the model folder was deleted."""
    artefact = artefact_of(model_folder, tmp_path)
    artefact.state_folder.mkdir()
    import shutil

    shutil.rmtree(model_folder)
    assert state_folder_of(str(model_folder), tmp_path / "user") == artefact.state_folder
    assert state_folder_of(str(model_folder.parent), tmp_path / "user") == artefact.state_folder
    assert run_label(str(model_folder)) == "em"


def test_s3_and_hub(tmp_path):
    s3 = artefact_of("s3://bucket/models/mine", tmp_path)
    assert s3.s3_uri == "s3://bucket/models/mine/" and s3.run == "mine" and not s3.files
    assert s3.state_folder == state_folder_of("s3://bucket/models/mine", tmp_path / "user")
    assert artefact_of("minilm", tmp_path).hub_id == "x/minilm"
    assert artefact_of("BAAI/bge-base-en-v1.5", tmp_path).hub_id == "BAAI/bge-base-en-v1.5"
    for bad in ("s3://bucket", "s3://bucket/model.tar.gz"):
        with pytest.raises(UsageError):
            artefact_of(bad, tmp_path)
    with pytest.raises(ModelError, match="There is no model"):
        artefact_of("./nowhere", tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("1_Pooling/config.json", '{"pooling_mode": "cls"}', "word_embedding_dimension"),
        ("modules.json", '[{"path": "", "type": "sentence_transformers.base.modules.Transformer"}]', "does not know"),
        ("modules.json", None, "modules.json is missing"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("sentence_bert_config.json", "{}", "max_seq_length"),
    ],
)
def test_a_folder_that_tei_does_not_boot_is_refused_before_anything_is_made(
    model_folder, tmp_path, name, text, problem
):
    assert tei_problems(model_folder) == ()
    if text is None:
        (model_folder / name).unlink()
    else:
        (model_folder / name).write_text(text)
    with pytest.raises(ModelError, match=problem) as caught:
        artefact_of(model_folder, tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("config", "device", "problem"),
    [
        ({"model_type": "albert"}, "cpu", "does not know ALBERT; its CPU image runs it with an ONNX graph"),
        ({"model_type": "albert"}, "gpu", "does not know ALBERT; serve it with"),
        ({"model_type": "deberta"}, "cpu", "does not know DeBERTa; serve it with"),
        ({"model_type": "mistral"}, "cpu", "runs Mistral on GPUs alone"),
        ({"model_type": "mistral", "is_causal": False}, "gpu", "would read Mistral as causal"),
        ({"model_type": "mistral", "is_causal": False, "use_bidirectional_attention": True}, "gpu", ""),
        ({"model_type": "qwen2", "is_causal": False}, "gpu", ""),
        ({"model_type": "qwen3"}, "cpu", ""),
        ({"model_type": "modernbert"}, "gpu", "has no global_rope_theta"),
        ({"model_type": "nomic_bert"}, "gpu", "has no n_embd"),
    ],
)
def test_families_that_tei_does_not_run_say_what_to_use(config, device, problem, model_folder):
    path = model_folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    found = tei_problems(model_folder, device)
    assert (problem in found[0]) if problem else found == ()
    if device == "cpu":
        (model_folder / "onnx").mkdir()
        (model_folder / "onnx" / "model.onnx").write_bytes(b"graph")
        assert tei_problems(model_folder, device) == ()


def test_what_embedfit_writes_boots(tiny_bert):
    assert tei_problems(tiny_bert) == ()


def test_what_the_newest_sentence_transformers_writes_is_seen_not_to_boot(tiny_bert, tmp_path):
    """TEI 1.8 and 1.9 do not read its new keys; should a later version write the old ones again, this test tells."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model.save(str(tmp_path / "new"))
    assert tei_problems(tmp_path / "new")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_endpoint_gets_the_tower_of_queries(shape, tmp_path):
    run = tmp_path / "em"
    run.mkdir()
    (run / "embedfit.toml").touch()
    merged = SHAPES[shape](make_tiny_bert(tmp_path / "base"), run)
    whole, queries, passages = (artefact_of(path, tmp_path) for path in (run, merged / "query", merged / "document"))
    assert whole.folder == merged / "query" and whole.sha256 == queries.sha256 != passages.sha256
    assert {"config.json", "model.safetensors", "modules.json", "embedfit.json"} <= {file.key for file in whole.files}
    assert not any(file.key.startswith(("query", "document")) for file in whole.files)
    assert any(f"gets the one of queries, {merged / 'query'}" in note for note in whole.notes)
    command = next(note.split("own: ")[1] for note in whole.notes if "of its own" in note)
    assert shlex.split(command)[-1] == str(merged / "document")
    assert any("encodes passages alone" in note for note in passages.notes)
    for one in (whole, queries, passages):
        assert one.state_folder == run / "deploy" == state_folder_of(str(one.folder), tmp_path / "user")
        assert one.run == run_label(str(one.folder)) == "em"


def test_the_state_of_a_lone_model_of_two_towers_lies_beside_it(tmp_path):
    merged = SHAPES["map"](make_tiny_bert(tmp_path / "base"), tmp_path / "models")
    for path in (merged, merged / "query", merged / "document"):
        assert artefact_of(path, tmp_path).state_folder == tmp_path / "models" / "merged.deploy"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_graph_that_would_leave_out_the_map_is_not_uploaded(shape, tmp_path):
    folder = SHAPES[shape](make_tiny_bert(tmp_path / "base"), tmp_path) / "query"
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"graph")
    artefact = artefact_of(folder, tmp_path)
    assert any(file.key == "onnx/model.onnx" for file in artefact.files) is (shape == "query")
    assert any("has a Dense" in note for note in artefact.notes) is (shape == "map")


@pytest.mark.parametrize("shape", SHAPES)
def test_both_towers_boot(shape, tmp_path):
    folder = SHAPES[shape](make_tiny_bert(tmp_path / "base"), tmp_path)
    assert [tei_problems(path) for path in plain_folders(folder)] == [(), ()]
