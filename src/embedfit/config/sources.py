"""The settings of a run, put together from a preset, a file, options, --set KEY=VALUE and the run folder.

Here settings are a flat table by dotted name, such as {"train.epochs": 2}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

import tomli_w
from pydantic import ValidationError

from embedfit.config.kinds import ARRAYS, RECORDED, PathKind, Section
from embedfit.config.searching import array_files
from embedfit.config.sections import MODEL_ALIASES, Config, fields, path_kind, setting
from embedfit.config.writing import without_spec
from embedfit.errors import InputError, UsageError
from embedfit.files.atomic import atomic_file
from embedfit.files.places import PLACES, located, read_places, stored_path
from embedfit.files.textfiles import toml_of
from embedfit.generators import generators

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = dict[str, object]
#: The settings that a command names, and the folder to which their paths are relative.
Layer = tuple[Path, Settings]

#: Settings that differ from the defaults, by preset.
PRESETS: Final[Mapping[str, Mapping[str, object]]] = tomllib.loads(
    resources.files("embedfit.config").joinpath("presets.toml").read_text("utf-8")
)
#: Stands for the value of --set KEY=default until the settings are put together.
_DEFAULT: Final = object()
#: Settings that name several files: a single file may be given without brackets.
_LISTS = ("docs", "eval_docs", "queries")
_SECTIONS = frozenset(name for name, field in Config.model_fields.items() if isinstance(field.default, Section))


def resolve(
    *,
    preset: str | None = None,
    file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    assignments: Sequence[str] = (),
) -> Config:
    """The configuration from, in rising order of precedence, preset, file, options and --set KEY=VALUE.

    Paths in the file are relative to its folder, the others to the working directory. --set KEY=default gives a
    setting the value that it has by default. Raises UsageError that names the setting and what is allowed.
    """
    layers = _layers(file, overrides, assignments)
    named = _preset_of(layers)
    if preset is not None and named is not None and preset != named:
        raise UsageError(f"The presets {preset} and {named} are both named.", remedy="Name one of them.")
    chosen = preset or named or "default"
    return _validated(_over({"preset": chosen, **_preset_settings(chosen)}, layers, chosen), "the settings")


def change(
    stored: Config,
    *,
    run: Path,
    preset: str | None = None,
    file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    assignments: Sequence[str] = (),
) -> Config:
    """The settings of a run folder, changed by a command's settings. The same object if the command has no settings.

    run: the folder. Raises UsageError as resolve() does, and if the command names another preset than the run's.
    """
    layers = _layers(file, overrides, assignments)
    for named in (preset, _preset_of(layers)):
        if named is not None and named != stored.preset:
            _preset_settings(named)  # raises UsageError for an unknown preset
            raise UsageError(
                f"The run in {run} has the preset {stored.preset}; this command names the preset {named}.",
                remedy=f"Give another folder with --run. To begin this one anew with {named}, first delete "
                f"{run / 'embedfit.toml'}",
            )
    if not layers:
        return stored
    before = _flat(stored.model_dump(mode="json", exclude_none=True))
    writers = [layer["generate.generator"] for _, layer in layers if "generate.generator" in layer]
    pair = {stored.generate.generator, *map(str, writers[-1:])}
    if len(pair) > 1 and any(_reads_files(name) for name in pair):
        before.pop("generate.llm", None)  # one generator's file is no model of another generator
    return _validated(_over(before, layers, stored.preset), "the settings")


def changes(before: Config, after: Config) -> list[str]:
    """The settings in which two configurations differ, each as "KEY=VALUE" of the second."""
    return [
        f"{key}={json.dumps(setting(after, key), ensure_ascii=False)}"
        for key in fields()
        if setting(before, key) != setting(after, key)
    ]


def load(path: Path) -> Config:
    """The configuration of a run folder, with absolute paths; files.places says how it keeps them."""
    settings = _read_toml(path)
    kept = settings.pop(PLACES, None)
    places = {str(name): str(place) for name, place in kept.items()} if isinstance(kept, dict) else None
    folder = path.absolute().parent

    def found(kind: PathKind, name: str) -> str:
        if places is None:
            return _of_first_edition(name, folder)
        if kind == "model" and name not in places and not os.path.lexists(folder / name):
            return name  # an alias, or a name on the hub
        return located(name, folder, places)

    return _validated(_with_paths(settings, found), str(path))


def save(config: Config, path: Path) -> None:
    """Write the resolved configuration as TOML, paths as a run keeps them."""
    settings, kept = stored_settings(config, path)
    with atomic_file(path, binary=True) as file:
        tomli_w.dump({**settings, PLACES: kept}, file)


def stored_settings(config: Config, path: Path) -> tuple[dict[str, object], dict[str, str]]:
    """The settings as a file at `path` keeps them, and the absolute path of each stored one.

    None is left out: TOML has no null.
    """
    known, kept = read_places(path), {}

    def stored(kind: PathKind, name: str) -> str:
        if kind == "model" and not os.path.isabs(name):
            return name  # an alias, a hub id, a provider's model
        form = stored_path(name, path.parent, known)
        kept[form] = os.path.abspath(name)
        return form

    return _nested(_with_paths(_flat(config.model_dump(mode="json", exclude_none=True)), stored)), kept


# --- flat and nested


def _flat(tree: Mapping[str, object]) -> Settings:
    found: Settings = {}
    for name, value in tree.items():
        if name in _SECTIONS and isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            found[name] = value
    return found


def _nested(settings: Settings) -> dict[str, object]:
    tree: dict[str, object] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        group = tree.setdefault(section, {}) if name and section in _SECTIONS else None
        if isinstance(group, dict):
            group[name] = value
        else:
            tree[key] = value
    return tree


# --- what a command names


def _layers(file: Path | None, overrides: Mapping[str, object] | None, assignments: Sequence[str]) -> list[Layer]:
    """The settings that a command names, in rising order of precedence."""
    named = [(file.absolute().parent, _read_toml(file))] if file is not None else []
    named += [(Path.cwd(), _flat(overrides))] if overrides else []
    named += [(Path.cwd(), _assignment(text)) for text in assignments]
    return [(folder, _without_specs(layer)) for folder, layer in named]


def _read_toml(path: Path) -> Settings:
    if not path.exists():
        raise InputError(f"{path} is missing.", remedy="Name an existing TOML file with --config.")
    return _flat(toml_of(path))


def _assignment(text: str) -> Settings:
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not key:
        raise UsageError(f"--set {text!r} is not KEY=VALUE.", remedy="For example: --set train.epochs=2")
    parsed: object
    if value == "default" and key in fields() and key != "preset":
        return {key: _DEFAULT}
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string: --set train.loss=distil
    first, *rest = key.split(".")
    for part in reversed(rest):
        parsed = {part: parsed}
    return _flat({first: parsed})


def _without_specs(layer: Settings) -> Settings:
    """The layer with a generator such as recorded:FILE taken apart into its name and the settings behind it."""
    generate = {key.partition(".")[2]: value for key, value in layer.items() if key.startswith("generate.")}
    try:
        return {**layer, **{f"generate.{name}": value for name, value in without_spec(generate).items()}}
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def _preset_of(layers: Sequence[Layer]) -> str | None:
    named = [str(layer["preset"]) for _, layer in layers if layer.get("preset") is not None]
    return named[-1] if named else None


def _preset_settings(name: str) -> Settings:
    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}.", remedy=f"Use one of: {', '.join(PRESETS)}")
    return _flat(PRESETS[name])


# --- putting them together


def _over(settings: Settings, layers: Sequence[Layer], preset: str) -> Settings:
    """The settings with the layers over them, and with absolute paths."""
    own = _preset_settings(preset)
    writer = _merged(settings, [layer for _, layer in layers], own).get("generate.generator")
    reads_files = _reads_files(writer)
    placed = [_with_paths(layer, partial(_absolute, folder), llm_is_path=reads_files) for folder, layer in layers]
    return _merged(settings, placed, own)


def _merged(settings: Settings, layers: Sequence[Settings], preset: Settings) -> Settings:
    """The last value of each setting counts; tables within one are joined, and _DEFAULT means the preset's value."""
    result = dict(settings)
    for key, value in ((key, value) for layer in layers for key, value in layer.items()):
        before = result.pop(key, None)
        if value is not _DEFAULT:
            result[key] = _joined(before, value)
        elif key in preset:
            result[key] = preset[key]
    return result


def _joined(before: object, after: object) -> object:
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return after
    return {**before, **{name: _joined(before.get(name), value) for name, value in after.items()}}


def _reads_files(name: object) -> bool:
    """Whether generate.llm of a generator is a file here; False for an unknown one, which the later check refuses."""
    known = generators().get(str(name))
    return known is not None and known.reads_files


def _validated(settings: Settings, where: str) -> Config:
    try:
        return Config.model_validate(_nested(settings))
    except ValidationError as error:
        first = error.errors()[0]
        *outer, last = (str(part) for part in first["loc"])
        what, remedy = str(first["msg"]).removeprefix("Value error, "), None
        if first["type"] == "model_type":
            what = f"it is a group of settings, such as {_names_in([*outer, last])[0]}"
        if first["type"] == "extra_forbidden":
            what, remedy = "there is no such setting", f"Settings are: {', '.join(_names_in(outer))}"
        raise UsageError(f"{'.'.join([*outer, last])} in {where}: {what}.", remedy=remedy) from error


def _names_in(section: Sequence[str]) -> list[str]:
    return [key for key in fields() if key.startswith(f"{section[0]}.")] if section else list(Config.model_fields)


# --- paths


def _with_paths(settings: Settings, change: Callable[[PathKind, str], str], *, llm_is_path: bool = True) -> Settings:
    """The settings with every path changed."""
    return {
        key: value if key == "generate.llm" and not llm_is_path else _with_path(key, value, change)
        for key, value in settings.items()
    }


def _with_path(key: str, value: object, change: Callable[[PathKind, str], str]) -> object:
    kind = path_kind(key) if key in fields() else None
    if kind is None or (key, value) == ("generate.judge", "llm"):
        return value
    if key == "evaluate.systems":
        return value  # names of systems in the report
    if kind == "spec":
        is_file = isinstance(value, str) and value.startswith(RECORDED)
        return RECORDED + change("file", str(value).removeprefix(RECORDED)) if is_file else value
    if kind == "vectors":
        return _with_arrays(str(value), change) if value is not None else None
    if isinstance(value, str):
        return [change(kind, value)] if key in _LISTS else change(kind, value)
    return [change(kind, str(item)) for item in value] if isinstance(value, (list, tuple)) else value


def _with_arrays(vectors: str, change: Callable[[PathKind, str], str]) -> str:
    """The name of an embedder, a model's folder or two files of vectors, with every path changed."""
    if not vectors.startswith(ARRAYS):
        return change("model", vectors)
    try:
        first, second = array_files(vectors)
    except ValueError:
        return vectors  # the settings' check says what is wrong
    return f"{ARRAYS}{change('file', first)},{change('file', second)}"


def _absolute(folder: Path, kind: PathKind, name: str) -> str:
    """The absolute path of a name in a settings file or on a command line."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"The name of {name!r} is not UTF-8.", remedy="Rename it.") from error
    if not name.strip():  # an empty name would be the working directory
        raise UsageError(f"The name of a file or folder is empty: {name!r}.", remedy="Give a name, or leave it out.")
    expanded = os.path.expanduser(name)
    path = os.path.abspath(folder / expanded)
    if not os.path.exists(path) and os.path.exists(expanded):
        path = os.path.abspath(expanded)  # embedfit 0.1 read paths in a file this way
    if kind != "model":
        return path
    is_path = name not in MODEL_ALIASES and (os.path.exists(path) or name.startswith(("~", "./", "../")))
    return path if is_path else name


def _of_first_edition(name: str, folder: Path) -> str:
    """Paths in a run of embedfit 0.1, which kept them relative to a working directory that it did not note."""
    for start in (Path.cwd(), *(folder, *folder.parents)):
        if os.path.exists(start / name) and name not in MODEL_ALIASES:
            return str(start / name)
    return name
