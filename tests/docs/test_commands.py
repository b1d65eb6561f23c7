"""Every command of embedfit that the README and docs show exists, with the options and arguments that they give it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from embedfit.cli.main import app
from tests.docs.pages import PAGES, ROOT, blocks, inline

COMMANDS = typer.main.get_command(app)
_COMMAND = re.compile(r"(?:\$ |\.venv/bin/|python -m )*(embedfit [^|;]*)")
#: What stands for something else, or is a second form of the command.
_OMITTED = re.compile(r"\s+\(.*|\s{3,}.*")


def shown(page: Path) -> list[tuple[str, str]]:
    """(place, command) of each command in the blocks of a page, without comments and what is printed beside it."""
    found = []
    for block in blocks(page):
        if block.language in ("", "bash", "sh", "console"):
            for number, line in enumerate(block.text.replace("\\\n", " ").splitlines(), block.line + 1):
                if match := _COMMAND.match(line.strip()):
                    found.append((f"{page.relative_to(ROOT)}:{number}", match[1]))
    return found


def words(command: str) -> list[str]:
    """The words of a command line, up to a comment or a second column of text."""
    plain = _OMITTED.sub("", re.sub(r"(deploy sagemaker \w+) +", r"\1 ", command))
    return shlex.split(plain, comments=True)[1:]


def find(arguments: list[str]) -> tuple[typer.main.click.Command, str, list[str]]:
    """The command that the first words name, and the words after them."""
    command, name = COMMANDS, "embedfit"
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, f"there is no command {arguments[0]!r}"
        name, command, arguments = arguments[0], command.commands[arguments[0]], arguments[1:]
    return command, name, arguments


BLOCKS = [(place, command) for page in (*PAGES, ROOT / "llms.txt") for place, command in shown(page)]


@pytest.mark.parametrize(("place", "command"), BLOCKS, ids=[place for place, _ in BLOCKS])
def test_a_command_of_a_block_parses(place: str, command: str) -> None:
    found, name, arguments = find(words(command))
    # Installing a completion happens while the command line is read.
    found.make_context(name, arguments, resilient_parsing=any(word.endswith("-completion") for word in arguments))


def test_a_command_within_a_sentence_exists_with_its_options() -> None:
    wrong, seen = [], 0
    for page in PAGES:
        for line, code in inline(page):
            if not code.startswith("embedfit ") or "…" in code.split()[1:2]:
                continue
            seen += 1
            try:
                found, _, arguments = find(shlex.split(code.replace("…", "x").replace("'", ""))[1:])
            except AssertionError as error:
                wrong.append(f"{page.name}:{line}: {code}: {error}")
                continue
            known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
            given = {word.partition("=")[0] for word in arguments if word.startswith("--")} | {"--help"}
            wrong += [f"{page.name}:{line}: {code}: {one}" for one in given - known - {"--help"}]
    assert seen > 50 and not wrong, "\n".join(wrong)


def test_what_is_wrong_is_found() -> None:
    with pytest.raises(AssertionError, match="no command 'serch'"):
        find(words("embedfit serch x"))
    found, name, arguments = find(words("embedfit search --rum DIR x"))
    with pytest.raises(Exception, match="No such option"):
        found.make_context(name, arguments)
