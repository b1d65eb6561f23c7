"""Which arithmetic is fastest on this machine, by a probe of a fraction of a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch

from embedfit.llm.local_layers import Int8Product, quantised
from embedfit.llm.local_llama import Arithmetic

#: The feed-forward shape of a small Llama, and the rows of a prefill pass.
_ROWS, _WIDTH, _OUT = 512, 576, 1536
#: Less exact arithmetic must be clearly faster to be taken.
_CLEARLY = 1.3


@lru_cache(maxsize=1)
def best_arithmetic() -> Arithmetic:
    """The arithmetic to generate in: bf16 on a GPU; on a CPU the fastest of fp32, bf16 and int8 products."""
    if torch.cuda.is_available():
        return Arithmetic("bf16" if torch.cuda.is_bf16_supported() else "fp16", torch.device("cuda"))
    best, best_rate = "fp32", product_rate("fp32")
    for products in ("bf16", "int8"):
        rate = product_rate(products)
        if rate > _CLEARLY * best_rate:
            best, best_rate = products, rate
    return Arithmetic(best, torch.device("cpu"))


def product_rate(products: str, *, repeats: int = 5) -> float:
    """Operations per second of x·Wᵀ on the CPU, quantisation included; 0 where it does not work or is inexact."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, _WIDTH, generator=generator)
    weight = torch.randn(_OUT, _WIDTH, generator=generator)
    with torch.inference_mode():
        multiply: Callable[[], torch.Tensor]
        if products == "int8":
            if not int8_is_exact():
                return 0.0
            product = Int8Product(weight)

            def multiply() -> torch.Tensor:
                rounded, scale = quantised(x)
                return product(rounded).mul_(scale)
        else:
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[products]
            typed, typed_weight = x.to(dtype), weight.to(dtype)

            def multiply() -> torch.Tensor:
                return torch.nn.functional.linear(typed, typed_weight)

        multiply()
        fastest = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            multiply()
            # The fastest of a few: other processes can only make it slower.
            fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * _ROWS * _WIDTH * _OUT / fastest


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
