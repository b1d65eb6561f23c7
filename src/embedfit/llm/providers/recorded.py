"""The provider "recorded": it reads queries, which a strong writer wrote before, from a file.

Each line of the file is a JSON object: `id` names a passage, a field of each style's name holds its query, `skip` is
true if there is nothing to ask, and `text_start` holds the passage's first words: a row whose id fits but whose text
does not is found out by them. `id` may name a document instead; then the row belongs to the passage that begins with
`text_start`.

A call says in Request.extra which passage it is about and which styles it asks for: a prompt has no id.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from embedfit.config import GenerateConfig, StyleName
from embedfit.errors import InputError, UsageError
from embedfit.files.hashes import sha256_file
from embedfit.files.textfiles import json_lines
from embedfit.generators import Generator, Wanted
from embedfit.llm.protocol import Failure, LanguageModel, Outcome, Reply, Request
from embedfit.llm.quoting import as_data

if TYPE_CHECKING:
    from embedfit.llm.opening import Outside

STYLES: tuple[str, ...] = get_args(StyleName)
_FORM = (
    'A row is: {"id": "a passage\'s id", "question": "…", "keywords": "…", "text_start": "its first words"}, with '
    f'one field or more of {", ".join(STYLES)}, or {{"id": "…", "skip": true}} if there is nothing to ask.'
)
_NO_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One passage's queries. queries: by style, empty if there is nothing to ask. start: letters of its first words."""

    queries: dict[str, str]
    start: str


class RecordedModel(LanguageModel):
    """A language model whose replies stand in a file. path: the file; it is read when the first reply is asked for.

    Raises UsageError if no file is named, InputError if it is missing.
    """

    provider = "recorded"
    takes_turns = False

    def __init__(self, path: str | None) -> None:
        if not path:
            raise UsageError(
                "The generator recorded needs the file of the queries that were written.",
                remedy="Name it: --generator recorded:FILE.jsonl",
            )
        self._path = Path(path)
        if not self._path.is_file():
            raise InputError(
                f"The recorded queries {path} are {'a folder' if self._path.is_dir() else 'missing'}.",
                remedy="Name an existing file: --generator recorded:FILE.jsonl",
            )
        self.model = f"{self._path.name}@{sha256_file(self._path)[:12]}"  # other content makes other calls

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        return read_rows(self._path)

    def styles(self) -> frozenset[str]:
        """The names of the styles in which the file has queries."""
        return frozenset(style for rows in self._rows.values() for row in rows for style in row.queries)

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Yield (index, outcome) in order. A passage without a row is a Failure that says so."""
        for index, request in enumerate(requests):
            yield index, self._answer(request)

    def _answer(self, request: Request) -> Reply | Failure:
        asked = json.loads(request.extra or "{}")
        prompt = request.messages[-1].content.partition("</passage>")[0]
        named = self._rows.get(asked.get("passage", ""), [])
        row = next((row for row in named if row.start in _letters(prompt)), None)
        if row is None:
            row = self._of_document(asked.get("document", ""), prompt)
        if row is None:
            if named:
                return self._nothing("its row of this passage was written of another text")
            return self._nothing("it has no row of this passage")
        if not row.queries:
            return self._nothing("there is nothing to ask of this passage, as its row says")
        queries = [{"style": style, "query": row.queries[style]} for style in asked["styles"] if style in row.queries]
        text = json.dumps(queries, ensure_ascii=False)
        return Reply(text=text, input_tokens=self.count_tokens(request), output_tokens=len(text.split()))

    def _of_document(self, document_id: str, prompt: str) -> Row | None:
        """The row of a document whose words some line of the prompt begins with."""
        rows = [row for row in self._rows.get(document_id, []) if row.start]
        lines = [_letters(line) for line in prompt.splitlines()] if rows else []
        return next((row for row in rows if any(line.startswith(row.start) for line in lines)), None)

    def _nothing(self, why: str) -> Failure:
        return Failure(
            error=f"{self._path.name}: {why}",
            retryable=False,
            unwritten=True,
            remedy=f"The ids in {self._path} must be those of passages.jsonl in the run folder, and text_start the "
            "first words of the passage. Name the file that was written for these documents, or another generator.",
        )


def read_rows(path: Path) -> dict[str, list[Row]]:
    """The rows of a file by their id. Raises InputError, with file, line and remedy, for a line that is no row."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for number, value in json_lines(path):
        identifier, row = _row(value, f"{path}, line {number}")
        if any(row.start == other.start for other in rows[identifier]):
            raise InputError(
                f"{path}, line {number}: another row of {identifier!r} stands above it.",
                remedy="Leave one of them, or give each the text_start of its own text.",
            )
        rows[identifier].append(row)
    if not rows:
        raise InputError(f"{path} holds no recorded query.", remedy=_FORM)
    return dict(rows)


def _row(value: Mapping[str, object], where: str) -> tuple[str, Row]:
    identifier, start = value.get("id"), value.get("text_start", "")
    if not isinstance(identifier, str) or not identifier:
        raise InputError(f"{where}: a row needs an id, which is a text.", remedy=_FORM)
    if not isinstance(start, str):
        raise InputError(f"{where}: text_start must be a text.", remedy=_FORM)
    queries: dict[str, str] = {}
    for style in STYLES:
        query = value.get(style, None)
        if query is not None and (not isinstance(query, str) or not query.strip()):
            raise InputError(f"{where}: {style} must be a text that is not empty.", remedy=_FORM)
        if query:
            queries[style] = query
    if value.get("skip"):
        queries = {}
    elif not queries:
        raise InputError(f"{where}: the row has no query, and does not say skip.", remedy=_FORM)
    return identifier, Row(queries, _letters(start))


def _letters(text: str) -> str:
    """The letters and digits of a text as a prompt shows it, which cleaning leaves as they are."""
    return _NO_LETTERS.sub("", as_data(text)).casefold()


def _styles(settings: GenerateConfig) -> frozenset[str]:
    return RecordedModel(settings.llm).styles()


def _open(settings: GenerateConfig, outside: Outside) -> LanguageModel:
    return RecordedModel(settings.llm)


GENERATOR = Generator(
    name="recorded",
    open=_open,
    free=True,
    judges=False,
    reads_files=True,
    told_passage=True,
    styles=_styles,
    wanted=Wanted(samples=1),
)
