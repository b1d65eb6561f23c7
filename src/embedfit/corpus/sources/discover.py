"""From the paths that a person named to files, their kinds and their ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedfit.corpus.sources.kinds import kind_of
from embedfit.corpus.sources.walking import files_of, shown
from embedfit.path.workspace import Workspace

Role = Literal["train", "eval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file to read. problem: the reason why it is not read, or "". root, name: as in Found.

    stored: the path in the form in which the run folder keeps it, if a form was asked for.
    """

    path: Path
    root: Path
    name: str
    document_id: str
    kind: str
    role: Role = "train"
    problem: str = ""
    stored: str = ""

    def stored_path(self, workspace: Workspace) -> str:
        """The path in the form in which a run folder keeps it."""
        root = workspace.stored_path(self.root)
        return shown(root) if self.path == self.root else f"{shown(root)}/{self.name}"


def discover(
    docs: Sequence[str | Path], *, role: Role = "train", taken: Iterable[str] = (), follow_links: bool = False
) -> list[Source]:
    """The files that paths name, folders searched, in a stable order. taken: ids that are used already.

    Ids are paths relative to the folder that was named, made unique. follow_links: also read files outside the folders
    to which links in them lead. Raises InputError for a path that is not there.
    """
    found = files_of(docs, follow_links=follow_links)
    ids = unique_ids([one.path for one in found], [one.name for one in found], taken)
    sources = []
    for one, document_id in zip(found, ids, strict=True):
        kind, problem = kind_of(one.path) if not one.problem else ("unsupported", one.problem)
        sources.append(
            Source(
                path=one.path,
                name=one.name,
                root=one.root,
                document_id=document_id,
                kind=kind,
                role=role,
                problem=problem,
            )
        )
    return sources


def unique_ids(paths: Sequence[Path], names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """An id for each file: its relative path without spaces, with parent folders if that is not unique."""
    used = set(taken)
    candidates = [re.sub(r"\s+", "_", name) for name in names]
    twice = {name for name, count in Counter(candidates).items() if count > 1} | (used & set(candidates))
    result = []
    for path, name in zip(paths, candidates, strict=True):
        parents = [re.sub(r"\s+", "_", shown(part)) for part in path.absolute().parent.parts[1:]]
        chosen, depth = name, len(Path(name).parts)
        if name in twice:
            outer = parents[: len(parents) - (depth - 1)] if depth > 1 else parents
            chosen = f"{outer[-1]}/{name}" if outer else name
        number = 2
        base = chosen
        while chosen in used:
            chosen, number = f"{base}~{number}", number + 1
        used.add(chosen)
        result.append(chosen)
    return result
