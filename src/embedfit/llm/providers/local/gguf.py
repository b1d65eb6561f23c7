"""Reads a GGUF file: its metadata, its weights as float32, and the tokenizer it carries.

transformers can read these files too, but needs accelerate for that, takes some ten seconds, and does not know every
pre-tokenizer. The header is simple enough to read it here.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from embedfit.errors import MissingDependency, ModelError
from embedfit.llm.providers.local.layers import LlamaShape

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_CONTROL, _USER_DEFINED = 3, 4

_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
#: How a text is split before byte-pair merging, by GGUF's name for it: (digits apart, pattern).
_SPLITS: dict[str, tuple[bool, str]] = {
    "smollm": (True, _GPT2_SPLIT),
    "gpt-2": (False, _GPT2_SPLIT),
    "default": (False, _GPT2_SPLIT),
    "llama-bpe": (False, _LLAMA3_SPLIT),
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor in the file: its row-major shape, GGML's number for its type, and where its bytes start."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file's header; the weights stay on disk until read_weights()."""

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
            except (struct.error, IndexError, UnicodeDecodeError, ValueError, OverflowError, KeyError) as error:
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


def read_shape(file: GgufFile) -> LlamaShape:
    """The model's dimensions. Raises ModelError for anything but a plain Llama."""
    architecture = file.value("general.architecture")
    if architecture != "llama" or any("rope_freqs" in name for name in file.tensors):
        raise ModelError(
            f"{file.path} holds a model of architecture {architecture!r} or with scaled positions; "
            "from GGUF only plain Llama can be read.",
            remedy="Use --generator openvino, or give the model's Hugging Face folder instead.",
        )
    heads = int(file.value("llama.attention.head_count"))
    width = int(file.value("llama.embedding_length"))
    return LlamaShape(
        layers=int(file.value("llama.block_count")),
        width=width,
        heads=heads,
        kv_heads=int(file.metadata.get("llama.attention.head_count_kv", heads)),
        head_width=int(file.metadata.get("llama.attention.key_length", width // heads)),
        feed_forward=int(file.value("llama.feed_forward_length")),
        vocabulary=file.tensors["token_embd.weight"].shape[0],
        context=int(file.value("llama.context_length")),
        epsilon=float(file.value("llama.attention.layer_norm_rms_epsilon")),
        rope_base=float(file.metadata.get("llama.rope.freq_base", 10000.0)),
    )


_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_weights(file: GgufFile, shape: LlamaShape) -> dict[str, torch.Tensor]:
    """All weights as float32 under Hugging Face's names."""
    weights = {
        "model.embed_tokens.weight": _tensor(file, "token_embd.weight"),
        "model.norm.weight": _tensor(file, "output_norm.weight"),
    }
    if "output.weight" in file.tensors:
        weights["lm_head.weight"] = _tensor(file, "output.weight")
    for layer in range(shape.layers):
        for short, name in _NAMES.items():
            weight = _tensor(file, f"blk.{layer}.{short}.weight")
            if short in ("attn_q", "attn_k"):
                weight = _half_rotation(weight, shape.heads if short == "attn_q" else shape.kv_heads)
            weights[f"model.layers.{layer}.{name}.weight"] = weight
    return weights


def _tensor(file: GgufFile, name: str) -> torch.Tensor:
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise MissingDependency("gguf", extra="all", needed_for="Reading a GGUF file") from error
    entry = file.tensors.get(name)
    if entry is None:
        raise ModelError(f"{file.path} has no tensor {name}.", remedy="Delete it and fetch the model again.")
    kind = GGMLQuantizationType(entry.kind)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    count = int(np.prod(entry.shape))
    raw: npt.NDArray[np.uint8] = np.fromfile(
        file.path, dtype=np.uint8, count=count // block * block_bytes, offset=entry.offset
    )
    if raw.size != count // block * block_bytes:
        raise ModelError(f"{file.path} is cut off within {name}.", remedy="Delete it and fetch the model again.")
    try:
        rows = raw.reshape(*entry.shape[:-1], -1)
        if kind == GGMLQuantizationType.F32:
            values = rows.view(np.float32)
        elif kind == GGMLQuantizationType.F16:
            values = rows.view(np.float16).astype(np.float32)
        else:
            values = dequantize(rows, kind)
    except NotImplementedError as error:
        raise ModelError(
            f"{name} in {file.path} is of type {kind.name}, which can't be read.",
            remedy="Use another quantisation of the model, such as Q8_0 or Q4_1.",
        ) from error
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).reshape(entry.shape))


def _half_rotation(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from llama.cpp's order (rotated pairs side by side) to Hugging Face's (first and second half)."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width).contiguous()


def is_foreign(path: Path) -> bool:
    """Whether this is a whole model in a form that this engine can't run, but openvino-genai may be able to."""
    if path.is_dir():
        return (path / "openvino_model.xml").is_file()
    try:
        file = read_gguf(path)
    except ModelError:
        return False
    try:
        read_shape(file)
        _split_of(file)
    except ModelError:
        return True
    return False


def _split_of(file: GgufFile) -> tuple[bool, str]:
    """How the file's tokenizer splits a text. Raises ModelError for a tokenizer that can't be read."""
    kind, split = file.value("tokenizer.ggml.model"), file.metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or split not in _SPLITS:
        raise ModelError(
            f"{file.path} has a tokenizer of kind {kind}/{split}, which can't be read from a GGUF file.",
            remedy="Give the model's Hugging Face folder instead.",
        )
    return _SPLITS[split]


def build_tokenizer(file: GgufFile) -> Tokenizer:
    """The byte-level BPE tokenizer that the file carries. Raises ModelError for other kinds."""
    digits_apart, pattern = _split_of(file)
    tokens: list[str] = file.value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in file.value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits_apart else []
    steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    kinds: list[int] = file.metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    special = [
        AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == _CONTROL
    ]
    defined = [
        AddedToken(t, special=False, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == _USER_DEFINED
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(defined)
    return tokenizer
