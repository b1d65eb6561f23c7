"""A connection to a PostgreSQL server with pgvector, and its errors as errors for people."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from embedfit.errors import EmbedfitError, MissingDependency, UsageError, first_line
from embedfit.index.sinks.sink import shown

if TYPE_CHECKING:
    import psycopg

FORM, EXTRA = "postgresql://USER@HOST/DATABASE?table=NAME", "stores"
#: The first words of the comment on every view and table of ours.
MARK = "embedfit index:"
_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,23}")
_CONNECT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Place:
    """A database and the name under which an index lies there. shown: the URL without its password."""

    address: str = field(repr=False)
    table: str
    shown: str


def place_of(url: str) -> Place:
    """A URL's database and table; ?table=NAME is ours, the rest is libpq's. Raises UsageError without any secret."""
    if any(importlib.util.find_spec(name) is None for name in ("psycopg", "pgvector")):
        raise MissingDependency("psycopg or pgvector", extra=EXTRA, needed_for="PostgreSQL")
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    address, mark, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    tables = [value for name, value in options if name == "table"]
    table = tables[-1] if tables else "embedfit"
    if not _TABLE.fullmatch(table):
        raise UsageError(
            f"table={table[:60]} can't be the name of a table.",
            remedy="Use at most 24 small letters, digits and underscores: postgresql://HOST/DATABASE?table=passages",
        )
    kept = urlencode([one for one in options if one[0] != "table"])
    address = f"{address}{mark}{kept}" if kept else address
    try:
        conninfo_to_dict(address)
    except ProgrammingError:
        raise UsageError(
            f"The address {shown(url)} can't be read.",
            remedy=f"Use {FORM}; write @ / : # in a password as %40 %2F %3A %23, or give it in PGPASSWORD.",
        ) from None  # libpq's own message repeats parts of the address, which may hold the password
    return Place(address, table, shown(url))


@contextmanager
def errors_of(place: Place) -> Iterator[None]:
    """The database's errors as ours. No message of the database's that could hold a password is shown."""
    import psycopg
    from psycopg import errors

    try:
        yield
    except psycopg.Error as error:
        text, remedy = _explained(error, errors)
        raise EmbedfitError(f"{place.shown}: {text}", remedy=remedy) from None


def _explained(error: psycopg.Error, errors: Any) -> tuple[str, str]:  # noqa: ANN401 - the module psycopg.errors
    again = "Run the same command again: what was loaded stays, and the load goes on. Readers see the old rows."
    first = first_line(error)
    if isinstance(error, errors.DiskFull):
        return f"the database's disk is full ({first}).", f"Free some space. {again}"
    if isinstance(error, errors.InsufficientPrivilege):
        return f"the user may not do that ({first}).", "Let the user create tables: GRANT CREATE ON SCHEMA public TO …"
    if isinstance(error, (errors.UndefinedFile, errors.FeatureNotSupported)) and "extension" in first:
        return "the server has no pgvector.", "Install pgvector 0.7 or later on the server, then run the command again."
    if isinstance(error, (errors.UntranslatableCharacter, errors.CharacterNotInRepertoire)):
        return f"the database's encoding has not all signs of the texts ({first}).", "Use a database in UTF8."
    if isinstance(error, errors.DependentObjectsStillExist):
        return f"a view of yours reads columns that change ({first}).", "Drop that view, and run the command again."
    if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
        return f"the connection failed or was lost ({first}).", again
    return f"the database refused: {first}", again


def opened(place: Place) -> psycopg.Connection[Any]:
    """A connection in which every statement is a transaction of its own. Raises as errors_of."""
    import psycopg

    return psycopg.connect(
        place.address, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="embedfit",
        client_encoding="utf8",
    )  # fmt: skip
