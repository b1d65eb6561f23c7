"""Encoding a file of texts into a file of vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.files.textfiles import json_lines, lines_of
from embedfit.models.encoder import load_base
from embedfit.models.windows import blended, windows_of_model
from embedfit.progress import Reporter


def encode_file(model: str, source: Path, output: Path, *, is_query: bool, report: Reporter) -> tuple[int, int]:
    """Write the vectors of a file's texts as .npy, float32 (N, H), in the file's order. Returns (N, H)."""
    texts = read_texts(source)
    vectors = load_base(model).encode(texts, is_query=is_query, report=report)
    with atomic_file(output, binary=True) as file:
        np.save(file, vectors, allow_pickle=False)
    return vectors.shape[0], vectors.shape[1]


def encode_windows(model: str, source: Path, output: Path, *, max_tokens: int, report: Reporter) -> tuple[int, int]:
    """Write the vectors of all windows of a file's passages, and beside it OUTPUT.windows.jsonl.

    For each row of the vectors that file has the number of its passage, counted from 0, and the window's text:
    {"passage": 3, "text": "…"}. A row is the window's vector blended with its passage's; a passage's score is its best
    row's. max_tokens: a window's. Returns (W, H).
    """
    contents = read_texts(source)
    encoder = load_base(model)
    windows = windows_of_model(contents, encoder.tokenizer, encoder.layout, max_tokens=max_tokens)
    whole = encoder.encode_unit(contents, report=report, description="passages")
    vectors = blended(encoder.encode_unit(windows.texts, report=report, description="windows"), whole, windows.starts)
    with atomic_file(output, binary=True) as file:
        np.save(file, vectors, allow_pickle=False)
    with atomic_file(output.with_suffix(".windows.jsonl")) as lines:
        for owner, text in zip(windows.owners.tolist(), windows.texts, strict=True):
            lines.write(json.dumps({"passage": owner, "text": text}, ensure_ascii=False) + "\n")
    return vectors.shape[0], vectors.shape[1]


def read_texts(path: Path) -> list[str]:
    """The texts of a file, one a line; in a .jsonl file the field "text", after "title" if there is one."""
    if path.suffix.lower() == ".jsonl":
        lines = [_passage(record, path, number) for number, record in json_lines(path)]
    else:
        lines = [line for _, line in lines_of(path)]
    if not lines:
        raise InputError(f"{path} holds no text.", remedy="Put one text on each line.")
    return lines


def _passage(record: Mapping[str, object], path: Path, number: int) -> str:
    title, text = record.get("title") or "", record.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        raise InputError(
            f"{path}, line {number}: text is missing, or text or title is no string.",
            remedy='A line is {"text": "…"}, or {"title": "…", "text": "…"}.',
        )
    return f"{title} {text}".strip()
