"""Grouping the records of a BEIR corpus by document. The format does not name documents; titles and ids often do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_LAST_PART = re.compile(r"^(?P<prefix>.+?)[-_/#:.|\s]+[^-_/#:.|\s]*\d[^-_/#:.|\s]*$")
#: Structure counts as found if groups hold this many records on average.
_MIN_MEAN_SIZE = 1.6


def group_records(identifiers: Sequence[str], titles: Sequence[str]) -> list[str]:
    """A document id for each record.

    In this order: equal titles, where titles repeat ("Super Bowl 50"); ids without their last part, a
    number ("58-0" of "58-0-3", "tv_section" of "tv_section_12"); else each record is a document.
    """
    by_title = [title.strip() for title in titles]
    if all(by_title) and _groups(by_title):
        return _with_ids(by_title, identifiers)
    prefixes: list[str] = []
    for identifier in identifiers:
        if (match := _LAST_PART.match(identifier)) is None:
            return list(identifiers)
        prefixes.append(match["prefix"])
    return prefixes if _groups(prefixes) else list(identifiers)


def _groups(keys: Sequence[str]) -> bool:
    counts = Counter(keys)
    return len(counts) > 1 and len(keys) / len(counts) >= _MIN_MEAN_SIZE


def _with_ids(titles: Sequence[str], identifiers: Sequence[str]) -> list[str]:
    """The common beginning of a title's ids if that is one word for each title, else the title."""
    prefixes: dict[str, set[str]] = {}
    for title, identifier in zip(titles, identifiers, strict=True):
        match = _LAST_PART.match(identifier)
        prefixes.setdefault(title, set()).add(match["prefix"] if match else identifier)
    names = {title: next(iter(found)) for title, found in prefixes.items() if len(found) == 1}
    if len(names) == len(prefixes) and len(set(names.values())) == len(names):
        return [names[title] for title in titles]
    return list(titles)
