"""A query map: its vectors, its file, and files and vectors that are none of its own."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file

import embedfit
from embedfit.errors import InputError
from embedfit.models.query_map import MapCard, QueryMap

NUMBERS = st.floats(-1e3, 1e3, width=32)


def random_map(width: int = 6, seed: int = 0) -> QueryMap:
    rng = np.random.default_rng(seed)
    probes = rng.normal(size=(4, width)).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    card = MapCard(embedder="titan-v2", made={"questions": 355, "note": "é"})
    return QueryMap(rng.normal(size=(width, width)).astype(np.float32), card, probes)


@given(arrays(np.float32, (5, 6), elements=NUMBERS))
def test_rows_are_the_products_normalised_whatever_stands_beside_them(vectors: np.ndarray) -> None:
    made = random_map()
    mapped = made(vectors)
    assert mapped.shape == vectors.shape and mapped.dtype == np.float32
    for row, source in zip(mapped, vectors, strict=True):
        expected = made.matrix.astype(np.float64) @ source
        length = np.linalg.norm(expected)
        if length > 1e-3:
            np.testing.assert_allclose(row, expected / length, atol=1e-3)
            assert np.linalg.norm(row) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(mapped[2:3], made(vectors[2:3]), atol=1e-4)


def test_a_map_is_the_same_after_its_file(tmp_path: Path) -> None:
    made = random_map()
    made.save(tmp_path / "map.safetensors")
    found = embedfit.QueryMap.load(str(tmp_path / "map.safetensors"))
    np.testing.assert_array_equal(found.matrix, made.matrix)
    np.testing.assert_array_equal(found.probes, made.probes)
    assert found.card == made.card and found.width == 6
    QueryMap(made.matrix).save(tmp_path / "plain.safetensors")
    assert QueryMap.load(tmp_path / "plain.safetensors").probes is None


def test_blending_with_nothing_of_the_map_changes_no_vector() -> None:
    made, vectors = random_map(), np.eye(6, dtype=np.float32)
    np.testing.assert_allclose(made.blended(0)(vectors), vectors, atol=1e-6)
    np.testing.assert_allclose(made.blended(1)(vectors), made(vectors), atol=1e-6)
    half = made.blended(0.5).matrix
    np.testing.assert_allclose(half, (made.matrix + np.eye(6)) / 2, atol=1e-6)


def test_no_queries_give_no_vectors_and_zeros_stay() -> None:
    made = random_map()
    assert made(np.zeros((0, 0), np.float32)).shape == (0, 6)
    assert not made(np.zeros((2, 6), np.float32)).any()


@pytest.mark.parametrize(
    ("vectors", "word"),
    [
        (np.ones((2, 7)), "another embedder"),
        (np.ones(6), "another embedder"),
        (np.array([[1, 2, 3, 4, 5, np.nan]]), "NaN"),
        (np.array([[1, 2, 3, 4, 5, np.inf]]), "NaN"),
    ],
)
def test_vectors_of_another_kind_are_refused(vectors: np.ndarray, word: str) -> None:
    with pytest.raises(InputError, match=word):
        random_map()(vectors.astype(np.float32))


def test_another_embedder_is_noticed_by_its_probes() -> None:
    made = random_map()
    assert made.probes is not None
    made.check_embedder(made.probes)
    made.check_embedder(made.probes[:1] * 3)  # rounding and length don't count
    with pytest.raises(InputError, match=r"another embedder, titan-v2.*(\n|.)*embedfit adapt"):
        made.check_embedder(made.probes[:, ::-1].copy())
    with pytest.raises(InputError, match="6 wide"):
        made.check_embedder(np.ones((4, 5), np.float32))
    QueryMap(made.matrix).check_embedder(made.probes[:, ::-1].copy())  # nothing is known of its embedder


def bad_files(folder: Path) -> dict[str, Path]:
    square = np.eye(3, dtype=np.float32)
    card = {"version": "1", "made": "{}"}
    files = {name: folder / f"{name}.safetensors" for name in (
        "text", "pickle", "npy", "empty", "no matrix", "no card", "later", "oblong", "nan", "doubles", "probes", "made",
    )}  # fmt: skip
    files["text"].write_text("a map\n")
    files["pickle"].write_bytes(pickle.dumps(square))
    with files["npy"].open("wb") as file:
        np.save(file, square)
    files["empty"].write_bytes(b"")
    save_file({"weight": square}, files["no matrix"], metadata=card)
    save_file({"matrix": square}, files["no card"])
    save_file({"matrix": square}, files["later"], metadata=card | {"version": "2"})
    save_file({"matrix": square[:2]}, files["oblong"], metadata=card)
    save_file({"matrix": square * np.float32(np.nan)}, files["nan"], metadata=card)
    save_file({"matrix": square.astype(np.float64)}, files["doubles"], metadata=card)
    save_file({"matrix": square, "probes": square[:, :2].copy()}, files["probes"], metadata=card)
    save_file({"matrix": square}, files["made"], metadata=card | {"made": "[1"})
    return files | {"missing": folder / "missing", "folder": folder}


def test_a_file_that_is_no_map_is_named_in_a_clear_error(tmp_path: Path) -> None:
    files = bad_files(tmp_path)
    for name, path in files.items():
        with pytest.raises(InputError) as caught:
            QueryMap.load(path)
        assert str(path) in caught.value.message and "embedfit adapt" in str(caught.value.remedy), name


@pytest.mark.parametrize("shape", [(2, 3), (0, 0), (4,)])
def test_a_matrix_that_is_not_square_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="square"):
        QueryMap(np.ones(shape, np.float32))
