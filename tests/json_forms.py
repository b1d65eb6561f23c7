"""What commands print with --json, held against the schema that the reference gives."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from tests.docs.pages import hooks


@cache
def forms() -> dict[str, list[Draft202012Validator]]:
    """A validator for each form of each command that prints JSON, such as "embedfit ledger list"."""
    made = hooks()
    return {
        name: [Draft202012Validator(made.schema_of(form)) for form in found]
        for name, command in made.commands()
        if (found := made.forms_of(command))
    }


def printed(command: str, text: str) -> Any:
    """The value that a command has printed. It is one JSON value and has a form of the command's."""
    value = json.loads(text)
    wrong = [[error.message for error in one.iter_errors(value)] for one in forms()[command]]
    assert [] in wrong, f"{command}: {wrong}"
    return value
