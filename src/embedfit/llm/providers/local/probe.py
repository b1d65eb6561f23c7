"""The choice of the fastest arithmetic on this machine, by a probe of a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch

from embedfit.llm.providers.local.layers import Int8Product, quantised
from embedfit.llm.providers.local.llama import Arithmetic
from embedfit.numerics import machine

#: The feed-forward shape of a small Llama, and the rows of a prefill pass.
_ROWS, _WIDTH, _OUT = 256, 576, 1536
#: Less exact arithmetic is taken only if it is faster by this factor.
_CLEARLY = 1.3


@lru_cache(maxsize=1)
def best_arithmetic() -> Arithmetic:
    """The arithmetic to generate in: bf16 on a GPU; on a CPU the fastest of fp32, bf16 and int8 products."""
    if torch.cuda.is_available():
        return Arithmetic("bf16" if torch.cuda.is_bf16_supported() else "fp16", torch.device("cuda"))
    rates = product_rates()
    best = "fp32"
    for products in ("bf16", "int8"):
        if rates[products] > _CLEARLY * rates[best]:
            best = products
    return Arithmetic(best, torch.device("cpu"))


def product_rates(*, rounds: int = 15) -> dict[str, float]:
    """Operations per second of x·Wᵀ on the CPU by arithmetic, quantisation included; 0 if it is inexact."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, _WIDTH, generator=generator)
    weight = torch.randn(_OUT, _WIDTH, generator=generator)
    products: dict[str, Callable[[], torch.Tensor]] = {
        "fp32": partial(torch.nn.functional.linear, x, weight),
        "bf16": partial(torch.nn.functional.linear, x.bfloat16(), weight.bfloat16()),
    }
    if int8_is_exact():
        products["int8"] = partial(_int8_product, x, Int8Product(weight))
    with torch.inference_mode():
        return {"int8": 0.0} | machine.rates(products, 2.0 * _ROWS * _WIDTH * _OUT, rounds=rounds)


def _int8_product(x: torch.Tensor, product: Int8Product) -> torch.Tensor:
    rounded, scale = quantised(x)
    return product(rounded).mul_(scale)


@lru_cache(maxsize=1)
def int8_is_exact() -> bool:
    """Whether this torch multiplies uint8 by int8 and sums exactly; old CPUs saturate at 16 bits on the way."""
    try:
        product = Int8Product(torch.full((16, 64), 1.0))
        x = torch.full((4, 64), 255, dtype=torch.uint8)
        result = product(x) / product.scales
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return bool(torch.allclose(result, torch.tensor(127.0 * 127.0 * 64.0), rtol=1e-6))
