"""A model folder on disk: its weights under plain names, and writing one in the classic layout that TEI boots."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from embedfit.errors import ModelError
from embedfit.models.architecture import DOCUMENT, POOLING_MODES, QUERY, Architecture, Dense, Pooling, Transformer
from embedfit.models.layout.families import Family
from embedfit.models.layout.files import read_json, weight_files
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.router import Listed

if TYPE_CHECKING:
    import torch

#: The name of a matrix that holds those of query, key and value.
_FUSED = ".attn.Wqkv."
#: Files that travel unchanged from a base to a tuned model: those of the tokenizer, and bge-m3's other heads, which
#: FlagEmbedding reads. They are copied as bytes, never read.
_TRAVELLING = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "added_tokens.json",
    "sparse_linear.pt",
    "colbert_linear.pt",
)


def read_module(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of one module's folder, all shards, on the CPU, under the names and in the types of its files."""
    from safetensors.torch import load_file  # loads torch, which reading an architecture does not need

    files = weight_files(folder)
    if not files:
        raise ModelError(f"{folder} has no model.safetensors.")
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} is damaged or cut off: {error}", remedy="Fetch or make the model again."
            ) from error
    return tensors


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a model folder, on the CPU, in the type they are stored in.

    The transformer's have the names of the bare transformer, those of dense layers their folder before the name. Raises
    ModelError for a model of two towers.
    """
    architecture = read_architecture(folder)
    if architecture.queries is not None:
        raise ModelError(
            f"{folder} has two towers, so it has no weights that can be mixed or trained as one model's.",
            remedy=f"Use the folder of one tower: {folder / DOCUMENT} or {folder / QUERY}.",
        )
    tensors = bare(read_module(folder / architecture.first.path), architecture.family)
    for module in architecture.modules:
        if isinstance(module, Dense):
            own = read_module(folder / module.path)
            tensors |= {f"{module.path}/{name}": tensor for name, tensor in own.items()}
    return tensors


def bare(tensors: Mapping[str, torch.Tensor], family: Family) -> dict[str, torch.Tensor]:
    """Weights of a transformer's files under the names of the bare transformer; those of a head are left out."""
    start = f"{family.prefix}."
    if family.prefix and any(name.startswith(start) for name in tensors):
        tensors = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    if not family.file_names:
        return dict(tensors)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        for in_file, in_class in family.file_names:
            name = name.replace(in_file, in_class)
        if _FUSED in name:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            found |= {name.replace(_FUSED, f".self_attn.{part}_proj."): rows for part, rows in parts}
        else:
            found[name] = tensor
    return found


def _as_in_files(tensors: Mapping[str, torch.Tensor], family: Family) -> dict[str, torch.Tensor]:
    """bare() turned around."""
    if not family.file_names:
        return dict(tensors)
    import torch

    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if re.search(r"\.self_attn\.[kv]_proj\.", name):
            continue
        if ".self_attn.q_proj." in name:
            others = [tensors[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            name, tensor = name.replace(".self_attn.q_proj.", _FUSED), torch.cat(others)
        for in_file, in_class in family.file_names:
            name = re.sub(rf"(?<!encoder\.){re.escape(in_class)}", in_file, name)
        found[name] = tensor
    return found


def save_model(folder: Path, tensors: Mapping[str, torch.Tensor], *, base: Path, layout: Architecture) -> None:
    """Write a complete model folder in the classic layout.

    tensors: named as by read_tensors(). The tokenizer, config.json and weights that are not among the tensors (a
    pooler, a dense layer) come from base, which has the same modules. TEI needs the old keys and type paths that
    sentence-transformers 6 no longer writes but still reads.
    """
    from safetensors.torch import save_file  # loads torch, which reading an architecture does not need

    folder.mkdir(parents=True, exist_ok=True)
    source = base / layout.first.path
    _copy(source, folder, _TRAVELLING)
    others = read_tensors(base) if weight_files(source) else {}
    others = {name: tensor for name, tensor in others.items() if name not in tensors}  # the rest takes memory
    plain = {**others, **{name: tensor.detach() for name, tensor in tensors.items()}}
    plain = {name: (tensor.float() if tensor.is_floating_point() else tensor) for name, tensor in plain.items()}
    own = _as_in_files({name: tensor for name, tensor in plain.items() if "/" not in name}, layout.family)
    own = {name: tensor.contiguous().cpu().clone() for name, tensor in own.items()}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    if isinstance(layout.first, Transformer):
        _write_config(source / "config.json", folder / "config.json")
    for path, module in _write_layout(folder, layout).items():
        start = f"{module.path}/"
        weights = {k.removeprefix(start): v.contiguous().cpu() for k, v in plain.items() if k.startswith(start)}
        save_file(weights, folder / path / "model.safetensors", metadata={"format": "pt"})


def copy_model(folder: Path, *, base: Path, layout: Architecture) -> None:
    """Write a complete model folder in the classic layout with base's own files, byte for byte.

    The copy has base's key in the store of vectors. layout: base's, with its right prompts. Dense modules that base
    lacks get their config.json; the caller writes their weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = base / layout.first.path
    weights = [path.name for path in weight_files(source)]
    _copy(source, folder, ("config.json", "model.safetensors.index.json", *weights, *_TRAVELLING))
    for path, module in _write_layout(folder, layout).items():
        _copy(base / module.path, folder / path, [file.name for file in weight_files(base / module.path)])


def _copy(source: Path, folder: Path, names: Iterable[str]) -> None:
    if source.resolve() == folder.resolve():
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)  # two towers share files: a copy must not write into the other's
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _write_layout(folder: Path, layout: Architecture) -> dict[str, Dense]:
    """Write every file that says how texts become vectors; returns the Dense modules by their new paths."""
    if isinstance(layout.first, Transformer):
        settings = {"max_seq_length": layout.max_tokens, "do_lower_case": layout.first.lower_case}
        write_json(folder / "sentence_bert_config.json", settings)
    kinds = [("", type(layout.first).__name__)]
    dense: dict[str, Dense] = {}
    for number, module in enumerate(layout.modules[1:], 1):
        path = f"{number}_{type(module).__name__}"
        kinds.append((path, type(module).__name__))
        (folder / path).mkdir(exist_ok=True)
        if isinstance(module, Pooling):
            write_json(folder / path / "config.json", _pooling(module, layout.hidden_size))
        elif isinstance(module, Dense):
            write_json(folder / path / "config.json", _dense(module))
            dense[path] = module
    write_modules(folder, [(f"sentence_transformers.models.{kind}", path) for path, kind in kinds])
    write_texts(folder, layout)
    return dense


def write_modules(folder: Path, listed: Listed) -> None:
    """Write modules.json."""
    modules = [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (kind, path) in enumerate(listed)]
    write_json(folder / "modules.json", modules)


def write_texts(folder: Path, layout: Architecture) -> None:
    """Write config_sentence_transformers.json: prompts, similarity and the length of vectors."""
    roles = {"query": layout.query_instruction, "document": layout.document_instruction}
    own: dict[str, object] = {
        "__version__": {"sentence_transformers": "2.7.0", "transformers": "4.40.0", "pytorch": "2.2.0"},
        "prompts": {**layout.prompts, **roles},
        "default_prompt_name": layout.default_prompt,
        "similarity_fn_name": layout.similarity,
    }
    own |= {} if layout.dimensions is None else {"truncate_dim": layout.dimensions}
    write_json(folder / "config_sentence_transformers.json", own)


def _write_config(source: Path, target: Path) -> None:
    """Write config.json for weights in fp32, without the name of the model that they were trained from."""
    config = dict(read_json(source))
    config.pop("_name_or_path", None)
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = "float32"
    write_json(target, config)


def _pooling(pooling: Pooling, width: int) -> dict[str, object]:
    names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    config: dict[str, object] = {"word_embedding_dimension": width}
    for mode in ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"):
        config[f"pooling_mode_{names.get(mode, mode)}"] = mode in pooling.modes
    config["include_prompt"] = pooling.include_prompt
    if pooling.modes != tuple(mode for mode in POOLING_MODES if mode in pooling.modes):
        config["pooling_mode"] = list(pooling.modes)  # the order is lost in flags, so names are written too
    return config


def _dense(dense: Dense) -> dict[str, object]:
    group = "linear" if dense.activation == "Identity" else "activation"
    config: dict[str, object] = {
        "in_features": dense.inputs,
        "out_features": dense.outputs,
        "bias": dense.bias,
        "activation_function": f"torch.nn.modules.{group}.{dense.activation}",
    }
    return {**config, "use_residual": True} if dense.residual else config


def write_json(path: Path, value: object) -> None:
    """Write one of the folder's JSON files."""
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
