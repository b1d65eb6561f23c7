"""What a model folder is: an ordered list of modules, as data, read without torch.

sentence-transformers wrote folders in several forms: modules.json with old type paths (sentence_transformers.models.X)
and new ones (since 5.4), the transformer beside modules.json or in 0_Transformer/, pooling as flags or as names, and
folders without modules.json, which it reads as a transformer with mean pooling. All of them become one Architecture.
Encoder, training, engines, exports, cards and deployments ask it; what it can't describe is refused here, by name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from embedfit.errors import ModelError
from embedfit.models.layout.families import FAMILIES, Attention, Family, family_of

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
#: Every pooling, in the order in which the flags of old folders are concatenated.
POOLING_MODES: tuple[PoolingMode, ...] = get_args(PoolingMode)
#: Tokens that are read of a text by a model whose folder names no limit, so that one text can't take all memory.
NO_LIMIT = 32_768
#: Roles of prompts: sentence-transformers takes the first of these names for passages.
PASSAGE_PROMPTS = ("document", "passage", "corpus")

_OLD_FLAGS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Activations of a Dense module by the last part of the class's path; both forms of each are in modules.py.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "Sigmoid", "SiLU", "GELU")
#: Names under which sentence-transformers looks for the transformer's own settings, the first one first.
_TRANSFORMER_SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
#: Settings of a Transformer module that change its vectors and that embedfit does not apply.
_REFUSED_SETTINGS = (
    "processing_kwargs",
    "query_length",
    "document_length",
    "query_expansion",
    "tokenizer_name_or_path",
)
#: Arguments that a Transformer module may carry, without effect on its vectors in fp32.
_HARMLESS_ARGUMENTS = {"trust_remote_code", "torch_dtype", "dtype", "attn_implementation", "padding_side", "use_fast"}
#: Larger sizes than any embedding model has; a folder that names one would take all memory.
_LARGEST = {"hidden_size": 65_536, "d_model": 65_536, "dim": 65_536, "num_hidden_layers": 512, "n_layers": 512,
            "num_layers": 512, "vocab_size": 10_000_000, "intermediate_size": 1 << 20, "hidden_dim": 1 << 20,
            "d_ff": 1 << 20, "max_position_embeddings": 1 << 24, "num_attention_heads": 4_096}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """The transformer that transformers' AutoModel builds. max_tokens: of a text, special tokens included."""

    path: str = ""
    model_type: str
    hidden_size: int
    max_tokens: int
    lower_case: bool = False
    attention: Attention = "bidirectional"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticEmbedding:
    """A vector for each token of the vocabulary; a text's vector is their mean. No special tokens are added."""

    path: str = ""
    hidden_size: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """Token states to one vector; several modes are concatenated. include_prompt: whether the prompt's are pooled."""

    modes: tuple[PoolingMode, ...]
    include_prompt: bool = True

    @property
    def name(self) -> str:
        """Such as "cls" or "cls+mean"."""
        return "+".join(self.modes)

    @property
    def label(self) -> str:
        """For people: "CLS", "mean", "last-token"."""
        names = {"cls": "CLS", "lasttoken": "last-token", "weightedmean": "weighted mean"}
        return " and ".join(names.get(mode, mode) for mode in self.modes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A linear layer with an activation. residual: the input is added to its output."""

    path: str
    inputs: int
    outputs: int
    bias: bool
    activation: str
    residual: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize:
    """Vectors divided by their length."""


Module = Transformer | StaticEmbedding | Pooling | Dense | Normalize
_KNOWN = ("Transformer", "StaticEmbedding", "Pooling", "Dense", "Normalize")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The modules of a model folder in order, and what it says about texts and vectors.

    prompts: by name, empty ones left out. default_prompt: the name of the one that sentence-transformers' encode()
    puts before texts. similarity: the folder's own ("cosine", "dot", …). dimensions: a vector is cut to so many
    numbers at the end; None: to none.
    """

    modules: tuple[Module, ...]
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    dimensions: int | None = None

    @classmethod
    def plain(
        cls,
        *,
        pooling: PoolingMode,
        max_tokens: int,
        hidden_size: int,
        model_type: str = "bert",
        normalize: bool = True,
        prompts: Mapping[str, str] | None = None,
    ) -> Architecture:
        """A transformer, a pooling and, with normalize, a norm: what BGE, MiniLM and E5 are."""
        first = Transformer(model_type=model_type, hidden_size=hidden_size, max_tokens=max_tokens)
        last = (Normalize(),) if normalize else ()
        return cls(modules=(first, Pooling(modes=(pooling,)), *last), prompts=dict(prompts or {}))

    @property
    def first(self) -> Transformer | StaticEmbedding:
        """What turns tokens into states."""
        first = self.modules[0]
        if not isinstance(first, Transformer | StaticEmbedding):
            raise ModelError("This is a bug: the first module reads no tokens.")
        return first

    @property
    def pooling(self) -> Pooling:
        """How token states become one vector. StaticEmbedding's own is the mean."""
        return next((module for module in self.modules if isinstance(module, Pooling)), Pooling(modes=("mean",)))

    @property
    def after_pooling(self) -> tuple[Dense | Normalize, ...]:
        """The modules that change the pooled vector."""
        return tuple(module for module in self.modules if isinstance(module, Dense | Normalize))

    @property
    def is_plain(self) -> bool:
        """Whether the vector is one pooling of all tokens and perhaps a norm: what other servers compute too."""
        dense = any(isinstance(module, Dense) for module in self.modules)
        return len(self.pooling.modes) == 1 and not dense and self.dimensions is None

    @property
    def normalize(self) -> bool:
        """Whether the folder's vectors have length 1."""
        return any(isinstance(module, Normalize) for module in self.modules) and self.dimensions is None

    @property
    def hidden_size(self) -> int:
        """Numbers of a token's state."""
        return self.first.hidden_size

    @property
    def width(self) -> int:
        """Numbers of a text's vector."""
        width = self.hidden_size * len(self.pooling.modes)
        for module in self.modules:
            width = module.outputs if isinstance(module, Dense) else width
        return min(width, self.dimensions or width)

    @property
    def max_tokens(self) -> int:
        """Of a text, special tokens included."""
        return self.first.max_tokens

    @property
    def model_type(self) -> str:
        """As transformers names it, or "static"."""
        return self.first.model_type if isinstance(self.first, Transformer) else "static"

    @property
    def family(self) -> Family:
        """What embedfit knows about models of this type."""
        return FAMILIES[self.model_type]

    @property
    def query_instruction(self) -> str:
        """What is put before every query; empty where the model has none."""
        return self.prompts.get("query", "")

    @property
    def document_instruction(self) -> str:
        """What is put before every passage, such as E5's "passage: "; empty for BGE, MiniLM and most others."""
        return document_instruction(self.prompts) or self.default_instruction

    @property
    def default_instruction(self) -> str:
        """What sentence-transformers' encode() puts before texts whose role nobody named."""
        return self.prompts.get(self.default_prompt, "") if self.default_prompt else ""

    def with_prompts(self, **prompts: str | None) -> Architecture:
        """The same with other prompts by name; None leaves one as it is."""
        return replace(self, prompts={**self.prompts, **{k: text for k, text in prompts.items() if text is not None}})

    def describe(self) -> list[str]:
        """One line a module, for people."""
        lines = [_described(module) for module in self.modules]
        return [*lines, f"cut to {self.dimensions} numbers"] if self.dimensions else lines


def document_instruction(prompts: Mapping[str, str]) -> str:
    """What a model's prompts put before passages, under any name that sentence-transformers' encode_document knows.

    There an unset "document" counts as found, so that E5's "passage" is passed over; its authors trained with it.
    """
    return next((prompts[name] for name in PASSAGE_PROMPTS if prompts.get(name)), "")


def _described(module: Module) -> str:
    named = asdict(module)
    path = named.pop("path", "")
    values = ", ".join(f"{name} {'+'.join(v) if isinstance(v, tuple) else v}" for name, v in named.items())
    return f"{type(module).__name__}{f' in {path}/' if path else ''}{f': {values}' if values else ''}"


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a model folder.

    Raises ModelError naming the file that is missing or not understood, or what embedfit can't compute.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}.")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter (LoRA), not a whole model.",
            remedy="Merge it into its base (peft: merge_and_unload) and save that with sentence-transformers.",
        )
    listed = read_json(folder / "modules.json", optional=True, default=None)
    own = read_json(folder / "config_sentence_transformers.json", optional=True)
    if listed is None:
        return Architecture(modules=_unlisted(folder))
    kind = own.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ModelError(
            f"{folder} was saved as a {kind}, which gives other things than one vector a text.",
            remedy="Use a model that sentence-transformers opens as a SentenceTransformer.",
        )
    prompts, default = _prompts(folder, own)
    dimensions = own.get("truncate_dim")
    if dimensions is not None and (not _is_whole(dimensions) or dimensions < 1):
        raise ModelError(f"{folder}: truncate_dim is {dimensions!r}; it must be a whole number of at least 1.")
    modules = _listed(folder, listed)
    return Architecture(
        modules=modules,
        prompts=prompts,
        default_prompt=default,
        similarity=str(own.get("similarity_fn_name") or "cosine"),
        dimensions=dimensions,
    )


def _prompts(folder: Path, own: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """The prompts that are not empty, and the name of the default one."""
    stored = own.get("prompts") or {}
    if not isinstance(stored, dict) or not all(text is None or isinstance(text, str) for text in stored.values()):
        raise ModelError(f"{folder}/config_sentence_transformers.json: prompts must be texts by name.")
    default = own.get("default_prompt_name")
    if default is not None and default not in ("query", "document", *stored):  # in a tuple: it may be of any type
        raise ModelError(f"{folder}: default_prompt_name is {default!r}, but there is no prompt of that name.")
    return {name: text for name, text in stored.items() if text}, default


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(folder: Path, listed: object) -> tuple[Module, ...]:
    where = folder / "modules.json"
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and "type" in entry for entry in listed):
        raise ModelError(f"{where} is not a list of modules with their types.")
    modules: list[Module] = []
    for entry in listed:
        kind, path = _kind(where, str(entry["type"])), _inside(folder, where, str(entry.get("path") or ""))
        modules.extend(_READERS[kind](folder, path))
    _check_order(where, modules)
    return tuple(modules)


def _unlisted(folder: Path) -> tuple[Module, ...]:
    """What sentence-transformers makes of a folder without modules.json: its transformer, and a pooling."""
    config = read_json(folder / "config.json")
    family = _family(folder / "config.json", config)
    causal = family.attention_of(config) == "causal"
    is_causal_lm = str((config.get("architectures") or [""])[0]).endswith("ForCausalLM") and causal
    if _has_chat_template(folder):
        raise ModelError(
            f"{folder} has no modules.json and its tokenizer has a chat template: how texts are embedded is not known.",
            remedy="Use the folder of an embedding model, or save this one with sentence-transformers.",
        )
    first = _transformer(folder, "", listed=False)[0]
    return first, Pooling(modes=("lasttoken" if is_causal_lm else "mean",))


def _has_chat_template(folder: Path) -> bool:
    inside = read_json(folder / "tokenizer_config.json", optional=True).get("chat_template")
    return bool(inside) or (folder / "chat_template.jinja").exists()


def _kind(where: Path, type_path: str) -> str:
    name = type_path.rsplit(".", 1)[-1]
    if not type_path.startswith("sentence_transformers."):
        raise ModelError(
            f"{where} names the module {type_path}, which is code of the model's own; embedfit never runs such code.",
            remedy="Use a model of sentence-transformers' own modules: " + ", ".join(_KNOWN),
        )
    if name not in _KNOWN:
        raise ModelError(
            f"{where} lists sentence-transformers' module {name} ({type_path}), which embedfit can't compute yet.",
            remedy=f"embedfit computes {', '.join(_KNOWN)}. Use a model of these, such as --model minilm.",
        )
    return name


def _inside(folder: Path, where: Path, path: str) -> str:
    """A module's path, if it stays in the folder."""
    parts = PurePosixPath(path).parts
    leaves = PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or ":" in path
    if leaves or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{where} names the path {path!r}, which leaves the model folder; it is not followed.")
    return path


def _check_order(where: Path, modules: Sequence[Module]) -> None:
    names = [type(module).__name__ for module in modules]
    good = bool(names) and names[0] in ("Transformer", "StaticEmbedding")
    rest = names[1:]
    if good and names[0] == "Transformer":
        good, rest = rest[:1] == ["Pooling"], rest[1:]
    if not good or any(name not in ("Dense", "Normalize") for name in rest):
        raise ModelError(
            f"{where} lists {', '.join(names) or 'nothing'}; embedfit computes a Transformer and a Pooling, or a "
            "StaticEmbedding, and after them any Dense and Normalize.",
            remedy="Save the model with sentence-transformers in that order.",
        )
    width = 0
    for module in modules:
        if isinstance(module, Transformer | StaticEmbedding):
            width = module.hidden_size
        elif isinstance(module, Pooling):
            width *= len(module.modes)
        elif isinstance(module, Dense):
            if module.inputs != width:
                raise ModelError(
                    f"{where}: the Dense in {module.path} takes {module.inputs} numbers, but gets {width}."
                )
            width = module.outputs


def _transformer(folder: Path, path: str, *, listed: bool = True) -> tuple[Transformer]:
    where = folder / path
    config_file = where / "config.json"
    config = read_json(config_file)
    family = _family(config_file, config)
    settings = _transformer_settings(where) if listed else {}
    _check_weights(folder, where)
    window = settings.get("max_seq_length") or _tokenizer_limit(where, config)
    limit = family.usable_positions(config)
    return (
        Transformer(
            path=path,
            model_type=str(config["model_type"]),
            hidden_size=_size(config_file, config, family.width_key),
            max_tokens=max(1, min(_whole(window), limit or NO_LIMIT)),
            lower_case=bool(settings.get("do_lower_case", False)),
            attention=family.attention_of(config),
        ),
    )


def _transformer_settings(where: Path) -> dict[str, Any]:
    """What sentence-transformers reads beside config.json. Raises ModelError for a setting that is not applied."""
    path = next((where / name for name in _TRANSFORMER_SETTINGS if (where / name).exists()), None)
    if path is None:
        return {}
    settings: dict[str, Any] = read_json(path)
    found = [name for name in _REFUSED_SETTINGS if settings.get(name)]
    for name in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"):
        found += [f"{name}.{key}" for key in _object(path, settings, name) if key not in _HARMLESS_ARGUMENTS]
    modality = _object(path, settings, "modality_config") or {"text": {"method_output_name": "last_hidden_state"}}
    text = _object(path, modality, "text")
    if "message" in modality or text.get("method_output_name") not in ("last_hidden_state", ["last_hidden_state"]):
        found.append("modality_config")
    if settings.get("transformer_task", "feature-extraction") != "feature-extraction":
        found.append("transformer_task")
    if found:
        raise ModelError(
            f"{path} sets {', '.join(found)}, which embedfit does not apply; its vectors would differ.",
            remedy="Use sentence-transformers for this model, or another model, such as --model minilm.",
        )
    return settings


def _object(path: Path, settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = settings.get(name) or {}
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {name} is {value!r}, not a JSON object.")
    return value


def _family(path: Path, config: Mapping[str, Any]) -> Family:
    for name, largest in _LARGEST.items():
        value = config.get(name)
        if isinstance(value, (int, float)) and not 0 <= value <= largest:
            raise ModelError(f"{path}: {name} is {value:,}; no embedding model has more than {largest:,}.")
    if config.get("quantization_config"):
        raise ModelError(
            f"{path}: the weights are quantised, which embedfit does not read.",
            remedy="Use the model's plain folder in fp32, fp16 or bf16.",
        )
    return family_of(path, config)


def _size(path: Path, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"{path} has no {key}, so the width of its vectors is not known.")
    return value


def _whole(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 < value < NO_LIMIT else NO_LIMIT


def _tokenizer_limit(folder: Path, config: Mapping[str, Any]) -> int | None:
    """sentence-transformers' window where the folder sets none: the tokenizer's, at most the model's positions."""
    limits = [tokenizer_window(folder), config.get("max_position_embeddings")]
    found = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(found) if found else None


def tokenizer_window(folder: Path) -> int | None:
    """The longest text that a folder's tokenizer is set for, or None where it has no limit."""
    value = read_json(folder / "tokenizer_config.json", optional=True).get("model_max_length")
    return int(value) if isinstance(value, (int, float)) and value < 1e6 else None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one module, all shards; empty where there is none."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    index = read_json(folder / "model.safetensors.index.json", optional=True)
    names = sorted({str(name) for name in (index.get("weight_map") or {}).values()})
    for name in names:
        if PurePosixPath(name).name != name:
            raise ModelError(f"{folder}/model.safetensors.index.json names {name!r}, which leaves the folder.")
        if not (folder / name).exists():
            raise ModelError(f"{folder} lacks the shard {name} that its model.safetensors.index.json names.")
    return [folder / name for name in names]


def model_files(folder: Path, architecture: Architecture) -> list[Path]:
    """Every file that decides the vectors: weights, configurations, tokenizer. In a fixed order."""
    found: list[Path] = []
    for module in architecture.modules:
        where = folder / getattr(module, "path", "")
        if isinstance(module, Transformer | StaticEmbedding):
            names = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
                     "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model")  # fmt: skip
            found += [where / name for name in names if (where / name).exists()]
        if isinstance(module, Transformer | StaticEmbedding | Dense):
            found += weight_files(where)
    return found


def _check_weights(folder: Path, where: Path) -> None:
    if weight_files(where):
        return
    others = sorted(path.name for path in where.glob("*.bin"))
    if not others:
        raise ModelError(f"{where} has no model.safetensors.", remedy="Fetch the model again, with its weights.")
    code = f"from sentence_transformers import SentenceTransformer as S; S({str(folder)!r}).save({f'{folder}-safe'!r})"
    raise ModelError(
        f"{where} has no model.safetensors ({', '.join(others)} is a pickle and is not read).",
        remedy=f"Convert it once: python -c {shlex.quote(code)}; then use {folder}-safe",
    )


def _static(folder: Path, path: str) -> tuple[StaticEmbedding]:
    where = folder / path
    _check_weights(folder, where)
    shape = next((shape for name, shape in shapes(where).items() if name in ("embedding.weight", "embeddings")), None)
    if shape is None or len(shape) != 2:
        raise ModelError(f"{where}/model.safetensors holds no table of token vectors (embedding.weight).")
    extra = {"mapping", "weights"} & set(shapes(where))
    if extra:
        raise ModelError(f"{where} has model2vec's {', '.join(sorted(extra))}, which embedfit does not apply.")
    truncation = read_json(where / "tokenizer.json").get("truncation") or {}
    return (StaticEmbedding(path=path, hidden_size=shape[1], max_tokens=_whole(truncation.get("max_length"))),)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a module's weights, from the headers of its files."""
    from safetensors import SafetensorError, safe_open  # not needed to read most layouts

    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "np") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged or cut off: {error}", remedy="Fetch or make it again.") from error
    return found


def _pooling(folder: Path, path: str) -> tuple[Pooling]:
    where = folder / path / "config.json"
    config = read_json(where)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _OLD_FLAGS.items() if config.get(flag)] or ["mean"]
    named = list(modes) if isinstance(modes, list) else [modes]
    short = {flag.removeprefix("pooling_mode_"): mode for flag, mode in _OLD_FLAGS.items()}
    unknown = [mode for mode in named if not isinstance(mode, str) or (mode not in POOLING_MODES and mode not in short)]
    unknown += [flag for flag in config if flag.startswith("pooling_mode_") and flag not in _OLD_FLAGS and config[flag]]
    if unknown or not named:
        raise ModelError(
            f"{where} asks for {', '.join(map(str, unknown)) or 'no'} pooling, which embedfit does not know.",
            remedy=f"It computes {', '.join(POOLING_MODES)}.",
        )
    chosen: tuple[Any, ...] = tuple(short.get(mode, mode) for mode in named)
    return (Pooling(modes=chosen, include_prompt=bool(config.get("include_prompt", True))),)


def _dense(folder: Path, path: str) -> tuple[Dense]:
    where = folder / path
    config = read_json(where / "config.json")
    _check_weights(folder, where)
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = activation.rsplit(".", 1)[-1]
    if not activation.startswith("torch.nn.") or name not in ACTIVATIONS:
        raise ModelError(
            f"{where}/config.json names the activation {activation}, which embedfit does not know.",
            remedy=f"It computes {', '.join(ACTIVATIONS)} of torch.nn.",
        )
    _check_names(where, config)
    dense = Dense(
        path=path,
        inputs=_size(where / "config.json", config, "in_features"),
        outputs=_size(where / "config.json", config, "out_features"),
        bias=bool(config.get("bias", True)),
        activation=name,
        residual=bool(config.get("use_residual", False)),
    )
    expected = {"linear.weight": (dense.outputs, dense.inputs)} | (
        {"linear.bias": (dense.outputs,)} if dense.bias else {}
    )
    if dense.residual and dense.inputs != dense.outputs:
        expected["residual.weight"] = (dense.outputs, dense.inputs)
    found = shapes(where)
    if found != expected:
        raise ModelError(f"{where}: the weights {found} are not those that its config.json says, {expected}.")
    return (dense,)


def _normalize(folder: Path, path: str) -> tuple[Normalize]:
    where = folder / path if path else None
    if where is not None:
        _check_names(where, read_json(where / "config.json", optional=True))
    return (Normalize(),)


def _check_names(where: Path, config: Mapping[str, Any]) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ModelError(
                f"{where}/config.json: {key} is {config[key]!r}; embedfit computes sentence_embedding alone."
            )


_READERS: dict[str, Any] = {
    "Transformer": _transformer,
    "StaticEmbedding": _static,
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": _normalize,
}


def read_json(path: Path, *, optional: bool = False, default: object = ...) -> Any:  # noqa: ANN401 - JSON
    """The content of a JSON file of a model folder; optional: {} or the default where it is missing."""
    if not path.exists():
        if optional:
            return {} if default is ... else default
        raise ModelError(f"{path.parent} is not a whole model folder: {path.name} is missing.")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if path.name != "modules.json" and not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object.")
    return content
