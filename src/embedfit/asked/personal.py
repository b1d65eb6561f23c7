"""Finds what looks like personal data in questions. It is counted, so that the file's owner knows of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

EMAILS, PHONES, NUMBERS = "e-mail addresses", "phone numbers", "long numbers"
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_BETWEEN = r"[ ()./-]{0,3}"
#: +49 30 1234567, 030 / 1234567, (555) 123-4567, 555.123.4567.
_PHONE = re.compile(
    rf"\+\d(?:{_BETWEEN}\d){{6,14}}(?!\d)|(?<![\d.])(?<!\d )\(?0\d(?:{_BETWEEN}\d){{7,13}}(?!\d)"
    r"|(?<![\d.])\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4}(?!\d)"
)
#: Cards, accounts, customers' and social security numbers: nine digits and more, alone or in groups; an IBAN.
_NUMBER = re.compile(r"(?<![\d.+])\d(?:[ -]?\d){8,}(?![\d.])|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,}")
_DIGITS = re.compile(r"\d\D{0,3}\d\D{0,3}\d\D{0,3}\d\D{0,3}\d")


def kinds_in(text: str) -> tuple[str, ...]:
    """The kinds of personal data that a text seems to hold."""
    found = []
    if "@" in text and _EMAIL.search(text):
        found.append(EMAILS)
    if _DIGITS.search(text):
        phone = _PHONE.search(text)
        if phone:
            found.append(PHONES)
            text = _PHONE.sub(" ", text)
        if _NUMBER.search(text):
            found.append(NUMBERS)
    return tuple(found)


def said(counts: Mapping[str, int]) -> str:
    """A log line with the counts by kind and what happens to the questions; empty if all counts are 0."""
    parts = [f"{counts[kind]:,} with {kind}" for kind in (EMAILS, PHONES, NUMBERS) if counts.get(kind)]
    if not parts:
        return ""
    return (
        f"queries: personal data, it seems: {', '.join(parts)}. Such questions stay on this machine; only a judge "
        "that you name (--judge) is shown some. `embedfit forget` takes one out."
    )
