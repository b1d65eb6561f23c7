"""Takes a target out of the files of a run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedfit.adapting.moving import MovedVectors
from embedfit.asked.log import key_of
from embedfit.files.atomic import atomic_file
from embedfit.forgetting.target import Target
from embedfit.path.stages import FORGOTTEN
from embedfit.path.workspace import Workspace

#: The replacement for a text that was taken out.
GONE = "(forgotten)"
_MANIFEST = ".manifest.json"
#: A text of so many characters is not in another file by chance. The most texts that leftovers() looks for.
_SURE, _LOOKED_FOR = 12, 200
#: Names of JSON members that hold the id or name of a query, a passage or a document.
_IDS = frozenset({"query_id", "passage_id", "document_id", "document", "id", "_id"})
Row = dict[str, Any]
#: Takes a row and gives the row that stays, or None if it goes.
Rule = Callable[[Row], Row | None]


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder that holds the target. count: the rows, texts or files that go or are changed there."""

    name: str
    count: int
    unit: str


def run_files(workspace: Workspace, target: Target, *, dry: bool) -> Iterator[Place]:
    """Take the target out of every file of a run folder. Yields the places where it was. dry: only count.

    The files by which a target is found are changed last, so that a killed command finds it again.
    """
    rules = {
        "train.jsonl": _trained(target),
        "judgements.jsonl": _about(target),
        "pool.jsonl": _pooled(target),
        "grades.jsonl": _about(target),
        "person_grades.jsonl": _about(target),
        "scores.jsonl": _about(target),
        "eval/corpus.jsonl": lambda row: None if row.get("_id") in target.passages else row,
        "eval/queries.jsonl": lambda row: None if _is_asked_for(row, target) else row,
    }
    for name, rule in rules.items():
        yield from _rows(workspace, name, rule, dry=dry)
    yield from _judged(workspace, target, dry=dry)
    yield from _moved(workspace, target, dry=dry)
    yield from _values(workspace, target, dry=dry)
    yield from _pages(workspace, target, dry=dry)
    yield from _whole(workspace, "assess", target, dry=dry)
    yield from _whole(workspace, ".partial", target, dry=dry)
    yield from _rows(workspace, "queries.jsonl", _queried(target), dry=dry)
    yield from _manifests(workspace, target, dry=dry)
    if target.passages or target.documents:
        for name in ("metadata.jsonl", "passages.jsonl", "dropped_passages.jsonl", "documents.jsonl"):
            yield from _rows(workspace, name, _ingested(target), dry=dry)


# --- rows of JSON


def _rows(workspace: Workspace, name: str, rule: Rule, *, dry: bool) -> Iterator[Place]:
    path = workspace.path(name)
    if not path.exists():
        return
    kept, count = [], 0
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line) if line.strip() else {}
            now = rule(row)
            count += now != row
            if now is not None:
                kept.append(line if now == row else f"{json.dumps(now, ensure_ascii=False)}\n".encode())
    if count:
        yield Place(name, count, "rows")
    if count and not dry:
        with atomic_file(path, binary=True) as out:
            out.writelines(kept)


def _is_asked_for(row: Row, target: Target) -> bool:
    """Whether a row is about one of the queries, by its id or its text."""
    text = row.get("query", row.get("text", ""))
    named = row.get("query_id", row.get("_id")) in target.queries
    return named or (isinstance(text, str) and bool(target.marks.keys) and key_of(text) in target.marks.keys)


def _about(target: Target) -> Rule:
    def rule(row: Row) -> Row | None:
        return None if _is_asked_for(row, target) or row.get("passage_id") in target.passages else row

    return rule


def _pooled(target: Target) -> Rule:
    """Rows of pool.jsonl: without the question, or without the passages that go."""

    def rule(row: Row) -> Row | None:
        if _is_asked_for(row, target):
            return None
        left = [one for one in row["passages"] if one not in target.passages]
        return row if len(left) == len(row["passages"]) else {**row, "passages": left}

    return rule


def _queried(target: Target) -> Rule:
    """Rows of queries.jsonl. If only the answer of an asked question goes, the question stays."""

    def rule(row: Row) -> Row | None:
        if row["query_id"] in target.queries:
            return None
        answers = [row.get("passage_id", ""), *row.get("also_relevant", ())]
        left = [one for one in answers if one not in target.passages]
        return row if left == answers else {**row, "passage_id": (left or [""])[0], "also_relevant": left[1:]}

    return rule


def _trained(target: Target) -> Rule:
    """Rows of train.jsonl: without the query's rows, and without the passage in rows that keep others."""
    contents = set(target.contents)

    def rule(row: Row) -> Row | None:
        if key_of(row["query"]) in target.marks.keys:
            return None
        now = dict(row)
        for name in ("pos", "neg"):
            texts = row.get(name) or []
            keep = [number for number, text in enumerate(texts) if text not in contents]
            if len(keep) == len(texts):
                continue
            now[name] = [texts[number] for number in keep]
            scores = row.get(f"{name}_scores") or []
            if len(scores) == len(texts):
                now[f"{name}_scores"] = [scores[number] for number in keep]
        return now if now["pos"] else None

    return rule


def _ingested(target: Target) -> Rule:
    def rule(row: Row) -> Row | None:
        is_copy = str(row.get("reason", "")).removeprefix("a copy of ") in target.passages | target.documents
        gone = row.get("document_id") in target.documents or row.get("passage_id") in target.passages
        return None if gone or (is_copy and str(row.get("reason", "")).startswith("a copy of ")) else row

    return rule


def _judged(workspace: Workspace, target: Target, *, dry: bool) -> Iterator[Place]:
    """The judged pairs of eval/, in tab-separated columns: query, passage, score."""
    path = workspace.path("eval/qrels/test.tsv")
    if not path.exists():
        return
    lines = path.read_text("utf-8").splitlines(keepends=True)
    kept = [
        line
        for line in lines
        if (columns := line.rstrip("\n").split("\t"))[0] not in target.queries or len(columns) < 3
        if len(columns) < 3 or columns[1] not in target.passages
    ]
    if len(kept) < len(lines):
        yield Place("eval/qrels/test.tsv", len(lines) - len(kept), "rows")
        if not dry:
            with atomic_file(path) as out:
                out.writelines(kept)


def _moved(workspace: Workspace, target: Target, *, dry: bool) -> Iterator[Place]:
    """The moved vectors of the passages that go."""
    name = "adapt/moved.safetensors"
    if not workspace.path(name).exists():
        return
    vectors = MovedVectors.load(workspace.path(name))
    left = vectors.without(target.passages)
    if len(left.ids) < len(vectors.ids):
        yield Place(name, len(vectors.ids) - len(left.ids), "rows")
        if not dry:
            left.save(workspace.path(name))


# --- values of JSON, pages, scratch


def _values(workspace: Workspace, target: Target, *, dry: bool) -> Iterator[Place]:
    """JSON files that quote texts. List elements that hold a text of the target go; a text elsewhere is replaced."""
    paths = [path for folder in ("", "finetuned", "merged") for path in sorted(workspace.path(folder).glob("*.json"))]
    for path in paths:
        if path.name == FORGOTTEN or path.name.startswith((".", "tokenizer")) or path.name.endswith(_MANIFEST):
            continue
        try:
            value = json.loads(path.read_bytes())
        except ValueError:
            continue
        redaction = _Redaction(target)
        now = redaction.of(value)
        if redaction.count:
            name = path.relative_to(workspace.root).as_posix()
            yield Place(name, redaction.count, "texts")
            if not dry:
                workspace.write_json(name, now)


class _Redaction:
    def __init__(self, target: Target) -> None:
        self._target = target
        self.count = 0

    def of(self, value: object) -> object:
        """The value without the target's texts and names."""
        if isinstance(value, str):
            held = self._holds(value)
            self.count += held
            return GONE if held else value
        if isinstance(value, list):
            kept = [one for one in value if not (self._inside(one) or self._is_named(one))]
            self.count += len(value) - len(kept)
            return kept
        if isinstance(value, dict):
            kept_items = {key: self.of(inner) for key, inner in value.items() if not self._is_of(key, inner)}
            self.count += len(value) - len(kept_items)
            return kept_items
        return value

    def _is_of(self, key: str, value: object) -> bool:
        """Whether a member is keyed by an id of the target, as texts are by passages, or names one."""
        ids = self._target.passages | self._target.queries
        return (key in ids and isinstance(value, str | dict | list)) or (key in _IDS and self._is_named(value))

    def _is_named(self, value: object) -> bool:
        target = self._target
        return isinstance(value, str) and value in target.names | target.passages | target.queries

    def _inside(self, value: object) -> bool:
        if isinstance(value, str):
            return self._holds(value)
        if isinstance(value, dict):
            return any(self._is_of(key, inner) or self._inside(inner) for key, inner in value.items())
        return isinstance(value, list) and any(self._inside(one) for one in value)

    def _holds(self, text: str) -> bool:
        return text in self._target.names or self._target.marks.holds(text)


def _manifests(workspace: Workspace, target: Target, *, dry: bool) -> Iterator[Place]:
    """The manifests of stages, which name the documents that were read."""
    for path in sorted(workspace.root.glob(f"*{_MANIFEST}")):
        manifest = workspace.read_manifest(path.name.removesuffix(_MANIFEST))
        if manifest is None:
            continue
        kept = {key: value for key, value in manifest.inputs.items() if key.partition(": ")[2] not in target.names}
        if len(kept) < len(manifest.inputs):
            yield Place(path.name, len(manifest.inputs) - len(kept), "names")
            if not dry:
                workspace.write_manifest(replace(manifest, inputs=kept))


def _pages(workspace: Workspace, target: Target, *, dry: bool) -> Iterator[Place]:
    """The report and the model's card, which the stage report writes again."""
    for name in ("report.html", "merged/README.md", "finetuned/README.md"):
        path = workspace.path(name)
        if path.exists() and target.marks.holds(path.read_text("utf-8", errors="replace")):
            yield Place(name, 1, "file")
            if not dry:
                path.unlink()


def _whole(workspace: Workspace, name: str, target: Target, *, dry: bool) -> Iterator[Place]:
    """Folders that go whole, because they may hold any text: an assessment, and what interrupted stages resume by."""
    folder = workspace.path(name)
    if folder.exists() and (target.passages or target.queries or target.marks.keys):
        yield Place(name, sum(path.is_file() for path in folder.rglob("*")), "files")
        if not dry:
            shutil.rmtree(folder)


def leftovers(workspace: Workspace, target: Target) -> list[str]:
    """Files of the run folder that still hold one of the first _LOOKED_FOR texts, letter by letter."""
    texts = [text for text in (*target.texts, *target.contents) if len(text) >= _SURE][:_LOOKED_FOR]
    marks = {form.encode("utf-8", "replace") for text in texts for form in (text, json.dumps(text)[1:-1])}
    return [
        path.relative_to(workspace.root).as_posix()
        for path in sorted(workspace.root.rglob("*"))
        if path.is_file() and _has_any(path, marks)
    ]


def _has_any(path: Path, marks: set[bytes]) -> bool:
    longest = max(map(len, marks), default=0)
    if not longest:
        return False
    before = b""
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            whole = before + block
            if any(mark in whole for mark in marks):
                return True
            before = whole[-longest:]
    return False
