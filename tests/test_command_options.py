"""Options that a command gets from the fields of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from embedfit.cli.options import with_options
from embedfit.cli.serve import serve
from embedfit.display.options import CommandOption
from embedfit.serving.settings import ServeSettings


class Record(BaseModel):
    text: Annotated[str, CommandOption("A text.")] = "abc"
    number: Annotated[int, Field(ge=1), CommandOption("A number.", ("--number", "-n"), panel="Numbers")] = 3
    share: Annotated[float | None, CommandOption("A share.", shown="all of it")] = None
    kind: Annotated[Literal["one", "two"], CommandOption("A kind.")] = "one"
    parts: Annotated[tuple[str, ...], CommandOption("Parts.")] = ()
    flag: Annotated[bool, CommandOption("A flag.")] = True
    inner: int = 7


def run(*words: str) -> tuple[Mapping[str, object], str]:
    seen: list[Mapping[str, object]] = []
    app = typer.Typer()

    @app.command()
    @with_options(Record)
    def command(name: str = "x", *, given: Mapping[str, object]) -> None:
        seen.append({"name": name, **given})

    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    return (seen[0] if seen else {}), done.output


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ((), {"name": "x"}),
        (("--text", "", "-n", "0"), {"name": "x", "text": "", "number": 0}),
        (("--share", "0.5", "--kind", "three"), {"name": "x", "share": 0.5, "kind": "three"}),
        (("--parts", "a", "--parts", "b", "--no-flag"), {"name": "x", "parts": ["a", "b"], "flag": False}),
        (("--name", "y", "--flag"), {"name": "y", "flag": True}),
    ],
)
def test_what_is_given_reaches_the_command_and_nothing_else(words, given):
    assert run(*words)[0] == given


def test_types_are_read_and_fields_without_a_note_have_no_option():
    assert "--number" in run("--number", "many")[1]
    assert not run("--number", "many")[0]
    assert "No such option" in run("--inner", "3")[1]


def test_the_help_shows_text_default_and_panel():
    text = run("--help")[1]
    for part in ("A text. [abc]", "A number. [3]", "A share. [all of it]", "A flag. [yes]", "A kind. [one]", "Numbers"):
        assert part in text


def test_every_setting_of_a_server_is_an_option():
    app = typer.Typer()
    app.command()(serve)
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for name in ServeSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
