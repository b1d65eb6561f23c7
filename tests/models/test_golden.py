"""Golden vectors: every folder that we write has them, and a changed folder is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.errors import ModelError
from embedfit.models.encoder import Encoder
from embedfit.models.layout.golden import check_golden, prove, read_golden, write_golden
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import save_towers
from embedfit.numerics.arrays import Vectors
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_families import save_static
from tests.models.tiny_towers import SHAPES


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = make_tiny_bert(tmp_path / "plain", pooling="mean")
    write_golden(folder)
    return folder


@pytest.fixture(params=SHAPES)
def towers(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return SHAPES[request.param](make_tiny_bert(tmp_path / "base", pooling="mean"), tmp_path)


def encoded(folder: Path) -> Callable[[list[str], bool], Vectors]:
    encoder = Encoder.load(folder, precision="fp32")
    return lambda texts, is_query: encoder.encode(texts, is_query=is_query)


def test_golden_vectors_are_those_of_sentence_transformers(towers: Path) -> None:
    theirs = SentenceTransformer(str(towers), device="cpu")
    found = json.loads((towers / "embedfit.json").read_text())
    assert (found["queries"], found["passages"], len(found["texts"])) == ("query", "document", 8)
    for one in found["texts"]:
        encode = theirs.encode_query if one["role"] == "query" else theirs.encode_document
        assert_allclose(encode(one["text"] * one["times"]), one["vector"], atol=1e-5)
    window = read_architecture(towers).max_tokens
    assert any(len(one["text"].split()) * one["times"] > window for one in found["texts"])


def test_each_folder_of_two_towers_has_its_own(towers: Path) -> None:
    whole = read_golden(towers, read_architecture(towers))
    assert whole is not None
    for role in ("query", "document"):
        folder = towers / role
        found = read_golden(folder, read_architecture(folder))
        assert found is not None and found.queries == found.passages == "."
        pairs = [(a.vector, b.vector) for a, b in zip(whole.texts, found.texts, strict=True) if a.role == role]
        assert_allclose(*zip(*pairs, strict=True), atol=1e-5)
        checked = check_golden(folder, read_architecture(folder), encoded(folder))
        assert checked is not None and checked.same


@pytest.mark.parametrize("turned", [False, True])
def test_mixed_up_towers_are_noticed(towers: Path, turned: bool) -> None:
    ours = encoded(towers)
    encode = (lambda texts, is_query: ours(texts, not is_query)) if turned else ours
    found = check_golden(towers, read_architecture(towers), encode)
    assert found is not None and found.same is not turned


def test_a_lower_precision_passes_and_another_model_does_not(plain: Path) -> None:
    layout, ours = read_architecture(plain), encoded(plain)
    rng = np.random.default_rng(0)

    def noisy(texts: list[str], is_query: bool) -> Vectors:
        vectors = ours(texts, is_query)
        return (vectors + rng.normal(0, 0.01, vectors.shape)).astype(np.float32)

    prove(plain, layout, ours, exact=True)
    prove(plain, layout, noisy, exact=False)
    with pytest.raises(ModelError, match=r"DIFFER .* the worst is of a"):
        prove(plain, layout, noisy, exact=True)
    with pytest.raises(ModelError, match="DIFFER"):
        prove(plain, layout, lambda texts, is_query: -ours(texts, is_query), exact=False)


def test_doctor_tells_of_a_changed_folder(plain: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(plain)])
    assert done.exit_code == 0 and "those in embedfit.json" in done.stdout
    pooling = plain / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "pooling_mode": "max"}))
    done = CliRunner().invoke(app, ["doctor", str(plain)])
    assert done.exit_code == 1 and "DIFFER from those in embedfit.json" in done.stdout
    told = json.loads(CliRunner().invoke(app, ["doctor", str(plain), "--json"]).stdout)
    assert told["golden"]["same"] is False


def test_doctor_shows_and_compares_both_towers(towers: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(towers), "--against", "sentence-transformers"])
    assert done.exit_code == 0, done.stdout
    for part in ("passages: Transformer in document/", "queries: Pooling", "embedfit.json", "sentence-transformers'"):
        assert part in done.stdout


def test_doctor_names_the_module_of_the_tower_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    towers = SHAPES["query"](make_tiny_bert(tmp_path / "base", pooling="mean"), tmp_path)
    load = Encoder.load

    def changed(folder: Path, **more: object) -> Encoder:
        encoder = load(folder, **more)  # type: ignore[arg-type]
        encoder.tower(is_query=True).head.pooling = load(tmp_path / "max").head.pooling
        return encoder

    make_tiny_bert(tmp_path / "max", pooling="max")
    monkeypatch.setattr(Encoder, "load", changed)
    done = CliRunner().invoke(app, ["doctor", str(towers), "--against", "sentence-transformers"])
    assert done.exit_code == 1
    assert "of a query" in done.stdout and "DIFFER from sentence-transformers'" in done.stdout


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b'{"texts": []}', b'{"texts": [{"role": "query", "text": "a", "vector": [1]}]}',
        b'{"texts": [{"role": "other", "text": "a", "vector": []}]}',
        b'{"texts": [{"role": "query", "text": "aaaaaaaaaaaaaaaaaaaa", "times": 9999, "vector": [1]}]}',
        b'{"texts": [{"role": "query", "text": "a", "times": 100000000000, "vector": [1]}]}', b"[" * 100_000, b"\xff",
    ],
)  # fmt: skip
def test_a_file_that_is_none_of_ours_is_a_clear_error(content: bytes, plain: Path) -> None:
    (plain / "embedfit.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"embedfit\.json"):
        read_golden(plain, read_architecture(plain))


def test_a_folder_without_golden_vectors_is_not_checked(tiny_bert: Path) -> None:
    assert check_golden(tiny_bert, read_architecture(tiny_bert), lambda *_: pytest.fail("nothing to encode")) is None


def test_models_that_read_nothing_of_a_text_have_golden_vectors(tmp_path: Path) -> None:
    static = save_static(tmp_path / "static")
    save_towers(tmp_path / "merged", query=static, document=static)
    found = check_golden(tmp_path / "merged", read_architecture(tmp_path / "merged"), encoded(tmp_path / "merged"))
    assert found is not None and found.same and found.texts > 0
