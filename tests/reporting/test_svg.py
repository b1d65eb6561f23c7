import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.reporting.svg import Axis, element, padded, picture, tick_labels, ticks


def test_text_and_attributes_are_escaped():
    made = element("text", "<b>&", x=1.0, class_='"><script>')
    assert made == '<text x="1" class="&#34;&gt;&lt;script&gt;">&lt;b&gt;&amp;</text>'


def test_children_that_are_elements_stay_elements():
    assert element("g", element("path", d="M0 0"), "a<b") == '<g><path d="M0 0"></path>a&lt;b</g>'


def test_a_picture_is_spoken_as_title_and_description():
    root = ET.fromstring(picture("loss", "Loss", "from 2 < 3", 10, 20, element("path", d="M0 0")))
    assert root.get("role") == "img"
    spoken = root.get("aria-labelledby").split()
    texts = {child.get("id"): child.text for child in root if child.get("id")}
    assert [texts[name] for name in spoken] == ["Loss", "from 2 < 3"]


def test_axis_maps_ends_to_ends():
    x = Axis(2, 4, 10, 110)
    assert (x(2), x(3), x(4)) == (10, 60, 110)


@given(low=st.floats(-1e3, 1e3), size=st.floats(1e-3, 1e3))
def test_ticks_are_two_or_more_round_numbers_within_the_range(low, size):
    values = ticks(low, low + size)
    assert 2 <= len(values) <= 11
    assert all(low - 1e-6 * size <= value <= low + size * (1 + 1e-6) for value in values)
    labels = [label for _, label in tick_labels(values)]
    assert len(set(labels)) == len(labels)
    for value, label in tick_labels(values):
        if not label.endswith("k"):
            assert float(label.replace("\N{MINUS SIGN}", "-")) == pytest.approx(value, abs=1e-9)


def test_a_constant_series_still_has_a_range():
    low, high = padded([0.5, 0.5])
    assert low < 0.5 < high
