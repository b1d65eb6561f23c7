"""Vectors of every layout and family against sentence-transformers, and the layouts that are refused."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from embedfit.errors import ModelError
from embedfit.files.textfiles import without_surrogates
from embedfit.models.architecture import POOLING_MODES
from embedfit.models.encoder import Encoder
from embedfit.models.folder import read_tensors, save_model
from embedfit.models.layout.modules import pool, pool_arrays
from embedfit.models.layout.reading import read_architecture
from tests.models import tiny_families
from tests.models.tiny_families import FAMILIES, H, save_family, save_static, two_dense

ODD = "Ｆｕｌｌ ẞ ß İ naïve 東京 🙂\u0000\u2028"
TEXTS = ["how to mute the tv", "a", "", " ", "The sound is off. " * 12, ODD, "MUTE the TV"]
QUERY = "find: "


def opened(folder: Path) -> tuple[Encoder, SentenceTransformer]:
    return Encoder.load(folder, precision="fp32"), SentenceTransformer(str(folder), device="cpu")


def assert_same(ours: Encoder, theirs: SentenceTransformer, texts: list[str], *, atol: float = 1e-5) -> None:
    """Vectors with norms, of texts alone and together, of passages and of queries."""
    assert_allclose(ours.encode(texts), theirs.encode(texts), atol=atol, rtol=1e-5)
    query = theirs.encode(texts, prompt=ours.layout.query_instruction)
    assert_allclose(ours.encode(texts, is_query=True), query, atol=atol, rtol=1e-5)


def test_layouts_of_static_embeddings(tmp_path: Path) -> None:
    ours, theirs = opened(save_static(tmp_path / "static"))
    texts = [text for text in TEXTS if text]
    assert_allclose(ours.encode(texts), theirs.encode(texts), atol=1e-6)
    assert ours.encode([""]).tolist() == [[0.0] * 16]
    assert ours.layout.describe()[0].startswith("StaticEmbedding")


@pytest.fixture(scope="session")
def layout_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("bert", tmp_path_factory.mktemp("layouts") / "base")


def changed(source: Path, target: Path, **files: Any) -> Path:
    """A copy of a folder; files: by name with / as __, a JSON value or a function of the old one."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    for name, value in files.items():
        path = target / {"pooling": "1_Pooling/config.json"}.get(name, f"{name}.json")
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(value(old) if callable(value) else {**old, **value}))
    return target


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    modes=st.lists(st.sampled_from(POOLING_MODES), min_size=1, max_size=3, unique=True),
    old_keys=st.booleans(),
    include_prompt=st.booleans(),
    normalize=st.booleans(),
    lower=st.booleans(),
    window=st.integers(4, 64),
    prompts=st.dictionaries(st.sampled_from(["query", "document", "other"]), st.text("ab: ", max_size=6), max_size=3),
    default=st.booleans(),
    texts=st.lists(st.text(max_size=30) | st.just("ab " * 40), min_size=1, max_size=5),
)
def test_made_layouts_give_sentence_transformers_vectors(
    layout_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
    modes: list[str],
    old_keys: bool,
    include_prompt: bool,
    normalize: bool,
    lower: bool,
    window: int,
    prompts: dict[str, str],
    default: bool,
    texts: list[str],
) -> None:
    if old_keys:
        modes = [mode for mode in POOLING_MODES if mode in modes]
        names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
        flags: dict[str, Any] = {f"pooling_mode_{names.get(mode, mode)}": True for mode in modes}
        pooling = {"word_embedding_dimension": H, "include_prompt": include_prompt, **flags}
    else:
        pooling = {"embedding_dimension": H, "include_prompt": include_prompt, "pooling_mode": modes}
    folder = changed(
        layout_base,
        tmp_path_factory.mktemp("made") / "model",
        pooling=lambda _: pooling,
        modules=lambda old: old if normalize else old[:2],
        sentence_bert_config={"max_seq_length": window, "do_lower_case": lower},
        config_sentence_transformers={
            "prompts": prompts,
            "default_prompt_name": next(iter(prompts), None) if default else None,
        },
    )
    ours, theirs = opened(folder)
    texts = [without_surrogates(text) for text in texts]
    vectors = theirs.encode_query(texts)
    if not np.isfinite(vectors).all():  # max pooling of a text that is all prompt: sentence-transformers' own infinity
        return
    assert_allclose(ours.encode(texts, is_query=True), vectors, atol=1e-5, rtol=1e-5)
    passages = theirs.encode(texts, prompt=ours.layout.document_instruction)
    if np.isfinite(passages).all():
        assert_allclose(ours.encode(texts), passages, atol=1e-5, rtol=1e-5)
    if "document" not in prompts:
        assert ours.layout.document_instruction == prompts.get(theirs.default_prompt_name or "", "")


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    modes=st.lists(st.sampled_from(POOLING_MODES), min_size=1, max_size=3),
    skip=st.none() | st.integers(0, 7),
)
def test_both_forms_of_the_poolings_in_layouts_agree(lengths: list[int], modes: list[str], skip: int | None) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling as Theirs

    from embedfit.models.architecture import Pooling

    hidden = np.random.default_rng(0).normal(size=(len(lengths), max(lengths), 3)).astype(np.float32)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    skips = None if skip is None else np.full(len(lengths), skip)
    way = Pooling(modes=tuple(modes), include_prompt=False)  # type: ignore[arg-type]
    arrays = pool_arrays(hidden, mask, way, skips)
    features = {"token_embeddings": torch.from_numpy(hidden), "attention_mask": torch.from_numpy(mask)}
    tensors = pool(*features.values(), way, None if skips is None else torch.from_numpy(skips))
    theirs = Theirs(3, tuple(modes), include_prompt=False)({**features, **({"prompt_length": skip} if skip else {})})
    assert_allclose(arrays, tensors.numpy(), atol=1e-6)
    assert_allclose(arrays, theirs["sentence_embedding"].numpy(), atol=1e-6)


@pytest.mark.parametrize("activation", ["Identity", "Tanh", "ReLU", "Sigmoid", "SiLU", "GELU"])
def test_layouts_with_dense_layers_in_both_forms(activation: str, tmp_path: Path) -> None:
    def after() -> list[torch.nn.Module]:
        torch.manual_seed(1)
        act = getattr(torch.nn, activation)()
        return [Dense(2 * H, 20, activation_function=act), Dense(20, 20, activation_function=act, use_residual=True)]

    ours, theirs = opened(save_family("bert", tmp_path / "dense", after=after, pooling_mode=("mean", "max")))
    assert_same(ours, theirs, TEXTS)
    pooled = np.random.default_rng(0).normal(0, 3, (4, 2 * H)).astype(np.float32)
    assert_allclose(ours.head.finish_arrays(pooled), ours.head.finish(torch.from_numpy(pooled)).numpy(), atol=1e-5)
    assert ours.layout.width == 20 and not ours.layout.normalize


def test_layouts_without_modules_json(layout_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(layout_base, tmp_path / "bare")
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    ours, theirs = opened(folder)
    assert ours.layout.pooling.modes == ("mean",) and not ours.layout.normalize
    assert_same(ours, theirs, TEXTS)


def test_layouts_with_the_transformer_in_a_folder(layout_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(layout_base, folder / "0_Transformer", ignore=shutil.ignore_patterns("1_*", "2_*", "modules.json"))
    shutil.copytree(layout_base / "1_Pooling", folder / "1_Pooling")
    types = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")]
    listed = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
              for i, (path, kind) in enumerate(types)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(listed))
    ours, theirs = opened(folder)
    assert_same(ours, theirs, TEXTS)
    save_model(tmp_path / "saved", read_tensors(folder), base=folder, layout=ours.layout)
    assert_allclose(Encoder.load(tmp_path / "saved", precision="fp32").encode(TEXTS), ours.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("kind", ["prefixed", "sharded", "fp16", "bf16"])
def test_layouts_of_weights(kind: str, layout_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(layout_base, tmp_path / kind)
    tensors = load_file(folder / "model.safetensors")
    if kind == "prefixed":
        tensors = {f"bert.{name}": tensor for name, tensor in tensors.items()}
        save_file({**tensors, "cls.predictions.bias": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    elif kind == "sharded":
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, own in parts.items():
            save_file({name: tensors[name] for name in own}, folder / file, {"format": "pt"})
        where = {name: file for file, own in parts.items() for name in own}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    else:
        to = torch.float16 if kind == "fp16" else torch.bfloat16
        save_file({name: t.to(to) for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    ours = Encoder.load(folder, precision="fp32")
    theirs = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    assert_same(ours, theirs, TEXTS)
    assert "embeddings.word_embeddings.weight" in read_tensors(folder)
    save_model(tmp_path / "saved", read_tensors(folder), base=folder, layout=ours.layout)
    assert_allclose(Encoder.load(tmp_path / "saved", precision="fp32").encode(TEXTS), ours.encode(TEXTS), atol=1e-6)


def test_layouts_of_tokenizers_that_cut_on_the_left(layout_base: Path, tmp_path: Path) -> None:
    cut = {"truncation_side": "left", "model_max_length": 9}
    folder = changed(layout_base, tmp_path / "left", tokenizer_config=cut)
    assert_same(*opened(folder), ["abcdefghijklmnopqrstuvwxyz", "abc"])


def test_halves_of_surrogate_pairs_are_replaced_in_layouts(layout_base: Path) -> None:
    ours = Encoder.load(layout_base, precision="fp32")
    assert_allclose(ours.encode(["a \ud83d b"]), ours.encode(["a \ufffd b"]))


def bin_only(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def rewrite(name: str, change: Any) -> Any:
    def do(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text())
        path.write_text(json.dumps(change(value)))

    return do


def module(path: str, kind: str) -> Any:
    return rewrite("modules.json", lambda old: [*old, {"idx": 9, "name": "9", "path": path, "type": kind}])


def nan_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bin_only, "pickle and is not read"),
        (rewrite("config.json", lambda c: {**c, "auto_map": {"AutoModel": "modeling.X"}}), "auto_map"),
        (rewrite("config.json", lambda c: {**c, "model_type": "vit"}), "'vit' is none"),
        (rewrite("config.json", lambda c: {**c, "model_type": None}), "None is none"),
        (rewrite("config.json", lambda c: {**c, "hidden_size": 1_000_000_000}), "1,000,000,000"),
        (rewrite("config.json", lambda c: {**c, "hidden_size": 36}), "do not fit"),
        (rewrite("config.json", lambda c: {**c, "hidden_size": 60_000}), "do not fit"),
        (rewrite("config.json", lambda c: {**c, "hidden_size": 31}), "do not fit"),
        (rewrite("config.json", lambda c: {**c, "num_hidden_layers": 40}), "many more than"),
        (rewrite("config.json", lambda c: {**c, "vocab_size": 20}), "do not fit"),
        (rewrite("config.json", lambda c: {**c, "quantization_config": {"bits": 4}}), "quantised"),
        (rewrite("config.json", lambda c: [c]), "not a JSON object"),
        (module("../../../etc", "sentence_transformers.models.Normalize"), "leaves the model folder"),
        (module("/etc", "sentence_transformers.models.Dense"), "leaves the model folder"),
        (module("", "sentence_transformers.models.Router"), "module Router"),
        (module("", "custom_st.Pooling"), "never runs such"),
        (module("1_Pooling", "sentence_transformers.models.Pooling"), "computes a Transformer and a Pooling"),
        (rewrite("modules.json", lambda old: old[1:]), "computes a Transformer and a Pooling"),
        (rewrite("modules.json", lambda old: {"a": 1}), "not a list"),
        (rewrite("1_Pooling/config.json", lambda c: {"pooling_mode": "attention"}), "attention pooling"),
        (rewrite("sentence_bert_config.json", lambda c: {**c, "query_length": 8}), "query_length"),
        (rewrite("sentence_bert_config.json", lambda c: {**c, "config_kwargs": {"is_decoder": True}}), "is_decoder"),
        (rewrite("config_sentence_transformers.json", lambda c: {**c, "model_type": "SparseEncoder"}), "SparseEncoder"),
        (
            rewrite("config_sentence_transformers.json", lambda c: {**c, "default_prompt_name": "x"}),
            "no prompt of",
        ),
        (nan_weights, "NaN"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "can't be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter"),
    ],
)
def test_layouts_that_are_refused_by_name(change: Any, message: str, layout_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(layout_base, tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError, match=message):
        Encoder.load(folder, precision="fp32")


WRONG = [None, 0, -1, 1.5, "x", "64", [], {}, True, [1], {"a": 1}, 1e308]


def test_no_value_of_a_setting_ends_layouts_in_a_traceback(layout_base: Path, tmp_path: Path) -> None:
    """Every setting of every file has wrong values of every type; what can't be read is refused by name."""
    folder = shutil.copytree(layout_base, tmp_path / "model")
    more = {
        "config.json": ("return_dict", "quantization_config", "architectures"),
        "sentence_bert_config.json": ("model_args", "modality_config", "query_length", "max_seq_length"),
        "config_sentence_transformers.json": ("prompts", "default_prompt_name", "truncate_dim", "model_type"),
        "config.json of the pooling": ("pooling_mode", "include_prompt", "pooling_mode_cls_token"),
        "tokenizer_config.json": ("model_max_length", "chat_template", "truncation_side"),
    }
    for name, keys in more.items():
        path = folder / "1_Pooling" / "config.json" if "pooling" in name else folder / name
        before = path.read_text()
        for key in {*json.loads(before), *keys}:
            for value in WRONG:
                path.write_text(json.dumps({**json.loads(before), key: value}))
                try:
                    layout = read_architecture(folder)
                except ModelError:
                    continue
                assert isinstance(layout.max_tokens, int) and layout.max_tokens > 0 and layout.width > 0
        path.write_text(before)
    listed = json.loads((folder / "modules.json").read_text())
    for place, entry in enumerate(listed):
        for key, value in itertools.product(entry, WRONG):
            changed_list = [{**one, key: value} if number == place else one for number, one in enumerate(listed)]
            (folder / "modules.json").write_text(json.dumps(changed_list))
            try:
                read_architecture(folder)
            except ModelError:
                continue


@pytest.mark.parametrize(
    "changes",
    [
        {"return_dict": False, "output_hidden_states": True},
        {"num_attention_heads": 0},
        {"vocab_size": 0},
        {"output_hidden_states": "x"},
        {"pad_token_id": 7},
        {"hidden_act": "none such"},
    ],
)
def test_what_a_configuration_says_of_outputs_changes_nothing_in_layouts(
    changes: dict[str, Any], layout_base: Path, tmp_path: Path
) -> None:
    folder = changed(layout_base, tmp_path / "model", config=changes)
    try:
        ours = Encoder.load(folder, precision="fp32")
    except ModelError as error:
        assert "do not fit" in str(error)
        return
    assert_allclose(ours.encode(TEXTS), Encoder.load(layout_base, precision="fp32").encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("pad_id", [0, 1, 5])
def test_windows_of_layouts_whose_positions_begin_after_the_padding_token(pad_id: int, tmp_path: Path) -> None:
    from unittest.mock import patch

    name, model, values, mode = FAMILIES["roberta"]
    with patch.dict(FAMILIES, {"roberta": (name, model, {**values, "pad_token_id": pad_id}, mode)}):
        folder = save_family("roberta", tmp_path / "model", max_seq_length=66 - pad_id - 1)
    ours, theirs = opened(folder)
    assert ours.layout.max_tokens == 65 - pad_id
    assert_same(ours, theirs, TEXTS)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 500}')
    assert Encoder.load(folder, precision="fp32").encode(["x" * 500]) == pytest.approx(ours.encode(["x" * 500]))


def test_a_tokenizer_larger_than_the_table_is_refused_in_layouts(layout_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(layout_base, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["more"] = 5_000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="ids up to 5000"):
        Encoder.load(folder, precision="fp32")


def test_a_dense_whose_sizes_do_not_meet_is_refused_in_layouts(tmp_path: Path) -> None:
    folder = save_family("bert", tmp_path / "dense", after=lambda: [Dense(H, 20), Normalize()])
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["cls", "mean"]}))
    with pytest.raises(ModelError, match=f"takes {H} numbers, but gets {2 * H}"):
        read_architecture(folder)


@pytest.mark.parametrize(
    ("value", "message"),
    [(torch.nan, "NaN or infinity"), (torch.inf, "NaN or infinity"), (None, "stored as I32")],
)
def test_a_dense_whose_weights_are_no_numbers_is_refused_in_layouts(
    value: float | None, message: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_family("bert", tmp_path / "dense", after=two_dense)
    path = folder / "2_Dense" / "model.safetensors"
    tensors = load_file(path)
    if value is None:
        tensors = {name: tensor.int() for name, tensor in tensors.items()}
    else:
        tensors["linear.weight"][3, 5] = value
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=message):
        Encoder.load(folder, precision="fp32")


def test_own_code_of_layouts_is_never_run_and_nomic_needs_none(tmp_path: Path) -> None:
    folder = save_family("nomic_bert", tmp_path / "nomic")
    expected = Encoder.load(folder, precision="fp32").encode(TEXTS)
    (folder / "modeling.py").write_text("raise SystemExit('the code of a model was run')")
    rewrite("config.json", lambda old: {**old, "auto_map": {"AutoModel": "modeling.NomicBertModel"}})(folder)
    assert_allclose(Encoder.load(folder, precision="fp32").encode(TEXTS), expected, atol=1e-6)
    rewrite("config.json", lambda old: {k: v for k, v in old.items() if k != "hidden_size"} | {"n_embd": H})(folder)
    with pytest.raises(ModelError, match="auto_map"):
        Encoder.load(folder, precision="fp32")


@pytest.mark.slow
def test_the_command_that_converts_a_pickle_in_layouts(layout_base: Path, tmp_path: Path) -> None:
    import shlex

    folder = shutil.copytree(layout_base, tmp_path / "model")
    torch.save(read_tensors(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        read_architecture(folder)
    command = str(caught.value.remedy).removeprefix("Convert it once: ").split("; then use ")[0]
    arguments = shlex.split(command)
    subprocess.run([sys.executable, *arguments[1:]], check=True, capture_output=True)
    expected = Encoder.load(layout_base, precision="fp32").encode(TEXTS)
    assert_allclose(Encoder.load(Path(f"{folder}-safe"), precision="fp32").encode(TEXTS), expected, atol=1e-6)


def test_every_family_in_the_table_of_layouts_is_transformers_own() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from embedfit.models.layout.families import FAMILIES as known

    assert set(known) - set(CONFIG_MAPPING_NAMES) == {"static"}
    assert {name.split(",")[0] for name in tiny_families.FAMILIES} == set(known) - {"static"}
