"""Notes at the fields of a record that make options of the command line of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator
from typing_extensions import Self

from embedfit.errors import UsageError


@dataclass(frozen=True, slots=True)
class CommandOption:
    """A note at a field's type that a command has an option for it: Annotated[int, CommandOption("Port.")] = 3000.

    help: a sentence. flags: instead of --its-name. panel: the heading under which the help lists it. shown: the default
    that the help shows; None: the field's own. variables: environment variables that may hold it; None: the upper-case
    name.
    """

    help: str
    flags: tuple[str, ...] = ()
    panel: str | None = None
    shown: str | None = None
    variables: tuple[str, ...] | None = None
    hidden: bool = False


def option_of(metadata: list[object]) -> CommandOption | None:
    """The CommandOption among the annotations of a field's type; None for a field without an option."""
    return next((one for one in metadata if isinstance(one, CommandOption)), None)


class CommandRecord(BaseModel):
    """A record that a command's options fill. Raises UsageError for an invalid value.

    The validation's context may name the environment variables that values came from, by field: {"port": "PORT"}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _for_people(cls, values: object, check: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        try:
            return check(values)
        except ValidationError as error:
            raise _usage_error(error, info.context) from error


def _usage_error(error: ValidationError, sources: Mapping[str, str] | None) -> UsageError:
    """A validation error as an error for people. sources: the environment variables that values came from, by field."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])
    source = f" (from ${sources[name]})" if sources and name in sources else ""
    return UsageError(f"--{name.replace('_', '-')}{source} can't be {first['input']!r}: {first['msg']}.")
