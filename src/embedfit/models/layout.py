"""How a sentence-transformers model lies on disk: read both its old and its new form, write the one that TEI boots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError

from embedfit.errors import ModelError

if TYPE_CHECKING:
    import torch

Pooling = Literal["cls", "mean"]

#: Files that belong to a tokenizer or a configuration and travel unchanged from a base to a tuned model.
_TRAVELLING = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "added_tokens.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What turns a transformer's hidden states into this model's vectors.

    max_tokens: of a text, special tokens included. prompts: by name; "query" is put before queries.
    """

    pooling: Pooling
    normalize: bool
    max_tokens: int
    hidden_size: int
    model_type: str
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)

    @property
    def query_instruction(self) -> str:
        """What is put before every query; empty where the model has none."""
        return self.prompts.get("query", "")

    @property
    def document_instruction(self) -> str:
        """What is put before every passage, such as E5's "passage: "; empty for BGE, MiniLM and most others."""
        return document_instruction(self.prompts)


def document_instruction(prompts: Mapping[str, str]) -> str:
    """What a model's prompts put before passages, under any name that sentence-transformers' encode_document knows.

    There an unset "document" counts as found, so that E5's "passage" is passed over; its authors trained with it.
    """
    return next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")


def read_layout(folder: Path) -> Layout:
    """The layout of a model folder. Raises ModelError naming the file that is missing or not understood."""
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}.")
    config = _json(folder / "config.json")
    modules = _json(folder / "modules.json") if (folder / "modules.json").exists() else None
    if modules is None:
        raise ModelError(
            f"{folder} has no modules.json: its pooling (CLS or mean) is not known, and a guess gives wrong vectors.",
            remedy="Save the model with sentence-transformers, or use the folder of its hub id.",
        )
    if not (folder / "model.safetensors").exists():
        others = sorted(path.name for path in folder.glob("*.bin"))
        found = f" ({', '.join(others)} is a pickle and is not read)" if others else ""
        raise ModelError(
            f"{folder} has no model.safetensors{found}.", remedy="Convert or download the model as safetensors."
        )
    kinds = {str(module["type"]).rsplit(".", 1)[-1].lower(): str(module.get("path", "")) for module in modules}
    unknown = set(kinds) - {"transformer", "pooling", "normalize"}
    if unknown or not {"transformer", "pooling"} <= set(kinds):
        raise ModelError(
            f"{folder}/modules.json lists {', '.join(sorted(kinds))}; embedfit knows Transformer, Pooling, Normalize.",
            remedy="Use a model of the BGE or MiniLM kind: a transformer, CLS or mean pooling, and a norm.",
        )
    sentence_bert = _json(folder / "sentence_bert_config.json", optional=True)
    own = _json(folder / "config_sentence_transformers.json", optional=True)
    positions = int(config.get("max_position_embeddings", 512))
    window = sentence_bert.get("max_seq_length") or tokenizer_window(folder) or positions
    return Layout(
        pooling=_pooling(folder / kinds["pooling"] / "config.json"),
        normalize="normalize" in kinds,
        max_tokens=min(int(window), usable_positions(config)),
        hidden_size=int(config["hidden_size"]),
        model_type=str(config.get("model_type", "bert")),
        lower_case=bool(sentence_bert.get("do_lower_case", False)),
        prompts={name: text for name, text in (own.get("prompts") or {}).items() if text},
    )


def usable_positions(config: Mapping[str, Any]) -> int:
    """Positions that a text can take, special tokens included. config: config.json's content."""
    positions = int(config.get("max_position_embeddings", 512))
    # RoBERTa's positions start after the padding index, so two of them can't be used.
    return positions - 2 if config.get("model_type") in ("roberta", "xlm-roberta") else positions


def tokenizer_window(folder: Path) -> int | None:
    """The longest text that a folder's tokenizer is set for, or None where it has no limit."""
    value = _json(folder / "tokenizer_config.json", optional=True).get("model_max_length")
    return int(value) if isinstance(value, (int, float)) and value < 1e6 else None


def _pooling(path: Path) -> Pooling:
    config = _json(path)
    mode = config.get("pooling_mode")
    if mode is None:
        flags = [
            name.removeprefix("pooling_mode_")
            for name, on in config.items()
            if name.startswith("pooling_mode_") and on is True
        ]
        mode = flags[0] if len(flags) == 1 else "+".join(flags)
    known: dict[str, Pooling] = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean"}
    if str(mode) not in known:
        raise ModelError(f"{path} asks for {mode or 'no'} pooling; embedfit knows CLS and mean pooling.")
    return known[str(mode)]


def _json(path: Path, *, optional: bool = False) -> Any:  # noqa: ANN401 - JSON
    if not path.exists():
        if optional:
            return {}
        raise ModelError(f"{path.parent} is not a whole model folder: {path.name} is missing.")
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a model folder, on the CPU, in the type they are stored in."""
    from safetensors.torch import load_file  # loads torch, which reading a layout does not need

    path = folder / "model.safetensors"
    if not path.exists():
        raise ModelError(f"{folder} has no model.safetensors.")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or cut off: {error}", remedy="Fetch or make the model again.") from error


def save_model(folder: Path, tensors: Mapping[str, torch.Tensor], *, base: Path, layout: Layout) -> None:
    """Write a complete model folder in the classic layout.

    tensors: under the names of the bare transformer. The tokenizer, config.json and weights that are
    not among the tensors (a pooler, say) come from base. TEI needs the old keys and type paths that
    sentence-transformers 6 no longer writes but still reads.
    """
    from safetensors.torch import save_file  # see read_tensors()

    folder.mkdir(parents=True, exist_ok=True)
    for name in _TRAVELLING:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    others = read_tensors(base) if (base / "model.safetensors").exists() else {}
    plain = {name.removeprefix("bert."): tensor for name, tensor in others.items()}
    plain |= {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + (
        [("2_Normalize", "Normalize")] if layout.normalize else []
    )
    _write(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
    _write(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": layout.hidden_size,
            "pooling_mode_cls_token": layout.pooling == "cls",
            "pooling_mode_mean_tokens": layout.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": False,
            "include_prompt": True,
        },
    )
    _write(
        folder / "sentence_bert_config.json",
        {"max_seq_length": layout.max_tokens, "do_lower_case": layout.lower_case},
    )
    _write(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "2.7.0", "transformers": "4.40.0", "pytorch": "2.2.0"},
            "prompts": {"query": layout.query_instruction, "document": layout.document_instruction},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
