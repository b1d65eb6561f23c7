"""The templates of this package, and their filters, which show numbers in words."""

from __future__ import annotations

import shlex
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from embedfit.path.systems import label_of
from embedfit.progress import duration
from embedfit.reporting import figures, wording


def environment(*, escapes: bool = True) -> Environment:
    """The environment of the templates. escapes: whether every text that a template shows is escaped for HTML."""
    made = Environment(
        loader=PackageLoader("embedfit.reporting"),
        autoescape=escapes,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not escapes,
    )
    made.filters.update(
        score=wording.score,
        points=wording.points,
        between=wording.points_between,
        p_value=wording.p_value,
        count=wording.count,
        plural=wording.plural,
        metric=wording.metric_name,
        system=label_of,
        duration=lambda seconds: duration(seconds) if seconds >= 1 else "under 1 s",
        money=wording.money,
        size=wording.size,
        ms=wording.milliseconds,
        tone=figures.tone,
        python=repr,
        word=shlex.quote,
    )
    made.globals.update(share_bar=figures.share_bar)
    return made


def asset(name: str) -> Markup:
    """The unchanged content of a file beside the templates."""
    return Markup(resources.files("embedfit.reporting").joinpath("templates", name).read_text("utf-8"))
