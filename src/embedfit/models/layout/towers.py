"""Models of two towers: one folder that sentence-transformers opens as a Router, over two plain model folders.

`query/` encodes queries and `document/` passages. Each is a complete model folder, which sentence-transformers and TEI
open alone. The folder above them has modules.json and router_config.json, which name the towers' modules.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedfit.errors import ModelError
from embedfit.files.atomic import atomic_folder
from embedfit.files.hashes import sha256_file
from embedfit.models.architecture import DOCUMENT, QUERY, Architecture, Dense, Normalize
from embedfit.models.folder import copy_model, read_module, write_json, write_modules, write_texts
from embedfit.models.layout.files import content_names, read_value
from embedfit.models.layout.golden import write_golden
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.router import CONFIG, Listed, router_config
from embedfit.numerics.arrays import Floats
from embedfit.path.workspace import sha256_json
from embedfit.runtime import cache_folder

#: Files of a tower's folder that say nothing of its first module.
_OF_THE_WHOLE = {"modules.json", "config_sentence_transformers.json", "embedfit.json"}


def save_towers(folder: Path, *, query: Path, document: Path, layout: Architecture | None = None) -> None:
    """Write a model of two towers from two plain model folders, which stay as they are.

    Files that both have are stored once where the disk has hard links, and a transformer that both have is loaded once.
    layout: document's, with its right prompts; default: as its folder says. The prompt for queries is query's own.
    Raises ModelError for towers of different widths or that are no plain model folders.
    """
    layouts = {QUERY: read_architecture(query), DOCUMENT: layout or read_architecture(document)}
    for role, source in ((QUERY, query), (DOCUMENT, document)):
        if layouts[role].queries is not None:
            raise ModelError(f"{source} has two towers; a tower is a plain model folder.")
    widths = [layouts[role].width for role in (QUERY, DOCUMENT)]
    if widths[0] != widths[1]:
        raise ModelError(
            f"{query} gives vectors of {widths[0]} numbers and {document} of {widths[1]}; they can't be compared."
        )
    prompts = {"query": layouts[QUERY].query_instruction, "document": layouts[DOCUMENT].document_instruction}
    for role, source in ((DOCUMENT, document), (QUERY, query)):
        layouts[role] = layouts[role].with_prompts(**prompts)
        copy_model(folder / role, base=source, layout=layouts[role])
    listed = {role: _listed(folder, role) for role in (QUERY, DOCUMENT)}
    for number, pair in enumerate(zip(listed[QUERY], listed[DOCUMENT], strict=False)):
        if not _same_files(*(folder / path for _, path in pair)):
            break
        listed[QUERY][number] = listed[DOCUMENT][number]
    write_json(folder / CONFIG, router_config(listed[QUERY], listed[DOCUMENT]))
    write_modules(folder, [("sentence_transformers.models.Router", "")])
    write_texts(folder, layouts[DOCUMENT])
    for place in (folder / QUERY, folder / DOCUMENT, folder):
        write_golden(place)


def with_query_map(base: Path, matrix: Floats, folder: Path, *, layout: Architecture | None = None) -> None:
    """Write a copy of a model that puts its vectors through a linear map: a Dense without bias, and a Normalize.

    matrix: (H, H); a vector v becomes matrix · v, divided by its length. The length of v makes no difference, so the
    copy ranks as the map does over base's unit vectors, whether base has a Normalize or not. layout: base's, with its
    right prompts; default: as its folder says.
    """
    own = (layout or read_architecture(base)).tower(is_query=True)
    if matrix.shape != (own.width, own.width):
        raise ModelError(f"The map is {matrix.shape}, but vectors of {base} have {own.width} numbers.")
    whole = replace(own, dimensions=None).width
    weight = np.zeros((own.width, whole), np.float32)  # base may cut its vectors at the end; the map does so instead
    weight[:, : own.width] = matrix
    path = f"{len(own.modules)}_Dense"
    dense = Dense(path=path, inputs=whole, outputs=own.width, bias=False, activation="Identity")
    mapped = replace(own, modules=(*own.modules, dense, Normalize()), dimensions=None)
    copy_model(folder, base=base, layout=mapped)
    _save(folder / path / "model.safetensors", {"linear.weight": weight})


def save_mapped(
    folder: Path, matrix: Floats, *, base: Path, layout: Architecture, instruction: str | None = None
) -> None:
    """Write a model of two towers: base's for passages, and base's behind a linear map for queries (with_query_map).

    base may have two towers itself. A map that its queries go through already is multiplied with the new one, so that
    one Dense remains. layout: base's, with its right prompts. instruction: the new prompt for queries; default: base's.
    """
    source, tower = plain_tower(base, layout.with_prompts(query=instruction), is_query=True)
    passages, own = plain_tower(base, layout, is_query=False)
    with tempfile.TemporaryDirectory() as scratch:
        query = Path(scratch) / QUERY
        before = _map_of(layout, base)
        if before is None:
            with_query_map(source, matrix, query, layout=tower)
        else:
            copy_model(query, base=source, layout=tower)
            place = tower.modules[-2]
            assert isinstance(place, Dense)  # for the type checker: it is the map
            joined = matrix.astype(np.float64) @ before
            _save(query / place.path / "model.safetensors", {"linear.weight": joined.astype(np.float32)})
        save_towers(folder, query=query, document=passages, layout=own)


def _map_of(layout: Architecture, folder: Path) -> Floats | None:
    """The matrix that a model's queries go through at the end, and its passages don't; None if there is no such map."""
    *first, dense, last = layout.tower(is_query=True).modules
    if len(first) != len(layout.modules) or not isinstance(dense, Dense) or not isinstance(last, Normalize):
        return None
    if dense.bias or dense.residual or dense.activation != "Identity" or dense.outputs != layout.width:
        return None
    matrix: Floats = read_module(folder / dense.path)["linear.weight"].float().numpy()
    return matrix


def copy_whole(folder: Path, *, base: Path, layout: Architecture) -> None:
    """Write a copy of a model of one tower or of two. layout: base's, with its right prompts."""
    if layout.queries is None:
        copy_model(folder, base=base, layout=layout)
        write_golden(folder)
    else:
        passages, own = plain_tower(base, layout, is_query=False)
        save_towers(folder, query=plain_tower(base, layout, is_query=True)[0], document=passages, layout=own)


def plain_tower(base: Path, layout: Architecture, *, is_query: bool) -> tuple[Path, Architecture]:
    """The plain folder of one tower, and its architecture there with the prompts of layout, which is base's."""
    if layout.queries is None:
        return base, layout
    folder = tower_folder(base, is_query=is_query)
    prompts = {"query": layout.query_instruction, "document": layout.document_instruction}
    return folder, read_architecture(folder).with_prompts(**prompts)


def tower_folder(folder: Path, *, is_query: bool) -> Path:
    """The plain model folder of one tower; the folder itself if it has no towers.

    It lies in the folder if we wrote that; for another Router it is made once, in the cache.
    """
    layout = read_architecture(folder)
    if layout.queries is None:
        return folder
    tower = layout.tower(is_query=is_query)
    plain = folder / (QUERY if is_query else DOCUMENT)
    if (plain / "modules.json").exists() and _is_same(folder, tower, plain, read_architecture(plain)):
        return plain
    files = {name: sha256_file(path) for name, path in content_names(folder, tower).items()}
    target = cache_folder() / "towers" / sha256_json({"files": files, **_settings(tower)})[:24]
    if not target.exists():
        with atomic_folder(target) as partial:
            copy_model(partial, base=folder, layout=tower)
    return target


def plain_folders(folder: Path) -> list[Path]:
    """The plain model folders of both towers, the passages' first; of a model of one tower the folder itself."""
    return list(dict.fromkeys(tower_folder(folder, is_query=is_query) for is_query in (False, True)))


def _is_same(folder: Path, tower: Architecture, plain: Path, own: Architecture) -> bool:
    """Whether a plain folder gives the vectors of a tower of the Router above it."""
    files, others = content_names(folder, tower), content_names(plain, own)
    return (
        own.queries is None
        and _settings(own) == _settings(tower)
        and files.keys() == others.keys()
        and all(
            path.samefile(others[name]) or sha256_file(path) == sha256_file(others[name])
            for name, path in files.items()
        )
    )


def _settings(tower: Architecture) -> dict[str, object]:
    """Everything but files that decides a tower's vectors."""
    prompts = {"query": tower.query_instruction, "document": tower.document_instruction}
    vectors = {"modules": tower.records(), "dimensions": tower.dimensions, "similarity": tower.similarity}
    return {"prompts": prompts, **vectors}


def _listed(folder: Path, role: str) -> Listed:
    """The class and the path of each module of a tower, from the folder above it."""
    listed = read_value(folder / role / "modules.json")
    found: Listed = []
    for module in listed if isinstance(listed, list) else ():
        assert isinstance(module, dict)  # for the type checker: copy_model wrote it
        found.append((str(module["type"]), "/".join(part for part in (role, str(module["path"])) if part)))
    return found


def _same_files(query: Path, document: Path) -> bool:
    """Whether a module has the same files in both towers. Equal weights are stored once from then on."""
    files = [{path.name: path for path in place.iterdir() if path.is_file()} for place in (query, document)]
    for name in sorted({*files[0], *files[1]} - _OF_THE_WHOLE):
        pair = files[0].get(name), files[1].get(name)
        if pair[0] is None or pair[1] is None or sha256_file(pair[0]) != sha256_file(pair[1]):
            return False
    for name in files[0]:
        if name.endswith(".safetensors"):
            _link(files[1][name], files[0][name])
    return True


def _link(stored: Path, copy: Path) -> None:
    """Make a file another name of an equal one. Where the disk has no hard links it stays a copy."""
    name = copy.with_name(f".{copy.name}.link")
    try:
        os.link(stored, name)
    except OSError:
        return
    os.replace(name, copy)


def _save(path: Path, tensors: Mapping[str, Floats]) -> None:
    from safetensors.numpy import save_file

    save_file(dict(tensors), path, metadata={"format": "pt"})
