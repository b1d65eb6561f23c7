"""Options of a command, made from the fields of a record, which hold each option's name, type, default and text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape

from embedfit.display.options import CommandOption, option_of


def with_options(record: type[BaseModel]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a record that has a CommandOption.

    The command gets the options that the user gave as `given`, by the names of fields, and no others.
    """

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(run, eval_str=True)
        own = [one for one in signature.parameters.values() if one.name != "given"]
        made = [
            _parameter(name, field, option)
            for name, field in record.model_fields.items()
            if (option := option_of(field.metadata)) is not None
        ]

        @wraps(run)
        def command(**values: object) -> None:
            given = {one.name: value for one in made if (value := values.pop(one.name)) not in (None, [])}
            run(**values, given=given)

        command.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(name: str, field: FieldInfo, option: CommandOption) -> inspect.Parameter:
    shown = _shown(field.default) if option.shown is None else option.shown
    made = typer.Option(
        *option.flags,
        help=f"{option.help} {escape(f'[{shown}]') if shown else ''}".rstrip(),
        rich_help_panel=option.panel,
        show_default=False,
        hidden=option.hidden,
    )
    kind = Annotated[Union[_kind(field.annotation), None], made]  # type: ignore[valid-type]  # noqa: UP007 - a value
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _kind(annotation: object) -> object:
    """The type that the command line reads for a field of this type. The record checks the value."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return _kind(next(one for one in get_args(annotation) if one is not NoneType))
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (tuple, list, dict):
        return list[str]
    return str if origin is Literal else annotation


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else ""
    return f"{default:g}" if isinstance(default, float) else str(default or "")
