"""Removes secrets from texts that are shown or stored."""

from __future__ import annotations

import re

_SECRETS = (
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}\b"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}\b"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?i)(?<=X-Amz-Signature=)[0-9a-f]+"),
    re.compile(r"(?i)(?<=X-Amz-Security-Token=)[^&\s]+"),
    re.compile(r"(?i)(?<=X-Amz-Credential=)[^&\s]+"),
    # name = value, also in Rust's debug form: api_key: Some("…")
    re.compile(
        r"""(?ix)(?<![a-z]) (?:[a-z_]*(?:api_?key|hf_api_token|hf_token|secret(?:_access)?_key|session_token|password))
        ["']? \s*[:=]\s* (?:Some\()? ["']? (?P<value> (?!None\b|\[redacted\])[^\s"',)]+ )"""
    ),
)


def redact(text: str) -> str:
    """The text with access keys, tokens, signatures and values of secret settings replaced by [redacted]."""
    for pattern in _SECRETS:
        if "value" in pattern.groupindex:
            text = pattern.sub(lambda found: found.group(0).replace(found.group("value"), "[redacted]"), text)
        else:
            text = pattern.sub("[redacted]", text)
    return text
