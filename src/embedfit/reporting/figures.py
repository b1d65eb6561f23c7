"""The report's figures: intervals, curves, cosines and small bars, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from embedfit.path.artefacts import Interval, Separation
from embedfit.reporting.svg import Axis, element, padded, picture, tick_labels, ticks

#: Figures are drawn for a column of about this many CSS pixels, so that their text keeps its size on a phone.
WIDTH = 380.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A value with its interval. kind: the class that colours it. shown: the value in words."""

    label: str
    value: float
    interval: Interval | None
    kind: str
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A series of (x, y). marked: whether single points are drawn. faint: raw values behind a smoothed line."""

    label: str
    points: Sequence[tuple[float, float]]
    kind: str
    marked: bool = False
    faint: bool = False


def intervals(name: str, title: str, rows: Sequence[Dot]) -> Markup:
    """A figure of dots with 95% intervals, one row for each system, on a shared axis."""
    step, top, left, right = 27.0, 6.0, 134.0, 50.0
    bottom = top + step * len(rows)
    ends = [end for row in rows for end in (row.interval or (row.value, row.value))] + [row.value for row in rows]
    x = Axis(*padded(ends), left, WIDTH - right)
    parts = _vertical_grid(x, top, bottom)
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5)
        parts.append(element("text", row.label, x=left - 12, y=y + 4, text_anchor="end", class_=f"label {row.kind}"))
        if row.interval:
            low, high = (x(end) for end in row.interval)
            parts.append(element("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker {row.kind}"))
        parts.append(element("circle", cx=x(row.value), cy=y, r=4.5, class_=f"dot {row.kind}"))
        parts.append(element("text", row.shown, x=WIDTH - 2, y=y + 4, text_anchor="end", class_=f"number {row.kind}"))
    said = "; ".join(
        f"{row.label} {row.shown}"
        + (f", 95% interval {row.interval[0]:.3f} to {row.interval[1]:.3f}" if row.interval else "")
        for row in rows
    )
    return picture(name, title, said + ".", WIDTH, bottom + 24, *parts)


def curves(
    name: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    mark: tuple[float, str] | None = None,
    height: float = 220.0,
) -> Markup:
    """A figure of lines over a shared x axis. mark: an x to point out, such as the chosen weight, and its label."""
    every = [point for line in lines for point in line.points]
    left, right, top, bottom = 44.0, WIDTH - 12, 26.0, height - 38
    x_low, x_high = min(p[0] for p in every), max(p[0] for p in every)
    x = Axis(x_low, x_high if x_high > x_low else x_low + 1, left, right)
    y = Axis(*padded([p[1] for p in every]), bottom, top)
    parts = _horizontal_grid(y, left, right)
    for value, label in tick_labels(ticks(x.low, x.high, 5)):
        parts.append(element("text", label, x=x(value), y=bottom + 16, text_anchor="middle", class_="tick"))
    parts.append(element("text", x_label, x=(left + right) / 2, y=height - 4, text_anchor="middle", class_="axis"))
    if mark is not None:
        at = x(mark[0])
        parts.append(element("line", x1=at, x2=at, y1=top - 6, y2=bottom, class_="mark"))
        anchor, offset = ("end", -5) if at > (left + right) / 2 else ("start", 5)
        parts.append(element("text", mark[1], x=at + offset, y=top - 8, text_anchor=anchor, class_="marklabel"))
    for line in lines:
        path = "M" + "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in line.points)
        parts.append(element("path", d=path, class_=f"line {line.kind}{' faint' if line.faint else ''}"))
        if line.marked:
            parts.extend(
                element("circle", cx=x(px), cy=y(py), r=3.2, class_=f"dot {line.kind}") for px, py in line.points
            )
    return picture(name, title, description, WIDTH, height, *parts)


def cosines(name: str, title: str, rows: Sequence[tuple[str, Separation]]) -> Markup:
    """A figure of cosines: each system has a strip of similar and one of different pairs, a tick each, with medians."""
    strip, gap, top, left = 17.0, 32.0, 20.0, 76.0
    block = 2 * strip + 4 + gap
    bottom = top + block * len(rows) - gap + 8
    every = [value for _, pairs in rows for value in (*pairs.similar, *pairs.different)]
    x = Axis(min(0.0, *padded(every)), max(1.0, max(every)), left, WIDTH - 8)
    parts = _vertical_grid(x, top - 4, bottom)
    said = []
    for number, (label, pairs) in enumerate(rows):
        y = top + block * number
        parts.append(element("text", label, x=0, y=y - 6, class_="label strong"))
        for offset, kind, values in ((0.0, "similar", pairs.similar), (strip + 4, "different", pairs.different)):
            parts.append(
                element("text", kind, x=left - 12, y=y + offset + 12.5, text_anchor="end", class_=f"label {kind}")
            )
            if not values:
                continue
            path = "".join(f"M{x(value):.1f} {y + offset + 2:.1f}v{strip - 4:.0f}" for value in sorted(values))
            middle = x(median(values))
            parts.append(element("path", d=path, class_=f"strip {kind}"))
            parts.append(
                element("path", d=f"M{middle:.1f} {y + offset - 1:.1f}v{strip + 2:.0f}", class_=f"median {kind}")
            )
            said.append(
                f"{label}, {kind} pairs: median {median(values):.2f}, from {min(values):.2f} to {max(values):.2f}"
            )
    return picture(name, title, "; ".join(said) + ".", WIDTH, bottom + 24, *parts)


def tone(interval: Interval | None) -> str:
    """The class that colours a difference: "up" or "down" if its interval leaves out zero, else "flat"."""
    low, high = interval or (-1.0, 1.0)
    return "up" if low > 0 else "down" if high < 0 else "flat"


def delta_bar(delta: float, interval: Interval | None, reach: float) -> Markup:
    """A difference and its interval about a zero line, for a table cell. reach: the largest |value| of the column."""
    width, height = 132.0, 18.0
    x = Axis(-reach, reach, 4, width - 4)
    kind = tone(interval)
    parts = [element("line", x1=x(0), x2=x(0), y1=1, y2=height - 1, class_="zero")]
    if interval:
        low, high = (max(-reach, min(reach, end)) for end in interval)
        parts.append(element("line", x1=x(low), x2=x(high), y1=height / 2, y2=height / 2, class_=f"whisker {kind}"))
    parts.append(element("circle", cx=x(delta), cy=height / 2, r=4, class_=f"dot {kind}"))
    return Markup('<svg aria-hidden="true" viewBox="0 0 {} {}" class="inline-bar">{}</svg>').format(
        int(width), int(height), Markup("").join(parts)
    )


def share_bar(parts: Sequence[tuple[float, str]], whole: float, width: float = 320.0) -> Markup:
    """A bar of stacked amounts (amount, class) out of a whole. The text beside it gives the numbers."""
    drawn, start = [], 0.0
    for amount, kind in parts:
        length = width * amount / whole if whole else 0.0
        if length > 0:
            drawn.append(element("rect", x=start, y=0, width=max(length, 1.0), height=8, class_=f"bar {kind}"))
        start += length
    return Markup(
        '<svg aria-hidden="true" viewBox="0 0 {} 8" preserveAspectRatio="none" class="share-bar">{}</svg>'
    ).format(int(width), Markup("").join(drawn))


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.08) -> list[tuple[float, float]]:
    """The mean of y over a centred window with this share of all points. Unlike a running mean, it does not lag."""
    reach = max(2, round(len(points) * share / 2))
    result = []
    for number, (x, _) in enumerate(points):
        near = min(reach, number, len(points) - 1 - number)
        window = points[number - near : number + near + 1]
        result.append((x, sum(y for _, y in window) / len(window)))
    return result


def thinned(points: Sequence[tuple[float, float]], limit: int = 400) -> list[tuple[float, float]]:
    """At most about `limit` points, each the mean of its neighbours, so that a long run's page stays small."""
    size = -(-len(points) // limit) if points else 1
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(sum(p[0] for p in group) / len(group), sum(p[1] for p in group) / len(group)) for group in groups]


def _vertical_grid(x: Axis, top: float, bottom: float) -> list[Markup]:
    labelled = tick_labels(ticks(x.low, x.high))
    return [element("line", x1=x(v), x2=x(v), y1=top, y2=bottom, class_="grid") for v, _ in labelled] + [
        element("text", label, x=x(v), y=bottom + 16, text_anchor="middle", class_="tick") for v, label in labelled
    ]


def _horizontal_grid(y: Axis, left: float, right: float) -> list[Markup]:
    labelled = tick_labels(ticks(y.low, y.high))
    return [element("line", x1=left, x2=right, y1=y(v), y2=y(v), class_="grid") for v, _ in labelled] + [
        element("text", label, x=left - 8, y=y(v) + 4, text_anchor="end", class_="tick") for v, label in labelled
    ]
