"""The documentation site: it builds, loads nothing from elsewhere, and its reference has everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import embedfit
from embedfit.config import fields
from tests.docs.pages import PAGES, ROOT, hooks

HOOKS = hooks()


def test_the_reference_has_every_command_and_option() -> None:
    page, count = HOOKS.commands_page(), 0
    for name, command in HOOKS.commands():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, f"{name} is not on the page"
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden and "--help" not in parameter.opts:
                count += 1
                assert f"`{parameter.opts[0]}`" in section, f"{name} {parameter.opts[0]}"
    assert count > 100 and "[/" not in page


def test_the_reference_has_every_setting_and_public_name() -> None:
    settings, names = HOOKS.settings_page(), HOOKS.python_page()
    assert all(f"| `{key}` |" in settings for key in fields())
    assert all(f"::: embedfit.{name}\n" in names for name in embedfit.__all__ if name != "__version__")


@pytest.mark.parametrize(
    ("link", "source", "place", "turned"),
    [
        ("[a](b.md#c)", "docs/a.md", "a.md", "[a](b.md#c)"),
        ("[a](../CHANGELOG.md)", "docs/a.md", "a.md", "[a](project/changelog.md)"),
        ("[a](../recipe.md)", "docs/how-to/a.md", "how-to/a.md", "[a](../recipe.md)"),
        ("[a](docs/adapt.md)", "CHANGELOG.md", "project/changelog.md", "[a](../adapt.md)"),
        ("[a](CONTRIBUTING.md)", "CHANGELOG.md", "project/changelog.md", "[a](contributing.md)"),
        ("[`a`](../examples/a.py)", "docs/a.md", "a.md", "`a`"),
        ("[a](https://example.org)", "docs/a.md", "a.md", "[a](https://example.org)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(link: str, source: str, place: str, turned: str) -> None:
    assert HOOKS.relinked(link, source, place) == turned


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    environment = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len([page for page in PAGES if page.parent != ROOT]) + len(HOOKS.MADE)
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s>]+")
    for page in pages:
        assert not loads.findall(page.read_text("utf-8")), f"{page.name} loads from elsewhere"
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", sheet.read_text("utf-8")), sheet.name
    assert not list((tmp_path / "site").rglob("hooks.py"))
