"""The operators of torch that are used and that torch keeps to itself: a new torch may change or drop each of them.

To take a new torch: raise the ceiling in pyproject.toml, and run the tests of this folder. An operator that is gone is
named here.
"""

import re
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[4]
#: Each operator, and the names of the arguments that we pass.
OPERATORS = {
    "aten._scaled_dot_product_flash_attention_for_cpu": (
        "query", "key", "value", "dropout_p", "is_causal", "attn_mask"
    ),
    "mkldnn._reorder_linear_weight": ("self", "batch_size"),
    "mkldnn._linear_pointwise": ("X", "W", "B", "attr", "scalars", "algorithm"),
    "onednn.qlinear_prepack": ("weight", "x_shape"),
    "onednn.qlinear_pointwise": ("qx", "x_scale", "x_zero_point", "qw", "w_scale", "w_zero_point"),
}  # fmt: skip


def test_these_are_all():
    used = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"torch\.ops\.(\w+\.\w+)", path.read_text("utf-8"))
    }
    assert used == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_there_and_takes_what_we_pass(name):
    space, operator = name.split(".")
    found = getattr(getattr(torch.ops, space), operator)
    schemas = [getattr(found, overload)._schema for overload in found.overloads()]
    taken = [tuple(argument.name for argument in schema.arguments) for schema in schemas]
    wanted = OPERATORS[name]
    assert any(set(wanted) <= set(names) for names in taken), f"{name} of torch {torch.__version__} takes {taken}"


def test_torch_has_a_ceiling_that_this_torch_keeps():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    torch_range = next(found.specifier for found in map(Requirement, project["dependencies"]) if found.name == "torch")
    assert torch.__version__.split("+")[0] in torch_range
    assert "<" in str(torch_range)
