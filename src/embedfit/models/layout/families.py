"""The table of the families of transformers that embedfit is shown to run rightly, and of their differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from embedfit.errors import ModelError

Attention = Literal["bidirectional", "causal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The differences between transformers of one type and those of others.

    width_key: the name of the hidden size in config.json. lost_positions: positions of the table that no token can
    take; None: there is no table, so any length can be read; "pad": those up to the padding token's id.
    attention: the default, if config.json does not set it.
    causal_flag: the key of config.json that changes the attention, and the value that makes it bidirectional.
    class_name: of transformers' encoder, where AutoModel would build more than that. prefix: before the names of
    weights that were saved with a head. has_pooler: the class can be built without BERT's pooler, which nothing uses.
    exports: its graphs have been shown to be right in ONNX and OpenVINO.
    """

    name: str
    width_key: str = "hidden_size"
    lost_positions: int | Literal["pad"] | None = 0
    attention: Attention = "bidirectional"
    causal_flag: tuple[str, bool] | None = None
    class_name: str | None = None
    prefix: str = ""
    has_pooler: bool = False
    takes_token_types: bool = False
    exports: bool = True

    def usable_positions(self, config: Mapping[str, JsonValue]) -> int | None:
        """Positions that a text can take, special tokens included; None: any number. config: config.json's content."""
        if self.lost_positions is None or config.get("position_biased_input") is False:
            return None
        positions = config.get("max_position_embeddings", 512)
        lost = self.lost_positions
        if lost == "pad":
            pad_id = config.get("pad_token_id", 1)
            lost = pad_id + 1 if isinstance(pad_id, int) else 0
        return positions - lost if isinstance(positions, int) else None

    def attention_of(self, config: Mapping[str, JsonValue]) -> Attention:
        """The attention of a configuration: whether a token sees the tokens after it."""
        if self.causal_flag is not None and config.get(self.causal_flag[0]) is self.causal_flag[1]:
            return "bidirectional"
        return self.attention


_T5 = Family(
    name="T5", class_name="T5EncoderModel", prefix="transformer", width_key="d_model", lost_positions=None,
    exports=False,
)  # fmt: skip
_DECODER = Family(
    name="Qwen2", prefix="model", lost_positions=None, attention="causal", causal_flag=("is_causal", False),
    exports=False,
)  # fmt: skip

#: By transformers' model_type. RoBERTa's positions start after the padding token's id, MPNet's always after 1.
FAMILIES: dict[str, Family] = {
    "bert": Family(name="BERT", prefix="bert", has_pooler=True, takes_token_types=True),
    "roberta": Family(name="RoBERTa", prefix="roberta", lost_positions="pad", has_pooler=True),
    "xlm-roberta": Family(name="XLM-RoBERTa", prefix="roberta", lost_positions="pad", has_pooler=True),
    "camembert": Family(name="CamemBERT", prefix="roberta", lost_positions="pad", has_pooler=True),
    "mpnet": Family(name="MPNet", prefix="mpnet", lost_positions=2, has_pooler=True),
    "distilbert": Family(name="DistilBERT", prefix="distilbert", width_key="dim"),
    "albert": Family(name="ALBERT", prefix="albert", has_pooler=True),
    "electra": Family(name="ELECTRA", prefix="electra"),
    "deberta": Family(name="DeBERTa", prefix="deberta", exports=False),
    "deberta-v2": Family(name="DeBERTa-v2", prefix="deberta", exports=False),
    "modernbert": Family(name="ModernBERT", prefix="model", lost_positions=None),
    "t5": _T5,
    "mt5": replace(_T5, name="mT5", class_name="MT5EncoderModel"),
    "qwen2": _DECODER,
    "qwen3": replace(_DECODER, name="Qwen3"),
    "mistral": replace(_DECODER, name="Mistral"),
    "llama": replace(_DECODER, name="Llama"),
    "gemma3_text": replace(_DECODER, name="Gemma 3", causal_flag=("use_bidirectional_attention", True)),
    "static": Family(name="static embeddings", lost_positions=None),
}


def family_of(path: Path, config: Mapping[str, JsonValue]) -> Family:
    """The family of a configuration. Raises ModelError for one that embedfit can't prove to run rightly."""
    model_type = config.get("model_type")
    if config.get("auto_map"):
        raise ModelError(
            f"{path} says that {model_type or 'the model'} needs code of its own (auto_map); embedfit never runs such "
            "code, and the model would not be the same without it.",
            remedy="Use a model of a family that needs none, such as --model minilm, gte-modernbert or bge-m3.",
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES or model_type == "static":
        known = ", ".join(family.name for name, family in FAMILIES.items() if name != "static")
        raise ModelError(
            f"{path}: the model type {model_type!r} is none that embedfit has been shown to run rightly.",
            remedy=f"It runs {known}. Choose such a model, for example --model minilm.",
        )
    return FAMILIES[model_type]
