"""Whether a stage's code changed without its version: the record in tests/golden/stage_code.json, and how to renew it.

A stage is done again when its `version` in src/embedfit/path/stages.py is raised, and not at every release. So whoever
changes the code behind a stage says which of two things holds:

* its results changed: raise the stage's version in stages.py, then run `python -m tests.stage_code`;
* its results did not change: run `python -m tests.stage_code --results-unchanged`.

Both write the record, which belongs into the same commit. Comments and docstrings don't count. Where two branches
changed it, take either side of the record and run the command again.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from functools import cache
from pathlib import Path

import embedfit
from embedfit.path.stages import EVERY
from embedfit.plugins import places

SOURCE = Path(embedfit.__file__).parent
RECORD = Path(__file__).parent / "golden" / "stage_code.json"
#: Modules that say how the work is shown, stored or paid for. They decide no result.
NO_RESULTS = frozenset(
    {
        "errors",
        "progress",
        "display.terminal",
        "runtime",
        "config",
        "config.kinds",
        "config.searching",
        "config.sections",
        "config.sources",
        "config.tuning",
        "config.writing",
        "path.workspace",
        "files.atomic",
        "files.hashes",
        "files.places",
        "network.addresses",
    }
)
_GROUP = re.compile(r"embedfit\.[a-z]+\Z")


def modules() -> dict[str, Path]:
    """Every module of embedfit, and every file that a package carries, by name."""
    found = {}
    for path in sorted(SOURCE.rglob("*")):
        name = path.relative_to(SOURCE).as_posix()
        if path.is_file() and "__pycache__" not in path.parts:
            found[
                name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") if path.suffix == ".py" else name
            ] = path
    return found


@cache
def imports(path: Path) -> set[str]:
    """What a module imports of embedfit, anywhere in it, and the modules of a group of entry points that it names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "embedfit":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _GROUP.match(node.value):
            names |= {place.partition(":")[0] for place in places(node.value).values()}
    return {name.partition(".")[2] for name in names if name.startswith("embedfit.")}


def behind(module: str, known: dict[str, Path]) -> set[str]:
    """The modules and files that decide what a stage gives: its package, and everything that is imported from there."""
    package = module.removeprefix("embedfit.").split(".")[0]
    pending = [name for name in known if name.replace("/", ".").split(".")[0] == package]
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            inside = imports(known[name]) if known[name].suffix == ".py" else set()
            pending += [name for name in inside if name in known and name not in NO_RESULTS]
    return found


def fingerprint(path: Path) -> str:
    """A hash of what a module does: the same for other comments, docstrings, line breaks and versions of Python."""
    data = _form(ast.parse(path.read_text("utf-8"))).encode() if path.suffix == ".py" else path.read_bytes()
    return hashlib.sha256(data).hexdigest()[:16]


def _form(value: object) -> str:
    if isinstance(value, ast.AST):
        fields = {name: inner for name, inner in ast.iter_fields(value) if name not in ("ctx", "kind", "type_comment")}
        if (
            isinstance(value, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(value) is not None
        ):
            fields["body"] = value.body[1:]
        # Newer versions of Python have fields that are empty where older ones have none.
        inner = ",".join(f"{name}={_form(one)}" for name, one in fields.items() if one is not None and one != [])
        return f"{type(value).__name__}({inner})"
    if isinstance(value, list):
        return f"[{','.join(_form(one) for one in value)}]"
    return f"{type(value).__name__}:{value!r}"


def present() -> dict[str, dict[str, object]]:
    """The record as it should be now."""
    known = modules()
    behind_any = {name for stage in EVERY for name in behind(stage.module, known)}
    return {
        "versions": {stage.name: stage.version for stage in EVERY},
        "code": {name: fingerprint(known[name]) for name in sorted(behind_any)},
    }


def unsaid(record: dict[str, dict[str, object]], now: dict[str, dict[str, object]]) -> list[str]:
    """The stages whose code changed although their version is that of the record, each with the changed modules."""
    known = modules()
    found = []
    for stage in EVERY:
        needed = behind(stage.module, known)
        changed = sorted(name for name in needed if record["code"].get(name) != now["code"][name])
        if changed and record["versions"].get(stage.name) == stage.version:
            found.append(f"{stage.name} (version {stage.version}): {', '.join(changed)}")
    return found


def main() -> None:
    """Renew the record, unless a stage's code changed and nobody said what that means."""
    now = present()
    record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {"versions": {}, "code": {}}
    left = unsaid(record, now)
    if left and "--results-unchanged" not in sys.argv:
        sys.exit("\n".join(["The code of these stages changed, but not their version:", *left, "", __doc__ or ""]))
    RECORD.write_text(json.dumps(now, indent=1) + "\n", "utf-8")
    sys.stdout.write(f"{RECORD}\n")


if __name__ == "__main__":
    main()
