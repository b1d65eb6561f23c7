import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.path.artefacts import Separation
from embedfit.reporting import figures


def separation(similar, different):
    return Separation(similar=similar, different=different, mean_similar=0, mean_different=0, auc=0.5)


POINTS = st.lists(st.tuples(st.integers(0, 10_000), st.floats(-5, 5)), min_size=1, max_size=60)


def parsed(svg):
    return ET.fromstring(svg)


def test_intervals_say_every_number_in_words_and_draw_one_dot_a_row():
    rows = [
        figures.Dot(label="<Base>", value=0.489, interval=(0.46, 0.52), kind="base", shown="0.489"),
        figures.Dot(label="BM25", value=0.623, interval=None, kind="lexical", shown="0.623"),
    ]
    root = parsed(figures.intervals("p", "nDCG", rows))
    assert root.find("desc").text == "<Base> 0.489, 95% interval 0.460 to 0.520; BM25 0.623."
    dots = root.findall("circle")
    whiskers = [line for line in root.findall("line") if line.get("class").startswith("whisker")]
    assert len(dots) == 2 and len(whiskers) == 1
    assert float(whiskers[0].get("x1")) < float(dots[0].get("cx")) < float(whiskers[0].get("x2"))
    assert float(dots[0].get("cx")) < float(dots[1].get("cx"))


@given(points=POINTS)
def test_curves_stay_inside_their_picture(points):
    line = figures.Line(label="a", points=sorted(points), kind="base", marked=True)
    root = parsed(figures.curves("c", "t", "d", [line], x_label="step", mark=(points[0][0], "best")))
    _, _, width, height = map(float, root.get("viewBox").split())
    for dot in root.findall("circle"):
        assert 0 <= float(dot.get("cx")) <= width and 0 <= float(dot.get("cy")) <= height


def test_cosines_describe_medians_and_draw_every_pair():
    pairs = separation((0.5, 0.6, 0.9), (-0.1, 0.2))
    root = parsed(figures.cosines("c", "t", [("Base", pairs)]))
    said = root.find("desc").text
    assert "Base, similar pairs: median 0.60, from 0.50 to 0.90" in said
    strips = [p for p in root.findall("path") if p.get("class") == "strip similar"]
    assert strips[0].get("d").count("M") == 3


def test_cosines_with_one_empty_kind():
    root = parsed(figures.cosines("c", "t", [("Base", separation((0.5,), ()))]))
    assert "different" not in root.find("desc").text
    assert [p.get("class") for p in root.findall("path")] == ["strip similar", "median similar"]


@pytest.mark.parametrize(
    ("delta", "interval", "tone"),
    [(0.05, (0.01, 0.09), "up"), (-0.05, (-0.09, -0.01), "down"), (0.05, (-0.01, 0.1), "flat"), (0.3, None, "flat")],
)
def test_a_difference_is_coloured_only_where_its_interval_excludes_zero(delta, interval, tone):
    root = parsed(figures.delta_bar(delta, interval, 0.3))
    assert root.get("aria-hidden") == "true"
    assert root.find("circle").get("class") == f"dot {tone}"


def test_share_bar_of_nothing_is_empty():
    assert parsed(figures.share_bar([(0, "kept"), (0, "dropped")], 0)).findall("rect") == []


def test_share_bar_widths_add_up():
    rects = parsed(figures.share_bar([(30, "kept"), (10, "dropped")], 40, width=400)).findall("rect")
    assert [float(rect.get("width")) for rect in rects] == [300, 100]
    assert float(rects[1].get("x")) == 300


def test_smoothing_keeps_a_straight_line():
    line = [(float(x), 2.0 * x + 1) for x in range(50)]
    assert [y for _, y in figures.smoothed(line)] == pytest.approx([y for _, y in line])


@given(count=st.integers(0, 3000))
def test_thinning_keeps_mean_order_and_limit(count):
    points = [(float(x), float(x % 7)) for x in range(count)]
    thin = figures.thinned(points, 400)
    assert len(thin) <= 400
    assert thin == sorted(thin)
    if count <= 400:
        assert thin == points
