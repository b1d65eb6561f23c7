"""Loads a Hugging Face folder: plain Llamas into the fast path, everything else through transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from embedfit.errors import ModelError
from embedfit.llm.providers.local.backend import Backend, LlamaBackend, calibration_tokens
from embedfit.llm.providers.local.layers import LlamaShape, Weights
from embedfit.llm.providers.local.llama import Arithmetic, Llama


def load_folder(path: Path, arithmetic: Arithmetic) -> tuple[PreTrainedTokenizerBase, Backend, list[int]]:
    """The tokenizer, the backend and the ids that end a turn."""
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is not a complete model folder: {str(error).splitlines()[0]}",
            remedy="Give a folder with config.json, tokenizer.json and *.safetensors.",
        ) from error
    ends = _ends(path, config)
    shape = _llama_shape(config)
    backend: Backend
    if shape is not None:
        tokens = calibration_tokens(tokenizer)[: shape.context]
        backend = LlamaBackend(Llama(shape, _weights(path), arithmetic, calibration=tokens))
    else:
        from embedfit.llm.providers.local.generic import GenericBackend

        backend = GenericBackend(path, arithmetic)
    return tokenizer, backend, ends


def _llama_shape(config: Any) -> LlamaShape | None:  # noqa: ANN401 - a config of any architecture
    """The dimensions of a plain Llama, or None: scaled positions, biases and other architectures."""
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias or config.hidden_act != "silu":
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        return None
    heads = config.num_attention_heads
    return LlamaShape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=heads,
        kv_heads=config.num_key_value_heads or heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        feed_forward=config.intermediate_size,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        epsilon=config.rms_norm_eps,
        rope_base=float(rope.get("rope_theta", getattr(config, "rope_theta", 10000.0))),
    )


def _weights(path: Path) -> Weights:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{path} has no *.safetensors.", remedy="Save the model with save_pretrained(...).")
    weights: Weights = {}
    for file in files:
        try:
            weights.update({name: tensor.float() for name, tensor in load_file(file).items()})
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} can't be read: {error}", remedy="Fetch the model again.") from error
    if "model.embed_tokens.weight" not in weights or "model.norm.weight" not in weights:
        raise ModelError(f"{path} does not hold all weights of a Llama.", remedy="Fetch the model again.")
    return weights


def _ends(path: Path, config: Any) -> list[int]:  # noqa: ANN401
    """Ids that end a turn: generation_config.json before config.json, as transformers does."""
    value: Any = None
    generation = path / "generation_config.json"
    if generation.is_file():
        value = json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id")
    if value is None:
        value = getattr(config, "eos_token_id", None)
    if value is None:
        return []
    return [int(v) for v in value] if isinstance(value, list) else [int(value)]
