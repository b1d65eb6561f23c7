from __future__ import annotations

import json

import pytest

from embedfit.deploy.artefact import run_label, state_folder_of, tei_problems
from embedfit.errors import ModelError, UsageError
from tests.deploy.fake_account import artefact_of, make_model_folder


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


def test_what_embedfit_writes_boots(tiny_bert):
    assert tei_problems(tiny_bert) == ()


def test_what_the_newest_sentence_transformers_writes_is_seen_not_to_boot(tiny_bert, tmp_path):
    """TEI 1.8 and 1.9 do not read its new keys; should a later version write the old ones again, this test tells."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model.save(str(tmp_path / "new"))
    assert tei_problems(tmp_path / "new")
