"""Each entry of docs/troubleshooting.md is a message that the source has, with a command."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import embedfit
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
ENTRIES = [(entry.partition("`")[2].partition("`\n")[0], entry) for entry in re.split(r"^### ", PAGE, flags=re.M)[1:]]


def shown(node: ast.expr) -> str:
    """A text as it is printed, with … for what is put in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(shown(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return shown(node.left) + shown(node.right)
    return "…"


@cache
def messages() -> str:
    """Every text of the source, a line each."""
    found = []
    for path in Path(embedfit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.JoinedStr, ast.BinOp)) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            ):
                found.append(shown(node).replace("\n", " "))
    return "\n".join(found)


@pytest.mark.parametrize(("message", "entry"), ENTRIES, ids=[message[:50] for message, _ in ENTRIES])
def test_the_message_is_one_of_ours_and_has_a_command(message: str, entry: str) -> None:
    assert message in messages()
    assert re.search(r"^```\n(?:embedfit|pip install) .*\n```$", entry, re.M)


def test_a_message_that_nobody_prints_is_found() -> None:
    assert "There is no modle …" not in messages()
    assert len(ENTRIES) >= 25
