"""Imports point down, and stage packages meet in files only."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import embedfit

PACKAGE = Path(embedfit.__file__).parent
#: Who may import whom: a module imports only from lower levels, or from its own package.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"numerics", "plugins", "network", "display",
               "files.atomic", "files.textfiles", "files.hashes", "files.places",
               "index.retriever"}),
    frozenset({"progress", "generators", "path.artefacts", "path.lines", "path.stages", "scale",
               "models.store.shards"}),
    frozenset({"path.workspace"}),
    frozenset({"llm.protocol", "models.store.vectors", "tracking"}),
    frozenset({"config", "runtime", "files"}),
    frozenset({"path.forgotten"}),
    frozenset({"retrieval"}),
    frozenset({"models"}),
    frozenset({"llm"}),
    frozenset({"embedders"}),
    frozenset({"judging", "index", "asked", "path.systems"}),
    frozenset({"teaching"}),
    frozenset(
        {"corpus", "queries", "mining", "training", "merging", "choosing", "evaluation", "reporting", "serving",
         "deploy", "integrations"}
    ),
    frozenset({"adapting", "assessing", "comparing", "diagnosing"}),  # made of what the stages before it can do
    frozenset({"path"}),
    frozenset({"commands", "testing"}),
    frozenset({"forgetting"}),
    frozenset({"cli"}),
    frozenset({"__init__", "__main__"}),
)  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def imports(path: Path) -> set[str]:
    """First-party modules that a file imports, anywhere in it, without the first "embedfit."."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "embedfit":
            found |= {f"{node.module}.{alias.name}".partition(".")[2] for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("embedfit.")}
    return found


def room(module: str) -> str | None:
    """The longest name in LEVELS that a module lies in. None for a public name of embedfit itself."""
    parts = module.split(".")
    return next((name for i in range(len(parts), 0, -1) if (name := ".".join(parts[:i])) in LEVEL), None)


FILES = sorted(PACKAGE.rglob("*.py"))


def test_imports_point_down() -> None:
    wrong = []
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        own = room(name.removesuffix(".py").replace("/", "."))
        if own is None:
            wrong.append(f"{name} has no level: say in LEVELS where it belongs")
            continue
        others = {room(module) for module in imports(path)} - {own, None}
        wrong += [f"{name} imports {other}" for other in others if LEVEL[other] >= LEVEL[own]]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Circles inside a package count too. What only a type checker reads does not."""
    names = {path: path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".") for path in FILES}
    modules = {name.removesuffix(".__init__") for name in names.values()}
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        found: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= inner & modules or {node.module} & modules
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names} & modules
        own = name.removesuffix(".__init__")
        graph[own] = found - {own}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError that names the circle


def test_importing_the_package_loads_neither_torch_nor_boto3() -> None:
    code = "import sys, embedfit, embedfit.cli.main; print([m for m in ('torch', 'boto3', 'transformers') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
