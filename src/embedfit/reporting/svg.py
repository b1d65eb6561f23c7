"""SVG elements, axes and ticks. Text is always escaped, and colours come from the page's classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An element. Attribute names: text_anchor → text-anchor, class_ → class; values and plain strings are escaped."""
    written = [
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _text(value))
        for name, value in attributes.items()
        if value is not None
    ]
    body = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), Markup("").join(written), body)


def _text(value: object) -> str:
    # A hundredth of a unit is finer than any screen; longer numbers only make the page larger.
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def picture(name: str, title: str, description: str, width: float, height: float, *children: str) -> Markup:
    """A figure whose title and description a screen reader speaks. name: unique on the page."""
    return Markup(
        '<svg role="img" aria-labelledby="{0}-title {0}-desc" viewBox="0 0 {3} {4}" class="figure">{1}{2}{5}</svg>'
    ).format(
        name,
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        _text(float(width)),
        _text(float(height)),
        Markup("").join(children),
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear map from values low…high to positions start…end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers within low…high, at least two: multiples of 1, 2 or 5 times a power of ten, about count of them."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    for step in (10 * power, 5 * power, 2 * power, power, power / 2):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 >= max(count - 1, 2):
            break
    return [round(number * step, 12) for number in range(first, last + 1)]


def padded(values: list[float], share: float = 0.06, least: float = 1e-3) -> tuple[float, float]:
    """The range of some values with a margin on both sides, never empty."""
    low, high = min(values), max(values)
    margin = max((high - low) * share, least)
    return low - margin, high + margin


def tick_label(value: float, step: float) -> str:
    """A tick's number with as many decimals as its step needs."""
    if abs(value) >= 1000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    decimals = next(digits for digits in range(13) if abs(step - round(step, digits)) < 1e-12)
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def tick_labels(values: list[float]) -> list[tuple[float, str]]:
    """Ticks with their labels, all with the same number of decimals."""
    step = values[1] - values[0] if len(values) > 1 else values[0]
    return [(value, tick_label(value, round(step, 12))) for value in values]
