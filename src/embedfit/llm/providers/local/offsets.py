"""Rewrites GGUF files whose weights openvino-genai would read with errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedfit.errors import MissingDependency, ModelError, first_line
from embedfit.files.atomic import atomic_folder
from embedfit.llm.providers.local.gguf import GgufFile
from embedfit.runtime import cache_folder

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, ReaderTensor

#: An object of the gguf package, of which a type checker knows no type.
Untyped: TypeAlias = Any

#: GGML's numbers of the kinds that openvino-genai computes with as they are stored: F32, F16, Q4_0, Q8_0.
_EXACT = frozenset({0, 1, 2, 8})
_COPY = "writer.gguf"


def without_offsets(file: GgufFile, content: str) -> Path:
    """A GGUF file whose weights openvino-genai reads as they are meant: the file itself, or a copy in the cache.

    In kinds such as Q4_1 a block of weights is d·q + m. openvino-genai makes d·(q - z) of that and rounds
    z = -m/d to four bits, which moves all weights of the block by up to d/2. The copy has such weights in eight bits
    without an offset (Q8_0), which is nearer to the file than its own steps. content: a hash of the file, which names
    the copy.

    Raises ModelError if the file is damaged or has weights that can't be read.
    """
    if all(tensor.kind in _EXACT for tensor in file.tensors.values()):
        return file.path
    target = cache_folder() / "writers" / content[:32]
    if not (target / _COPY).is_file():
        with atomic_folder(target) as folder:
            try:
                _rewrite(file, folder / _COPY)
            except (ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
                raise ModelError(
                    f"{file.path} is damaged, or has weights that can't be read: {first_line(error)}",
                    remedy="Fetch the model again, or use another quantisation of it, such as Q8_0.",
                ) from error
    return target / _COPY


def _rewrite(file: GgufFile, target: Path) -> None:
    try:
        from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    except ImportError as error:
        raise MissingDependency("gguf", extra="local", needed_for="Reading this GGUF file") from error
    reader: Untyped = GGUFReader(file.path)
    writer: Untyped = GGUFWriter(target, file.value("general.architecture"))
    own = ("general.architecture", "general.alignment", "general.file_type")
    for name, field in reader.fields.items():
        if name in file.metadata and name not in own:
            is_list = field.types[0] == GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if is_list else None)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    for tensor in reader.tensors:
        _announce(writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(_data(tensor))
    writer.close()


def _announce(writer: Untyped, tensor: ReaderTensor) -> None:
    """Name, shape and kind of a tensor of the copy, whose data follow later: the whole model is never in memory."""
    from gguf import GGML_QUANT_SIZES

    kind, shape = _kind(tensor), [int(size) for size in reversed(tensor.shape)]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    size = int(np.prod(shape)) // block * block_bytes
    writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, raw_dtype=kind)


def _kind(tensor: ReaderTensor) -> GGMLQuantizationType:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if tensor.tensor_type in _EXACT:
        return tensor.tensor_type
    block, _ = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]
    fits = len(tensor.shape) > 1 and tensor.shape[0] % block == 0
    return GGMLQuantizationType.Q8_0 if fits else GGMLQuantizationType.F16


def _data(tensor: ReaderTensor) -> npt.NDArray[Untyped]:
    from gguf.quants import dequantize, quantize

    kind = _kind(tensor)
    return tensor.data if kind == tensor.tensor_type else quantize(dequantize(tensor.data, tensor.tensor_type), kind)
