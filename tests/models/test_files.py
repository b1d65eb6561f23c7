"""Files of texts to files of vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedfit.models.encoder import Encoder
from embedfit.models.store.files import encode_file, encode_windows
from embedfit.progress import Silent


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"title": "tv", "text": "mute the sound"}, {"text": "what is the query " * 80}, {"text": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_each_window_has_a_vector_and_says_of_which_passage_it_is(passages: Path, tiny_bert: Path, tmp_path: Path):
    output = tmp_path / "vectors.npy"
    rows, size = encode_windows(str(tiny_bert), passages, output, max_tokens=64, report=Silent())
    lines = [json.loads(line) for line in output.with_suffix(".windows.jsonl").read_text("utf-8").splitlines()]
    vectors = np.load(output)
    assert vectors.shape == (rows, size) == (len(lines), size)
    owners = [line["passage"] for line in lines]
    assert owners == sorted(owners)
    assert (owners.count(0), owners.count(2)) == (1, 1)
    assert owners.count(1) > 2
    assert lines[0]["text"] == "tv mute the sound"
    encoder = Encoder.load(tiny_bert)
    whole = encoder.encode(["tv mute the sound", "what is the query " * 80, ""])
    expected = 2 * encoder.encode([line["text"] for line in lines]) + whole[owners]
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_passage_that_fits_has_the_vector_that_it_has_without_windows(
    passages: Path, tiny_bert: Path, tmp_path: Path
):
    encode_file(str(tiny_bert), passages, tmp_path / "plain.npy", is_query=False, report=Silent())
    encode_windows(str(tiny_bert), passages, tmp_path / "windows.npy", max_tokens=64, report=Silent())
    plain, windows = np.load(tmp_path / "plain.npy"), np.load(tmp_path / "windows.npy")
    assert len(plain) == 3
    np.testing.assert_allclose(plain[[0, 2]], windows[[0, -1]], atol=1e-5)
