import pytest

from embedfit.errors import UsageError
from embedfit.path.systems import parse


@pytest.mark.parametrize(
    ("name", "kind", "hybrid"),
    [
        ("bm25", "bm25", False),
        ("minilm", "local", False),
        ("hybrid:./runs/em/merged", "local", True),
        ("titan-v2:256", "titan-v2", False),
        ("hybrid:tei:http://h:1|find: ", "tei", True),
    ],
)
def test_names_are_taken_apart(name, kind, hybrid):
    system = parse(name)
    assert (system.kind, system.hybrid) == (kind, hybrid)


@pytest.mark.parametrize("name", ["hybrid:bm25", "hybrid:hybrid:minilm", "hybrid:", "", "hybrid:tei:h"])
def test_a_wrong_name_is_refused_with_its_form(name):
    with pytest.raises(UsageError) as caught:
        parse(name)
    assert caught.value.remedy
