"""A folder of an export: the file of passages, and what says how to read it beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedfit.errors import UsageError
from embedfit.files.atomic import atomic_folder
from embedfit.index.sinks.changes import say_changes
from embedfit.index.sinks.sink import Digest, Handover, after_colon

#: The member of the manifest that marks a folder as an export.
KIND = "embedfit passages"
MANIFEST = "manifest.json"
QUESTIONS = "questions.npz"
#: A line a passage, by which the next export says what changed.
_DIGESTS = "digests.jsonl"


def checked(url: str, form: str) -> Path:
    """The folder that a sink's URL names. Raises UsageError if it holds anything but an earlier export."""
    folder = after_colon(url, form)
    if folder.exists() and not _is_export(folder):
        raise UsageError(
            f"{folder} holds something other than an earlier export of an index, so it is not replaced.",
            remedy="Name a new folder or an empty one.",
        )
    return folder


def _is_export(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        return not any(folder.iterdir()) or json.loads((folder / MANIFEST).read_text("utf-8"))["kind"] == KIND
    except (OSError, ValueError, TypeError, KeyError):
        return False


@contextmanager
def export_folder(folder: Path, file: str, handover: Handover) -> Iterator[Path]:
    """A folder that appears whole or not at all. Yields the path for its file of passages."""
    with atomic_folder(folder) as temporary:
        yield temporary / file
        (temporary / QUESTIONS).write_bytes(handover.questions)
        with (temporary / _DIGESTS).open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(one) + "\n" for one in handover.digests())
        if (folder / _DIGESTS).exists():
            with (folder / _DIGESTS).open(encoding="utf-8") as lines:
                say_changes(handover, (Digest(*json.loads(line)) for line in lines))
        manifest = {"kind": KIND, "schema": 1, "file": file, **handover.about.model_dump(mode="json")}
        (temporary / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", "utf-8")
