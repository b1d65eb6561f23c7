"""The sizes that CONTRIBUTING.md names: of functions, of their arguments, of packages."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import embedfit

PACKAGE = Path(embedfit.__file__).parent
LINES, ARGUMENTS, MODULES = 60, 8, 12


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return [
        (f"{path.relative_to(PACKAGE).as_posix()}:{node.name}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def test_functions_are_short() -> None:
    long = [name for name, node in functions() if (node.end_lineno or 0) - node.lineno >= LINES]
    assert not long, f"more than {LINES} lines: {long}"


def test_functions_take_few_arguments() -> None:
    """A command has an argument for each option, and a constructor one for each part."""
    many = [
        name
        for name, node in functions()
        if not name.startswith("cli/") and node.name != "__init__"
        and len([one for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if one.arg != "self"])
        > ARGUMENTS
    ]  # fmt: skip
    assert not many, f"more than {ARGUMENTS} arguments: {many}"


def test_packages_have_few_modules() -> None:
    modules = Counter(path.parent for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    large = {folder.relative_to(PACKAGE).as_posix(): count for folder, count in modules.items() if count > MODULES}
    assert not large, f"more than {MODULES} modules: {large}"
