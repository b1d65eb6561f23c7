"""The header of a GGUF file: what it says of its model, and the kinds of its weights.

The gguf package reads it too, but takes seconds for a large vocabulary, and trusts the file.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedfit.errors import ModelError

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor in the file: its row-major shape, GGML's number for its type, and where its bytes start."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file's header; the weights stay on disk."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def value(self, key: str) -> Any:  # noqa: ANN401 - GGUF values are of any type
        """A metadata value; ModelError if it is missing."""
        if key not in self.metadata:
            raise ModelError(f"{self.path} has no {key}.", remedy="Use a GGUF file that llama.cpp's converter wrote.")
        return self.metadata[key]


def read_gguf(path: Path) -> GgufFile:
    """The header of a GGUF file. Raises ModelError if the file is missing, cut off or of another format."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", remedy="Give the path of a GGUF file or of a model folder.")
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < 24 or file.read(4) != _MAGIC:
            raise ModelError(f"{path} is not a GGUF file.", remedy="Delete it and fetch the model again.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _Cursor(data, 4)
                return _read_header(path, header, size)
            except (struct.error, IndexError, ValueError, OverflowError, KeyError, RecursionError) as error:
                raise ModelError(
                    f"{path} is damaged: its header can't be read ({error}).",
                    remedy="Delete it and fetch the model again.",
                ) from error


def _read_header(path: Path, header: _Cursor, size: int) -> GgufFile:
    version = header.scalar("I")
    if version not in (2, 3):
        raise ModelError(f"{path} is of GGUF version {version}; 2 and 3 can be read.", remedy="Convert the model anew.")
    tensor_count, value_count = header.scalar("Q"), header.scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = header.string()
        metadata[key] = header.value(header.scalar("I"))
    relative: dict[str, GgufTensor] = {}
    for _ in range(tensor_count):
        name = header.string()
        dims = [header.scalar("Q") for _ in range(header.scalar("I"))]
        relative[name] = GgufTensor(tuple(reversed(dims)), header.scalar("I"), header.scalar("Q"))
    alignment = int(metadata.get("general.alignment", 32))
    start = -(-header.position // alignment) * alignment
    tensors = {name: GgufTensor(t.shape, t.kind, start + t.offset) for name, t in relative.items()}
    if any(tensor.offset >= size for tensor in tensors.values()):
        raise ModelError(f"{path} is cut off: weights lie behind its end.", remedy="Delete it and fetch it again.")
    return GgufFile(path, metadata, tensors)


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self._data = data
        self.position = position

    def scalar(self, code: str) -> Any:  # noqa: ANN401
        value = struct.unpack_from("<" + code, self._data, self.position)[0]
        self.position += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        raw = self._data[self.position : self.position + length]
        if len(raw) != length:
            raise ValueError("a string runs past the end of the file")
        self.position += length
        return raw.decode("utf-8")

    def value(self, kind: int) -> Any:  # noqa: ANN401
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        element, count = self.scalar("I"), self.scalar("Q")
        if element in _SCALARS:
            values = struct.unpack_from(f"<{count}{_SCALARS[element]}", self._data, self.position)
            self.position += struct.calcsize(f"<{count}{_SCALARS[element]}")
            return list(values)
        return [self.value(element) for _ in range(count)]
