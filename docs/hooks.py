"""Makes the pages of the site that are read from the source: commands, settings, Python, JSON, the project's own.

MkDocs calls the functions whose names begin with on_. Nothing that they make lies in the repository, so nothing of it
can be stale.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.main
from pydantic import TypeAdapter
from rich.text import Text

import embedfit
from embedfit.cli.main import app
from embedfit.cli.results import Printed
from embedfit.config import fields

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
#: Pages of the repository's root, by where they stand on the site.
PROJECT = {
    "project/architecture.md": "ARCHITECTURE.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/skill.md": "SKILL.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[\w-]+)?\)")


def commands() -> Iterator[tuple[str, Any]]:
    """(name, command) of every command that does something, in the order of the help."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - typer brings its own click
        if hasattr(command, "commands"):
            for word, inner in command.commands.items():
                yield from walk(f"{name} {word}", inner)
        else:
            yield name, command

    yield from walk("embedfit", typer.main.get_command(app))


def commands_page() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    parts = ["# Commands\n", "What `embedfit COMMAND --help` prints, of every command.\n"]
    for name, command in commands():
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(command.get_usage(context).partition(":")[2].split())
        parts += [f"\n## {name}\n", f"{inspect.cleandoc(command.help or '')}\n", f"```text\n{usage}\n```\n"]
        rows = []
        for parameter in command.params:
            if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
                continue
            names = [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
            shown = ", ".join(f"`{one}`" for one in names) or f"`{parameter.metavar or parameter.name.upper()}`"
            rows.append(f"| {shown} | {_cell(getattr(parameter, 'help', None) or '')} |")
        if rows:
            parts += ["| | |\n|---|---|", *rows, ""]
    return "\n".join(parts)


def settings_page() -> str:
    """Every setting with its default and whether it decides a result."""
    parts = [
        "# Settings\n",
        "A TOML file (`--config`), `--set KEY=VALUE` or the run folder's `embedfit.toml` holds them. A setting that",
        "decides a result makes the stages that depend on it stale.\n",
    ]
    section = None
    for key, field in fields().items():
        first = key.partition(".")[0] if "." in key else ""
        if first != section:
            section = first
            parts += [f"\n## {section or 'of the run'}\n", "| setting | default | decides | |\n|---|---|---|---|"]
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = field.get_default(call_default_factory=True)
        shown = json.dumps(default, default=lambda value: getattr(value, "model_dump", lambda: str(value))())
        decides = "yes" if extra.get("decides") else ""
        parts.append(f"| `{key}` | `{_cell(shown)}` | {decides} | {_cell(field.description or '')} |")
    return "\n".join(parts) + "\n"


def schema_of(form: Printed) -> dict[str, Any]:
    """The JSON schema of what a command prints, from the record that it prints."""
    module, _, name = form.place.partition(":")
    record = getattr(import_module(module), name)
    schema = TypeAdapter(list[record] if form.many else record).json_schema(mode="serialization")
    for hidden in (one.name for one in (dataclass_fields(record) if is_dataclass(record) else ()) if not one.repr):
        schema["properties"].pop(hidden)
        schema["required"].remove(hidden)
    return schema


def forms_of(command: Any) -> tuple[Printed, ...]:  # noqa: ANN401 - typer brings its own click
    """What a command prints with --json; empty if it has no such option."""
    return getattr(command.callback, "prints", ())


def json_page() -> str:
    """The JSON schema of everything that a command prints with --json."""
    parts = [
        "# JSON\n",
        "What each command prints with `--json`, as JSON Schema. `embedfit benchmark` takes a file: `--json FILE`.",
        "A version may add keys; a key that is there keeps its meaning.\n",
    ]
    for name, command in commands():
        for form in forms_of(command):
            parts.append(f"\n## {name}{f' {form.when}' if form.when else ''}\n")
            parts.append(f"```json\n{json.dumps(schema_of(form), indent=1, ensure_ascii=False)}\n```")
    return "\n".join(parts) + "\n"


def python_page() -> str:
    """The public names, each with its signature and docstring, which mkdocstrings reads from the source."""
    names = [name for name in embedfit.__all__ if name != "__version__"]
    head = "# Python\n\nThe public names of `embedfit`. [From Python](../python.md) shows them at work.\n"
    return head + "".join(f"\n::: embedfit.{name}\n" for name in names)


def project_page(name: str) -> Callable[[], str]:
    """A page of the repository's root, with links that lead to pages of the site."""
    return lambda: relinked((ROOT / PROJECT[name]).read_text("utf-8"), PROJECT[name], name)


def agents_list() -> str:
    """llms.txt with addresses of the site in place of files."""
    text = (ROOT / "llms.txt").read_text("utf-8").replace("](SKILL.md)", "](project/skill/)")
    return re.sub(r"\]\(docs/([\w/-]+)\.md\)", r"](\1/)", text)


def relinked(text: str, source: str, place: str) -> str:
    """A page's text with its links turned from the repository's files to the site's pages.

    source: the page's file in the repository; place: its path on the site. A link to a file that is no page of the
    site, such as a script of examples/, becomes its text.
    """
    pages = {file: at for at, file in PROJECT.items()} | {"README.md": "index.md"}

    def turned(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        at = pages.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if at is None:
            return label
        return f"[{label}]({posixpath.relpath(at, posixpath.dirname(place) or '.')}{anchor})"

    return _LINK.sub(turned, text)


def _cell(text: str) -> str:
    """The text for a cell of a table, without rich's markup."""
    plain = Text.from_markup(" ".join(text.split())).plain
    return plain.replace("|", "\\|").replace("<", "&lt;")


#: The pages that are made, and what makes each.
MADE: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/settings.md": settings_page,
    "reference/python.md": python_page,
    "reference/json.md": json_page,
    **{name: project_page(name) for name in PROJECT},
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name yet at its end, so that none is hidden."""
    named = set(re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8")))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    more = sorted(pages - named)
    if more and config.nav is not None:
        config.nav.append({"More": more})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for name, make in MADE.items():
        files.append(File.generated(config, name, content=make()))
    files.append(File.generated(config, "llms.txt", content=agents_list()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:  # noqa: ANN401 - MkDocs' own
    """Turn links to files outside docs/."""
    source = page.file.src_uri
    return markdown if source in MADE else relinked(markdown, f"docs/{source}", source)
