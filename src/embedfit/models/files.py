"""A file of texts to a file of vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from embedfit.errors import InputError
from embedfit.models.encoder import load_base
from embedfit.progress import Reporter
from embedfit.workspace import atomic_file


def encode_file(model: str, source: Path, output: Path, *, is_query: bool, report: Reporter) -> tuple[int, int]:
    """Write the vectors of a file's texts as .npy, float32 (N, H), in the file's order. Returns (N, H)."""
    texts = read_texts(source)
    vectors = load_base(model).encode(texts, is_query=is_query, report=report)
    with atomic_file(output, binary=True) as file:
        np.save(file, vectors, allow_pickle=False)
    return vectors.shape[0], vectors.shape[1]


def read_texts(path: Path) -> list[str]:
    """The texts of a file: one a line, or, in a .jsonl file, the field "text" (after "title", if there is one)."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from error
    if path.suffix == ".jsonl":
        texts = [_text_of(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    else:
        texts = lines
    if not texts:
        raise InputError(f"{path} holds no text.", remedy="Put one text on each line.")
    return texts


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        record = json.loads(line)
        return f"{record.get('title') or ''} {record['text']}".strip()
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}, line {number}: not a JSON object with a field text.") from error
