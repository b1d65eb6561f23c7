"""forgotten.json in the run folder: hashes of the documents and questions that the run was told to forget.

Ingest leaves out such documents, and generate such questions, although the user's own files still hold them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields

from embedfit.errors import InputError
from embedfit.path.stages import FORGOTTEN
from embedfit.path.workspace import Workspace

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Hashes of the questions, documents and records that are left out.

    queries: keys of questions (asked.log.key_of). documents: hashed ids of documents, and hashed paths of their files
    as the run keeps them, so that a killed command finds the documents again by either. contents: SHA-256 of their
    files. records: hashed ids of records of a BEIR corpus.
    """

    queries: frozenset[str] = frozenset()
    documents: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()
    records: frozenset[str] = frozenset()

    def has_document(self, document_id: str) -> bool:
        """Whether the document with this id is left out."""
        return bool(self.documents) and hashed(document_id) in self.documents

    def has_file(self, stored_path: str) -> bool:
        """Whether the document of a file is left out. stored_path: as the run keeps it."""
        return bool(self.documents) and hashed_path(stored_path) in self.documents

    def has_record(self, identifier: str) -> bool:
        """Whether the record of a BEIR corpus with this id is left out."""
        return bool(self.records) and hashed(identifier) in self.records


def hashed(identifier: str) -> str:
    """The hash of an id."""
    return hashlib.blake2b(identifier.encode("utf-8", "replace"), digest_size=16).hexdigest()


def hashed_path(stored_path: str) -> str:
    """The hash of a file's path, which is never that of an id."""
    return hashed(f"\0{stored_path}")


def read_forgotten(workspace: Workspace) -> Forgotten:
    """The hashes that the run was told to forget, none in most runs. Raises InputError for a damaged file."""
    path = workspace.path(FORGOTTEN)
    if not path.exists():
        return Forgotten()
    try:
        value = workspace.read_json(FORGOTTEN)
        return Forgotten(**{one.name: frozenset(map(str, value.get(one.name, ()))) for one in fields(Forgotten)})
    except (AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged.", remedy="Forget again what was forgotten: embedfit forget") from error


def write_forgotten(workspace: Workspace, forgotten: Forgotten) -> None:
    """Write forgotten.json."""
    values: dict[str, Iterable[str]] = {one.name: sorted(getattr(forgotten, one.name)) for one in fields(Forgotten)}
    workspace.write_json(FORGOTTEN, {"schema": _SCHEMA, **values})
