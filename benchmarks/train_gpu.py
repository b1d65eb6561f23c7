"""train_throughput.py on a GPU: larger batches, bf16, the peers with their best settings for a GPU.

    python benchmarks/train_gpu.py --quick
    python benchmarks/train_gpu.py              # writes benchmarks/results/train_gpu.json

Not run yet: no GPU was to be had when this was written.
"""

import sys

import torch
from train_throughput import Case, main

QUICK = (Case("minilm", "lyft", batch=128, steps=10),)
FULL = (
    Case("minilm", "lyft", batch=256, steps=40),
    Case("bert-base", "lyft", batch=128, steps=40),
    Case("bert-base", "lognormal", batch=128, steps=40, passage_tokens=512),
)

if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here. For the CPU: python benchmarks/train_throughput.py")
    main(__doc__, QUICK, FULL, "train_gpu")
