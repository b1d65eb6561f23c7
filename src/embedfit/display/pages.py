"""Self-contained pages: script and style are inside them, and they load nothing from another address."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources


@lru_cache
def whole_page(package: str, name: str) -> tuple[bytes, str]:
    """A page of a package's templates/, with NAME.css and NAME.js in it, and its content security policy.

    The policy allows the page its own script and style and requests to its own server, and nothing else.
    """
    templates = resources.files(package).joinpath("templates")
    html, style, script = (templates.joinpath(f"{name}.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    page = html.replace(f"/* {name}.css */", style).replace(f"/* {name}.js */", script)
    policy = (
        f"default-src 'none'; style-src {policy_hash(style)}; script-src {policy_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def policy_hash(text: str) -> str:
    """The name of a script or style in a content security policy: its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
