"""The reader of model folders: a folder's files become one Architecture, or the error names the file. Loads no torch.

sentence-transformers wrote folders in several forms: modules.json with old type paths (sentence_transformers.models.X)
and new ones (since 5.4), the transformer beside modules.json or in 0_Transformer/, pooling as flags or as names, and
folders without modules.json, which it reads as a transformer with mean pooling. A folder whose first module is a
Router has two towers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from embedfit.errors import ModelError
from embedfit.models.architecture import (
    ACTIVATIONS,
    DOCUMENT,
    POOLING_MODES,
    QUERY,
    Architecture,
    Dense,
    Module,
    Normalize,
    Pooling,
    PoolingMode,
    StaticEmbedding,
    Transformer,
)
from embedfit.models.layout.families import Family, family_of
from embedfit.models.layout.files import JsonObject, check_weights, read_json, read_value, shapes, tokenizer_window
from embedfit.models.layout.router import CONFIG, Listed, read_routes

#: The limit of a text's tokens for a model whose folder names none, so that one text can't take all memory.
NO_LIMIT = 32_768
_OLD_FLAGS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
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
#: Upper bounds of sizes, above any embedding model's: a folder with larger ones would take all memory.
_LARGEST = {"hidden_size": 65_536, "d_model": 65_536, "dim": 65_536, "num_hidden_layers": 512, "n_layers": 512,
            "num_layers": 512, "vocab_size": 10_000_000, "intermediate_size": 1 << 20, "hidden_dim": 1 << 20,
            "d_ff": 1 << 20, "max_position_embeddings": 1 << 24, "num_attention_heads": 4_096}  # fmt: skip


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a model folder.

    Raises ModelError that names the file which is missing or not understood, or the module that embedfit can't compute.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}.")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter (LoRA), not a whole model.",
            remedy="Merge it into its base (peft: merge_and_unload) and save that with sentence-transformers.",
        )
    if not (folder / "modules.json").exists():
        return Architecture(modules=_unlisted(folder))
    own = read_json(folder / "config_sentence_transformers.json", optional=True)
    kind = own.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ModelError(
            f"{folder} was saved as a {kind}, which gives other things than one vector a text.",
            remedy="Use a model that sentence-transformers opens as a SentenceTransformer.",
        )
    prompts, default = _prompts(folder, own)
    dimensions = own.get("truncate_dim")
    if dimensions is not None and (not isinstance(dimensions, int) or dimensions is True or dimensions < 1):
        raise ModelError(f"{folder}: truncate_dim is {dimensions!r}; it must be a whole number of at least 1.")
    where = folder / "modules.json"
    listed = _listed(where, read_value(where))
    routes: dict[str, Listed] = {DOCUMENT: listed}
    if _has_router(listed):
        routes, where = _routes(folder, where, listed), folder / listed[0][1] / CONFIG
    towers = {
        route: Architecture(
            modules=_modules(folder, where, modules),
            prompts=prompts,
            default_prompt=default,
            similarity=str(own.get("similarity_fn_name") or "cosine"),
            dimensions=dimensions,
        )
        for route, modules in routes.items()
    }
    widths = {route: tower.width for route, tower in towers.items()}
    if len(set(widths.values())) > 1:
        raise ModelError(
            f"{folder}: vectors of queries have {widths[QUERY]} numbers and those of passages {widths[DOCUMENT]}; "
            "they can't be compared.",
        )
    return replace(towers[DOCUMENT], queries=towers.get(QUERY))


def _prompts(folder: Path, own: JsonObject) -> tuple[dict[str, str], str | None]:
    """The prompts that are not empty, and the name of the default one."""
    stored = own.get("prompts") or {}
    if not isinstance(stored, dict) or not all(text is None or isinstance(text, str) for text in stored.values()):
        raise ModelError(f"{folder}/config_sentence_transformers.json: prompts must be texts by name.")
    default = own.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in ("query", "document", *stored)):
        raise ModelError(f"{folder}: default_prompt_name is {default!r}, but there is no prompt of that name.")
    return {name: text for name, text in stored.items() if isinstance(text, str) and text}, default


def _listed(where: Path, listed: JsonValue) -> Listed:
    """The class and the path of each module of modules.json."""
    found: Listed = []
    for entry in listed if isinstance(listed, list) else (None,):
        if not isinstance(entry, dict) or "type" not in entry:
            raise ModelError(f"{where} is not a list of modules with their types.")
        found.append((str(entry["type"]), str(entry.get("path") or "")))
    return found


def _has_router(listed: Listed) -> bool:
    """Whether the first module is a Router; Asym is its name before version 5."""
    kind = listed[0][0] if listed else ""
    return kind.startswith("sentence_transformers.") and kind.rsplit(".", 1)[-1] in ("Router", "Asym")


def _routes(folder: Path, where: Path, listed: Listed) -> dict[str, Listed]:
    """The modules of each tower: those of the Router's route, and after them those that stand behind the Router."""
    (_, path), behind = listed[0], listed[1:]
    routes = read_routes(folder, _inside(folder, where, path))
    return {route: [*modules, *behind] for route, modules in routes.items()}


def _modules(folder: Path, where: Path, listed: Listed) -> tuple[Module, ...]:
    modules = []
    for kind, path in listed:
        name = _kind(where, kind)
        modules.append(_READERS[name](folder, _inside(folder, where, path)))
    _check_order(where, modules)
    return tuple(modules)


def _unlisted(folder: Path) -> tuple[Module, ...]:
    """The modules that sentence-transformers makes of a folder without modules.json: a transformer and a pooling."""
    config = read_json(folder / "config.json")
    family = _family(folder / "config.json", config)
    causal = family.attention_of(config) == "causal"
    named = config.get("architectures")
    is_causal_lm = causal and isinstance(named, list) and str(*named[:1]).endswith("ForCausalLM")
    inside = read_json(folder / "tokenizer_config.json", optional=True).get("chat_template")
    if inside or (folder / "chat_template.jinja").exists():
        raise ModelError(
            f"{folder} has no modules.json and its tokenizer has a chat template: how texts are embedded is not known.",
            remedy="Use the folder of an embedding model, or save this one with sentence-transformers.",
        )
    return _transformer(folder, "", listed=False), Pooling(modes=("lasttoken" if is_causal_lm else "mean",))


def _kind(where: Path, type_path: str) -> str:
    name = type_path.rsplit(".", 1)[-1]
    if not type_path.startswith("sentence_transformers."):
        raise ModelError(
            f"{where} names the module {type_path}, which is code of the model's own; embedfit never runs such code.",
            remedy="Use a model of sentence-transformers' own modules: " + ", ".join(_READERS),
        )
    if name not in _READERS:
        raise ModelError(
            f"{where} lists sentence-transformers' module {name} ({type_path}), which embedfit can't compute yet.",
            remedy=f"embedfit computes {', '.join(_READERS)}. Choose such a model: --model minilm.",
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


def _transformer(folder: Path, path: str, *, listed: bool = True) -> Transformer:
    where = folder / path
    config_file = where / "config.json"
    config = read_json(config_file)
    family = _family(config_file, config)
    settings = _transformer_settings(where) if listed else {}
    check_weights(folder, where)
    window = settings.get("max_seq_length") or _tokenizer_limit(where, config)
    limit = family.usable_positions(config)
    return Transformer(
        path=path,
        model_type=str(config["model_type"]),
        hidden_size=_size(config_file, config, family.width_key),
        max_tokens=max(1, min(_whole(window), limit or NO_LIMIT)),
        lower_case=bool(settings.get("do_lower_case", False)),
        attention=family.attention_of(config),
    )


def _transformer_settings(where: Path) -> JsonObject:
    """The settings beside config.json. Raises ModelError for one that embedfit does not apply."""
    path = next((where / name for name in _TRANSFORMER_SETTINGS if (where / name).exists()), None)
    if path is None:
        return {}
    settings = read_json(path)
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


def _object(path: Path, settings: JsonObject, name: str) -> JsonObject:
    value = settings.get(name) or {}
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {name} is {value!r}, not a JSON object.")
    return value


def _family(path: Path, config: JsonObject) -> Family:
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


def _size(path: Path, config: JsonObject, key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"{path} has no {key}, so the width of its vectors is not known.")
    return value


def _whole(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 < value < NO_LIMIT else NO_LIMIT


def _tokenizer_limit(folder: Path, config: JsonObject) -> int | None:
    """The window if the folder sets none: the tokenizer's, at most the positions, as in sentence-transformers."""
    limits = [tokenizer_window(folder), config.get("max_position_embeddings")]
    found = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(found) if found else None


def _static(folder: Path, path: str) -> StaticEmbedding:
    where = folder / path
    check_weights(folder, where)
    shape = next((shape for name, shape in shapes(where).items() if name in ("embedding.weight", "embeddings")), None)
    if shape is None or len(shape) != 2:
        raise ModelError(f"{where}/model.safetensors holds no table of token vectors (embedding.weight).")
    extra = {"mapping", "weights"} & set(shapes(where))
    if extra:
        raise ModelError(f"{where} has model2vec's {', '.join(sorted(extra))}, which embedfit does not apply.")
    truncation = read_json(where / "tokenizer.json").get("truncation")
    longest = truncation.get("max_length") if isinstance(truncation, dict) else None
    return StaticEmbedding(path=path, hidden_size=shape[1], max_tokens=_whole(longest))


def _pooling(folder: Path, path: str) -> Pooling:
    where = folder / path / "config.json"
    config = read_json(where)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _OLD_FLAGS.items() if config.get(flag)] or ["mean"]
    named = list(modes) if isinstance(modes, list) else [modes]
    known: dict[object, PoolingMode] = {flag.removeprefix("pooling_mode_"): mode for flag, mode in _OLD_FLAGS.items()}
    known |= {mode: mode for mode in POOLING_MODES}
    unknown = [mode for mode in named if not isinstance(mode, str) or mode not in known]
    unknown += [flag for flag in config if flag.startswith("pooling_mode_") and flag not in _OLD_FLAGS and config[flag]]
    if unknown or not named:
        raise ModelError(
            f"{where} asks for {', '.join(map(str, unknown)) or 'no'} pooling, which embedfit does not know.",
            remedy=f"It computes {', '.join(POOLING_MODES)}.",
        )
    return Pooling(modes=tuple(known[mode] for mode in named), include_prompt=bool(config.get("include_prompt", True)))


def _dense(folder: Path, path: str) -> Dense:
    where = folder / path
    config = read_json(where / "config.json")
    check_weights(folder, where)
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
    expected: dict[str, tuple[int, ...]] = {"linear.weight": (dense.outputs, dense.inputs)}
    if dense.bias:
        expected["linear.bias"] = (dense.outputs,)
    if dense.residual and dense.inputs != dense.outputs:
        expected["residual.weight"] = (dense.outputs, dense.inputs)
    found = shapes(where)
    if found != expected:
        raise ModelError(f"{where}: the weights {found} are not those that its config.json says, {expected}.")
    return dense


def _normalize(folder: Path, path: str) -> Normalize:
    where = folder / path if path else None
    if where is not None:
        _check_names(where, read_json(where / "config.json", optional=True))
    return Normalize()


def _check_names(where: Path, config: JsonObject) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ModelError(
                f"{where}/config.json: {key} is {config[key]!r}; embedfit computes sentence_embedding alone."
            )


_READERS: dict[str, Callable[[Path, str], Module]] = {
    "Transformer": _transformer,
    "StaticEmbedding": _static,
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": _normalize,
}
