"""Models of two towers: written, opened by sentence-transformers and by us, and those that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Router, Transformer

from embedfit.errors import ModelError
from embedfit.models.architecture import Architecture
from embedfit.models.encoder import Encoder
from embedfit.models.folder import copy_model, read_tensors
from embedfit.models.layout.modules import unit_rows
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import save_towers, tower_folder, with_query_map
from embedfit.models.local import LocalModel
from embedfit.models.sources import resolve_model
from embedfit.models.store.vectors import VectorStore
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_families import save_family, save_static, two_dense
from tests.models.tiny_towers import random_map, save_mapped, save_tuned

TEXTS = ["how to mute the tv", "a", "", "The sound is off. " * 40, "Ｆｕｌｌ ẞ İ naïve 東京 🙂\u2028"]


def assert_same(folder: Path, *, atol: float = 1e-5) -> tuple[Encoder, SentenceTransformer]:
    """Our vectors of queries and passages are those of encode_query and encode_document."""
    ours, theirs = Encoder.load(folder, precision="fp32"), SentenceTransformer(str(folder), device="cpu")
    assert_allclose(ours.encode(TEXTS, is_query=True), theirs.encode_query(TEXTS), atol=atol)
    assert_allclose(ours.encode(TEXTS), theirs.encode_document(TEXTS), atol=atol)
    return ours, theirs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("towers") / "base", pooling="mean")


@pytest.fixture(scope="module")
def mapped(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two towers with a map on queries."""
    return save_mapped(base, tmp_path_factory.mktemp("mapped"))


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two towers with a trained transformer for queries."""
    return save_tuned(base, tmp_path_factory.mktemp("tuned"))


@pytest.mark.parametrize("kind", ["mapped", "tuned"])
def test_towers_open_in_sentence_transformers_together_and_alone(
    kind: str, base: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    ours, theirs = assert_same(folder)
    for role, is_query in (("query", True), ("document", False)):
        plain, alone = folder / role, SentenceTransformer(str(folder / role), device="cpu")
        expected = theirs.encode_query(TEXTS) if is_query else theirs.encode_document(TEXTS)
        assert_allclose(alone.encode_query(TEXTS) if is_query else alone.encode(TEXTS), expected, atol=1e-5)
        assert_allclose(Encoder.load(plain, precision="fp32").encode(TEXTS, is_query=is_query), expected, atol=1e-5)
        assert tower_folder(folder, is_query=is_query) == plain
    untuned = Encoder.load(base, precision="fp32")
    assert_allclose(ours.encode(TEXTS), untuned.encode(TEXTS), atol=1e-6)
    assert np.abs(ours.encode(TEXTS, is_query=True) - untuned.encode(TEXTS, is_query=True)).max() > 1e-2
    assert theirs.similarity_fn_name == "cosine"


def test_a_shared_transformer_is_stored_and_loaded_once(mapped: Path, tuned: Path) -> None:
    ours, theirs = assert_same(mapped)
    assert ours.tower(is_query=True).backbone is ours.backbone
    (router,) = theirs.children()
    assert router.sub_modules["query"][0] is router.sub_modules["document"][0]
    weights = [mapped / role / "model.safetensors" for role in ("query", "document")]
    assert weights[0].samefile(weights[1])
    assert not read_architecture(tuned).has_map
    assert Encoder.load(tuned).tower(is_query=True).backbone is not Encoder.load(tuned).backbone
    assert not (tuned / "query" / "model.safetensors").samefile(tuned / "document" / "model.safetensors")


def test_a_tower_written_again_leaves_the_other_as_it_is(mapped: Path, tuned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    save_towers(folder, query=mapped / "query", document=mapped / "document")
    before = Encoder.load(folder / "document").encode(TEXTS)
    save_towers(folder, query=tuned / "query", document=mapped / "document")
    assert_allclose(Encoder.load(folder / "document").encode(TEXTS), before, atol=1e-6)
    expected = Encoder.load(tuned).encode(TEXTS, is_query=True)
    assert_allclose(Encoder.load(folder).encode(TEXTS, is_query=True), expected, atol=1e-6)
    save_towers(folder, query=folder / "query", document=folder / "document")  # in place
    assert_allclose(Encoder.load(folder).encode(TEXTS, is_query=True), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["no norm", "cut", "dense", "static", "causal", "unlisted", "inner prompt"])
def test_query_maps_rank_as_the_map_does_on_unit_vectors(kind: str, tmp_path: Path) -> None:
    if kind == "static":
        base = save_static(tmp_path / "base")
    elif kind in ("dense", "causal"):
        name = {"dense": "bert", "causal": "qwen3"}[kind]
        base = save_family(name, tmp_path / "base", after=two_dense, prompts={"query": "find: "})
    else:
        base = make_tiny_bert(tmp_path / "base", pooling="mean")
    own = json.loads((base / "config_sentence_transformers.json").read_text())
    if kind == "no norm":
        modules = json.loads((base / "modules.json").read_text())
        (base / "modules.json").write_text(json.dumps(modules[:2]))
    if kind == "cut":
        (base / "config_sentence_transformers.json").write_text(json.dumps({**own, "truncate_dim": 8}))
    if kind == "unlisted":
        (base / "modules.json").unlink()
    if kind == "inner prompt":
        pooling = json.loads((base / "1_Pooling" / "config.json").read_text())
        (base / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "include_prompt": False}))
    layout = read_architecture(base)
    texts = [text for text in TEXTS if text]  # sentence-transformers can't encode an empty text with static vectors
    matrix = random_map(layout.width)
    with_query_map(base, matrix, tmp_path / "query")
    save_towers(tmp_path / "merged", query=tmp_path / "query", document=base)
    untuned, ours = Encoder.load(base, precision="fp32"), Encoder.load(tmp_path / "merged", precision="fp32")
    assert ours.layout.has_map
    expected = unit_rows(untuned.encode_unit(texts, is_query=True) @ matrix.T)
    assert_allclose(ours.encode(texts, is_query=True), expected, atol=1e-5)
    assert_allclose(ours.encode(texts), untuned.encode(texts), atol=1e-6)
    theirs = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    assert_allclose(theirs.encode_query(texts), expected, atol=1e-5)
    assert_allclose(theirs.encode_document(texts), untuned.encode(texts), atol=1e-5)


def test_towers_have_the_right_prompts(tmp_path: Path) -> None:
    base = make_tiny_bert(tmp_path / "e5-base-v2", instruction="")
    layout = read_architecture(base).with_prompts(query="query: ", document="passage: ")
    with_query_map(base, random_map(32), tmp_path / "query", layout=layout)
    save_towers(tmp_path / "merged", query=tmp_path / "query", document=base, layout=layout)
    found = read_architecture(tmp_path / "merged")
    assert (found.query_instruction, found.document_instruction) == ("query: ", "passage: ")
    alone = read_architecture(tmp_path / "merged" / "query"), read_architecture(tmp_path / "merged" / "document")
    assert [one.query_instruction for one in alone] == ["query: ", "query: "]
    assert_same(tmp_path / "merged")
    changed = found.with_prompts(query="ask: ")
    assert changed.query_instruction == "ask: " and changed.document_instruction == "passage: "


def test_passages_in_the_store_are_those_of_the_base(mapped: Path, base: Path, tmp_path: Path) -> None:
    store, untuned, model = VectorStore(tmp_path / "store"), LocalModel("base", base), LocalModel("merged", mapped)
    passages, queries = store.embed_both(untuned, TEXTS[:2], TEXTS[:2])
    assert model.tower(is_query=False).key == untuned.key
    assert len({model.key, untuned.key, model.tower(is_query=True).key}) == 3
    mine = store.embed(model, TEXTS[:2], is_query=True)
    assert np.abs(mine - queries).max() > 1e-2
    model.tower(is_query=False).encoder = lambda: pytest.fail("the passages are in the store")  # type: ignore[method-assign]
    assert_allclose(store.embed(model, TEXTS[:2], is_query=False), passages)
    assert_allclose(store.embed(LocalModel("query", mapped / "query"), TEXTS[:2], is_query=True), mine)
    assert LocalModel("query", mapped / "query").key == model.tower(is_query=True).key


def test_copies_have_the_key_of_the_base(base: Path, tmp_path: Path) -> None:
    copy_model(tmp_path / "copy", base=base, layout=read_architecture(base))
    assert LocalModel("copy", tmp_path / "copy").key == LocalModel("base", base).key


@pytest.mark.parametrize("behind", [False, True], ids=["in the routes", "behind the router"])
def test_routers_of_others_read_the_same(behind: bool, base: Path, tuned: Path, tmp_path: Path) -> None:
    towers = [[Transformer(str(folder)), Pooling(32, "mean")] for folder in (tuned / "query", base)]
    torch.manual_seed(0)  # the same content in each run, because a tower of it stays in the cache
    towers[0].append(Dense(32, 32, bias=True))
    if not behind:
        for tower in towers:
            tower.append(Normalize())
    router = Router.for_query_document(*towers)
    model = SentenceTransformer(
        modules=[router, *([Normalize()] if behind else [])], prompts={"query": "q: "}, device="cpu"
    )
    folder = tmp_path / "theirs"
    model.save(str(folder))
    ours, _ = assert_same(folder)
    plain = tower_folder(folder, is_query=True)
    assert_allclose(
        Encoder.load(plain, precision="fp32").encode(TEXTS, is_query=True), ours.encode(TEXTS, is_query=True)
    )
    assert plain == tower_folder(folder, is_query=True) and not plain.is_relative_to(folder)
    assert_same(plain)


def _routes(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda old: {**old, "structure": {**old["structure"], **changes}}


def _parameters(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda old: {**old, "parameters": {**old["parameters"], **changes}}


def _renamed(old: dict[str, Any], new: str) -> dict[str, Any]:
    """The query route's first module under another path."""
    first = old["structure"]["query"][0]
    structure = {**old["structure"], "query": [new, *old["structure"]["query"][1:]]}
    return {**old, "structure": structure, "types": {**old["types"], new: old["types"][first]}}


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "leaves by dots": (lambda old: _renamed(old, "../document"), "leaves the model folder"),
    "leaves by root": (lambda old: _renamed(old, "/etc"), "leaves the model folder"),
    "leaves by backslash": (lambda old: _renamed(old, "..\\document"), "leaves the model folder"),
    "is missing on disk": (lambda old: _renamed(old, "nowhere"), "config.json is missing"),
    "no query route": (
        lambda old: {**old, "structure": {"document": old["structure"]["document"]}},
        "no route 'query'",
    ),
    "no document route": (
        lambda old: {**old, "structure": {"query": old["structure"]["query"]}},
        "no route 'document'",
    ),
    "no structure": (lambda old: {"types": old["types"]}, "its routes are none"),
    "default route": (_parameters(default_route="other"), "no route of that name"),
    "default of no name": (_parameters(default_route=["query"]), "no route of that name"),
    "mappings": (_parameters(route_mappings={"('query', 'text')": "document"}), "route_mappings"),
    "module without a type": (_routes(query=["unknown"]), "whose type it does not give"),
    "module of no name": (_routes(query=[5]), "whose type it does not give"),
    "empty route": (_routes(query=[]), "not a list of modules"),
    "endless route": (_routes(query=["document"] * 10_000), "not a list of modules"),
    "route of no list": (_routes(query="document"), "not a list of modules"),
    "unknown module": (
        lambda old: {**old, "types": {name: "sentence_transformers.models.CNN" for name in old["types"]}},
        "can't compute yet",
    ),
    "code of its own": (
        lambda old: {**old, "types": {name: "evil.Module" for name in old["types"]}},
        "never runs such",
    ),
    "router in a router": (
        lambda old: {**old, "types": {name: "sentence_transformers.models.Router" for name in old["types"]}},
        "can't compute yet",
    ),
    "no object": (lambda old: ["query"], "not a JSON object"),
    "types of no object": (lambda old: {**old, "types": []}, "not a JSON object"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_routers_that_are_refused(name: str, tuned: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[name]
    folder = tmp_path / "hostile"
    shutil.copytree(tuned, folder)
    path = folder / "router_config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ModelError, match=message) as error:
        read_architecture(folder)
    assert "router_config.json" in error.value.message or name == "is missing on disk"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4) | st.sampled_from(["query", "document", ".."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["query", "document", "x"]), inner),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, key=st.sampled_from(["types", "structure", "parameters", "default_route", "route_mappings", ""]))
def test_any_router_config_is_read_or_a_clear_error(value: Any, key: str, tuned: Path) -> None:
    path = tuned / "router_config.json"
    before = path.read_text()
    config = json.loads(before)
    if key in ("types", "structure", "parameters"):
        config[key] = value
    elif key:
        config["parameters"][key] = value
    try:
        path.write_text(json.dumps(config if key else value))
        layout = read_architecture(tuned)
        assert layout.queries is not None and layout.queries.width == layout.width
    except ModelError as error:
        assert str(tuned) in error.message
    finally:
        path.write_text(before)


def test_towers_of_different_widths_are_refused(base: Path, tuned: Path, tmp_path: Path) -> None:
    narrow = save_static(tmp_path / "narrow")
    with pytest.raises(ModelError, match=r"16 numbers.*32"):
        save_towers(tmp_path / "merged", query=narrow, document=base)
    folder = tmp_path / "by hand"
    shutil.copytree(tuned, folder)
    kind = "sentence_transformers.models.StaticEmbedding"
    shutil.copytree(narrow, folder / "narrow")
    config = json.loads((folder / "router_config.json").read_text())
    changed = _routes(query=["narrow"])({**config, "types": {**config["types"], "narrow": kind}})
    (folder / "router_config.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="queries have 16 numbers and those of passages 32"):
        read_architecture(folder)


def test_towers_of_towers_and_maps_of_another_width_are_refused(base: Path, mapped: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="two towers; a tower is a plain"):
        save_towers(tmp_path / "merged", query=mapped, document=base)
    with pytest.raises(ModelError, match="32 numbers"):
        with_query_map(base, random_map(16), tmp_path / "query")
    with pytest.raises(ModelError, match="has two towers") as error:
        read_tensors(mapped)
    assert str(mapped / "query") in str(error.value.remedy)


def test_a_second_map_stands_behind_the_first(mapped: Path, tmp_path: Path) -> None:
    with_query_map(mapped, random_map(32, seed=1), tmp_path / "query")
    ours = Encoder.load(tmp_path / "query", precision="fp32").encode(TEXTS, is_query=True)
    first = Encoder.load(mapped, precision="fp32").encode(TEXTS, is_query=True)
    assert_allclose(ours, unit_rows(first @ random_map(32, seed=1).T), atol=1e-5)


def test_minilm_with_a_map(tmp_path: Path) -> None:
    base = resolve_model("minilm")
    with_query_map(base, random_map(384), tmp_path / "query")
    save_towers(tmp_path / "merged", query=tmp_path / "query", document=base)
    assert_same(tmp_path / "merged")
    assert LocalModel("merged", tmp_path / "merged").tower(is_query=False).key == LocalModel("base", base).key


def test_the_architecture_of_two_towers_names_both(mapped: Path, base: Path) -> None:
    layout = read_architecture(mapped)
    assert layout.tower(is_query=False).describe() != layout.tower(is_query=True).describe()
    assert [line.split(":")[0] for line in layout.describe()] == ["passages"] * 3 + ["queries"] * 5
    plain = read_architecture(base)
    assert plain.tower(is_query=True) is plain.tower(is_query=False) is plain
    assert isinstance(layout.queries, Architecture) and layout.queries.queries is None


@pytest.mark.parametrize("change", ["weights", "prompt", "pooling", "missing"])
def test_a_plain_folder_that_the_router_does_not_mean_is_not_taken(
    change: str, mapped: Path, tuned: Path, tmp_path: Path
) -> None:
    """The modules of the Router decide: they are what sentence-transformers runs."""
    folder = tmp_path / "changed"
    shutil.copytree(mapped, folder)  # without links: the content is compared
    assert tower_folder(folder, is_query=True) == folder / "query"
    if change == "weights":
        shutil.copyfile(tuned / "query" / "model.safetensors", folder / "query" / "model.safetensors")
    elif change == "missing":
        shutil.rmtree(folder / "query")
        shutil.copytree(mapped / "query" / "3_Dense", folder / "query" / "3_Dense")
    else:
        name, key, value = {
            "prompt": ("config_sentence_transformers.json", "prompts", {"query": "other: "}),
            "pooling": ("1_Pooling/config.json", "pooling_mode", "max"),
        }[change]
        path = folder / "query" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    found = tower_folder(folder, is_query=True)
    assert not found.is_relative_to(folder)
    expected = SentenceTransformer(str(folder), device="cpu").encode_query(TEXTS)
    assert_allclose(Encoder.load(found, precision="fp32").encode(TEXTS, is_query=True), expected, atol=1e-5)
