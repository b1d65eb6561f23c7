"""How the fields of a record appear on the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CommandOption:
    """A note at a field's type that a command has an option for it: Annotated[int, CommandOption("Port.")] = 3000.

    help: a sentence. flags: instead of --its-name. panel: the heading under which the help lists it. shown: what the
    help shows as default; None: the field's own. variables: environment variables that may hold it; None: the
    upper-case name.
    """

    help: str
    flags: tuple[str, ...] = ()
    panel: str | None = None
    shown: str | None = None
    variables: tuple[str, ...] | None = None
    hidden: bool = False


def option_of(metadata: list[object]) -> CommandOption | None:
    """The note among what stands at a field's type; None for a field without an option."""
    return next((one for one in metadata if isinstance(one, CommandOption)), None)
