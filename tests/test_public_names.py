"""The public names are those that the README, the docs and the examples use, and these use no others."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
from importlib import import_module
from pathlib import Path

import embedfit
from tests.docs.pages import PAGES, ROOT, blocks, hooks, inline

EXTENDING = ROOT / "docs" / "extending.md"
MADE = {(ROOT / "docs" / name).resolve() for name in hooks().MADE}


def sources() -> dict[str, str]:
    """The Python of pages, examples and notebooks, by where it stands."""
    found = {str(one): one.text for page in PAGES for one in blocks(page) if one.language == "python"}
    found |= {str(one): one.before for page in PAGES for one in blocks(page) if one.before}
    for path in sorted((ROOT / "examples").iterdir()):
        if path.suffix == ".py":
            found[path.name] = path.read_text("utf-8")
        elif path.suffix == ".ipynb":
            cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
            code = ["".join(line for line in cell["source"] if line[:1] not in "%!") for cell in cells]
            found |= {f"{path.name}, cell {number}": text for number, text in enumerate(code)}
    return found


def public_modules() -> list[str]:
    """The modules, or patterns of them, that the last section of docs/extending.md names."""
    section = EXTENDING.read_text("utf-8").partition("## What a plug-in may import")[2]
    return re.findall(r"`(embedfit\.[\w.*]+)`", section)


def used(code: str) -> set[tuple[str, str]]:
    """(module, name) of what code takes from embedfit: by import, or as `embedfit.name`."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "embedfit":
            found |= {(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "embedfit":
            found.add(("embedfit", node.attr))
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if alias.name.startswith("embedfit.")}
    return found


def in_sentences() -> set[str]:
    """Names that pages mention as `embedfit.name`, such as `embedfit.run(docs, …)`."""
    text = [code for page in PAGES for _, code in inline(page)]
    text += [line.partition("#")[2] for page in PAGES for one in blocks(page) for line in one.text.splitlines()]
    return {name for one in text for name in re.findall(r"\bembedfit\.(\w+)\b(?!\.\w)(?!/)", one)} - {
        "toml",
        "json",
        "ledger",
    }


def test_what_pages_and_examples_import_is_public() -> None:
    modules, wrong, count = public_modules(), [], 0
    for place, code in sources().items():
        for module, name in used(code):
            count += 1
            if module == "embedfit":
                if name not in embedfit.__all__:
                    wrong.append(f"{place}: embedfit.{name}")
            elif name.startswith("_") or not any(fnmatch.fnmatch(module, pattern) for pattern in modules):
                wrong.append(f"{place}: {module}.{name}")
            elif name:
                assert hasattr(import_module(module), name), f"{place}: {module} has no {name}"
    assert count > 30 and not wrong, "\n".join(wrong)


def test_every_public_name_is_shown_to_readers() -> None:
    shown = {name for code in sources().values() for module, name in used(code) if module == "embedfit"}
    assert set(embedfit.__all__) - shown - in_sentences() - {"__version__"} == set()


def test_public_modules_are_there() -> None:
    for name in public_modules():
        import_module(name.removesuffix(".*"))
    assert len(public_modules()) > 10


def test_every_public_name_can_be_imported() -> None:
    for name in embedfit.__all__:
        value = getattr(embedfit, name)
        assert name == "__version__" or value.__doc__, f"{name} has no docstring"


def test_each_page_names_files_that_are_there() -> None:
    """Paths in ARCHITECTURE.md, CONTRIBUTING.md and docs/extending.md, from the root or from a package on."""
    tops = [ROOT / name for name in ("src", "tests", "docs", "examples", "benchmarks")]
    there = [f"/{path.relative_to(ROOT).as_posix()}" for top in tops for path in (top, *top.rglob("*"))]
    missing = [
        f"{page.name}:{line}: {code}"
        for page in (ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", EXTENDING)
        for line, code in inline(page)
        if re.fullmatch(r"[a-z_]+/[\w./-]*", code) and not any(one.endswith(f"/{code.rstrip('/')}") for one in there)
    ]
    assert not missing, "\n".join(missing)


def test_links_between_pages_lead_somewhere() -> None:
    wrong = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text("utf-8")):
            made = (page.parent / target).resolve() in MADE
            if not target.startswith("http") and not made and not (page.parent / target).exists():
                wrong.append(f"{page.name}: {target}")
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([\w-]+)\)", page.read_text("utf-8")):
            other: Path = (page.parent / target) if target else page
            heads = re.findall(r"^#+ (.*)$", other.read_text("utf-8"), re.MULTILINE)
            known = {
                re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head)).strip().lower().replace(" ", "-") for head in heads
            }
            if anchor not in known:
                wrong.append(f"{page.name}: {target}#{anchor}")
    assert not wrong, "\n".join(wrong)
