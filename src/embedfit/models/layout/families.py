"""The table of the families of transformers that embedfit is shown to run rightly, and of their differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from embedfit.errors import ModelError

#: What makes Text Embeddings Inference's CPU image run a family that it does not know.
WITH_GRAPH = "its CPU image runs it with an ONNX graph: embedfit export FOLDER --onnx"
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
    exports: its graphs have been shown to be right in ONNX and OpenVINO. file_names: parts of the weights' names in
    files and in transformers' class, where they differ. built_in: transformers' class computes what the code that the
    hub's folders name (auto_map) does. tei: what Text Embeddings Inference 1.9.3 runs the family on by itself
    (backends/candle/src/lib.rs); with an ONNX graph in the folder its CPU image runs any. tei_keys: keys of config.json
    that it reads and that transformers 5 writes no more.
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
    file_names: tuple[tuple[str, str], ...] = ()
    built_in: bool = False
    tei: Literal["any", "gpu", "nothing"] = "any"
    tei_keys: tuple[str, ...] = ()

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

    def tei_problem(self, config: Mapping[str, JsonValue], *, device: str, has_graph: bool) -> str:
        """Why Text Embeddings Inference can't run a folder as it should; empty if it can. device: "cpu" or "gpu"."""
        if device == "cpu" and has_graph:
            return ""
        instead = WITH_GRAPH if self.exports and device == "cpu" else "serve it with: embedfit serve FOLDER"
        if self.tei == "nothing":
            return f"it does not know {self.name}; {instead}"
        if self.tei == "gpu" and device == "cpu":
            return f"it runs {self.name} on GPUs alone; {instead}"
        lacking = [key for key in self.tei_keys if key not in config]
        if lacking:
            return f"config.json has no {lacking[0]}, as transformers 5 writes it for {self.name}; {instead}"
        bidirectional = self.attention == "causal" and self.attention_of(config) == "bidirectional"
        flag = "is_causal" if self.name == "Qwen2" else "use_bidirectional_attention"
        if bidirectional and config.get(flag) is not (flag != "is_causal"):
            return f"it would read {self.name} as causal, for config.json does not set {flag}"
        return ""

    def attention_of(self, config: Mapping[str, JsonValue]) -> Attention:
        """The attention of a configuration: whether a token sees the tokens after it."""
        if self.causal_flag is not None and config.get(self.causal_flag[0]) is self.causal_flag[1]:
            return "bidirectional"
        return self.attention


#: Files also hold the matrices of query, key and value as one: Wqkv.
_NOMIC = (
    ("encoder.layers.", "layers."),
    ("emb_ln.", "embeddings.LayerNorm."),
    (".attn.out_proj.", ".self_attn.o_proj."),
    (".mlp.fc11.", ".mlp.up_proj."),
    (".mlp.fc12.", ".mlp.gate_proj."),
    (".mlp.fc2.", ".mlp.down_proj."),
    (".norm1.", ".post_attention_layernorm."),
    (".norm2.", ".post_mlp_layernorm."),
)
_T5 = Family(
    name="T5", class_name="T5EncoderModel", prefix="transformer", width_key="d_model", lost_positions=None,
    tei="nothing",
)  # fmt: skip
_DECODER = Family(
    name="Qwen2", prefix="model", lost_positions=None, attention="causal", causal_flag=("is_causal", False),
    tei="gpu",
)  # fmt: skip

#: By transformers' model_type. RoBERTa's positions start after the padding token's id, MPNet's always after 1.
FAMILIES: dict[str, Family] = {
    "bert": Family(name="BERT", prefix="bert", has_pooler=True, takes_token_types=True),
    "roberta": Family(name="RoBERTa", prefix="roberta", lost_positions="pad", has_pooler=True),
    "xlm-roberta": Family(name="XLM-RoBERTa", prefix="roberta", lost_positions="pad", has_pooler=True),
    "camembert": Family(name="CamemBERT", prefix="roberta", lost_positions="pad", has_pooler=True),
    "mpnet": Family(name="MPNet", prefix="mpnet", lost_positions=2, has_pooler=True),
    "distilbert": Family(name="DistilBERT", prefix="distilbert", width_key="dim"),
    "albert": Family(name="ALBERT", prefix="albert", has_pooler=True, tei="nothing"),
    "electra": Family(name="ELECTRA", prefix="electra", tei="nothing"),
    "deberta": Family(name="DeBERTa", prefix="deberta", exports=False, tei="nothing"),
    "deberta-v2": Family(name="DeBERTa-v2", prefix="deberta"),
    "modernbert": Family(
        name="ModernBERT", prefix="model", lost_positions=None, tei_keys=("global_rope_theta", "local_rope_theta")
    ),
    "nomic_bert": Family(
        name="NomicBERT", lost_positions=None, file_names=_NOMIC, built_in=True, tei_keys=("n_embd", "rotary_emb_base")
    ),
    "t5": _T5,
    "mt5": replace(_T5, name="mT5", class_name="MT5EncoderModel"),
    "qwen2": _DECODER,
    "qwen3": replace(_DECODER, name="Qwen3", tei="any"),
    "mistral": replace(_DECODER, name="Mistral"),
    "llama": replace(_DECODER, name="Llama"),
    "gemma3_text": replace(
        _DECODER, name="Gemma 3", causal_flag=("use_bidirectional_attention", True), exports=False, tei="any",
        tei_keys=("_sliding_window_pattern", "rope_local_base_freq"),
    ),
    "static": Family(name="static embeddings", lost_positions=None, exports=False, tei="nothing"),
}  # fmt: skip


def family_of(path: Path, config: Mapping[str, JsonValue]) -> Family:
    """The family of a configuration. Raises ModelError for one that embedfit can't prove to run rightly."""
    model_type = config.get("model_type")
    known = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    # With hidden_size the file has the form of transformers' own class, which transformers then takes.
    if config.get("auto_map") and not (known and known.built_in and known.width_key in config):
        raise ModelError(
            f"{path} says that {model_type or 'the model'} needs code of its own (auto_map); embedfit never runs such "
            "code, and the model would not be the same without it.",
            remedy="Use a model of a family that needs none, such as --model minilm, gte-modernbert or bge-m3.",
        )
    if known is None or model_type == "static":
        names = ", ".join(family.name for name, family in FAMILIES.items() if name != "static")
        raise ModelError(
            f"{path}: the model type {model_type!r} is none that embedfit has been shown to run rightly.",
            remedy=f"It runs {names}. Choose such a model, for example --model minilm.",
        )
    return known
