"""The files of a model folder that decide what the model computes."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from embedfit.files.hashes import files_below
from embedfit.models.sources import HUB_FILES

#: Files that training wrote beside the weights, for people and for the report.
_LOGS = ("training.json", "losses.jsonl")
#: The same model for other engines.
_OTHER_FORMS = ("onnx", "openvino")


def model_files(path: Path) -> list[tuple[str, Path]]:
    """(name, path) of the files that a model is read from, by name. path: a model folder, or a single model file.

    These are the only files that are fetched of a model on the hub. Cards, licences, images, pickles and training's
    notes don't count.
    """
    if not path.is_dir():
        return [(path.name, path)]
    return [
        (name, file)
        for name, file in files_below(path)
        if any(fnmatch(file.name, pattern) for pattern in HUB_FILES)
        and name not in _LOGS
        and name.split("/")[0] not in _OTHER_FORMS
        and not any(part.startswith(".") for part in name.split("/"))
    ]
