"""The pages of the project, taken apart: blocks between fences, and what stands above them in HTML comments.

`<!-- not run: reason -->` above a block says why no test runs it. `<!-- before: code -->` is run before a block of
Python and is not seen by readers. Both belong to the next block of the page.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_PIECE = re.compile(
    r"<!--\s*(?P<key>not run|before):\s*(?P<value>.*?)\s*-->|^```(?P<lang>\w*)\n(?P<text>.*?)^```$", re.S | re.M
)


@dataclass(frozen=True)
class Block:
    """line: of the opening fence in the page. before: hidden code. skipped: the reason why it is not run, or ""."""

    page: Path
    line: int
    language: str
    text: str
    before: str = ""
    skipped: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text, said = page.read_text("utf-8"), {"before": "", "not run": ""}
    for piece in _PIECE.finditer(text):
        if piece["key"]:
            said[piece["key"]] = piece["value"]
            continue
        line = text.count("\n", 0, piece.start()) + 1
        assert piece["lang"] == "python" or not said["before"], f"{page.name}:{line}: no Python follows"
        yield Block(page, line, piece["lang"], piece["text"], said["before"], said["not run"])
        said = {"before": "", "not run": ""}
    assert not any(said.values()), f"{page.name}: a comment stands above no block: {said}"


def inline(page: Path) -> Iterator[tuple[int, str]]:
    """(line, code) of what stands between single backticks outside of blocks."""
    outside = re.sub(
        r"^```.*?^```$", lambda match: "\n" * match[0].count("\n"), page.read_text("utf-8"), flags=re.S | re.M
    )
    for match in re.finditer(r"`([^`]+)`", outside):
        yield outside.count("\n", 0, match.start()) + 1, " ".join(match[1].split())


def hooks() -> ModuleType:
    """docs/hooks.py, which makes the pages of the reference."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
