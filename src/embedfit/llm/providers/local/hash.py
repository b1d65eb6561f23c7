"""The identity of a local model: a hash of its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

#: Only these files decide the replies of a folder's model.
_SUFFIXES = (".safetensors", ".json", ".model", ".jinja", ".txt", ".xml", "openvino_model.bin")


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's weights, configuration and tokenizer with their names."""
    digest = hashlib.sha256()
    if path.is_file():
        _add(digest, path)
    else:
        for file in sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(_SUFFIXES)):
            digest.update(file.name.encode() + b"\0")
            _add(digest, file)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
