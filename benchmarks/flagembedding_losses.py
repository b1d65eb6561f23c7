"""Write what FlagEmbedding computes on fixed vectors, for tests/oracle/test_losses_flagembedding.py.

Run with the Python of an environment that holds FlagEmbedding==1.4.2:
    python benchmarks/flagembedding_losses.py tests/golden/flagembedding_losses.json
"""

# Overridden methods have the signatures and the meaning of FlagEmbedding's.
# ruff: noqa: ANN001, ANN201, ANN204, D102

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from FlagEmbedding.abc.finetune.embedder.AbsModeling import AbsEmbedderModel

ROWS, GROUP, WIDTH = 4, 3, 8


class Vectors(AbsEmbedderModel):
    """FlagEmbedding's losses over vectors that are given, scored as its BiEncoderOnlyEmbedderModel does."""

    def __init__(self, temperature, dimensions):
        torch.nn.Module.__init__(self)
        self.temperature, self.mrl_dims, self.use_mrl = temperature, dimensions, bool(dimensions)
        self.negatives_cross_device, self.kd_loss_type = False, "kl_div"
        self.cross_entropy = torch.nn.CrossEntropyLoss(reduction="mean")

    def encode(self, features):
        if not self.use_mrl:
            return torch.nn.functional.normalize(features, dim=-1)
        return [torch.nn.functional.normalize(features[..., :size], dim=-1) for size in self.mrl_dims]

    def compute_score(self, q_reps, p_reps):
        return (torch.matmul(q_reps, p_reps.transpose(0, 1)) / self.temperature).view(q_reps.size(0), -1)

    def compute_loss(self, scores, target):
        return self.cross_entropy(scores, target)

    def save(self, output_dir):
        raise NotImplementedError


def case(name, *, temperature=0.02, teacher=False, in_batch=True, dimensions=()):
    generator = torch.Generator().manual_seed(len(name))
    queries = torch.randn(ROWS, WIDTH, generator=generator).requires_grad_()
    passages = torch.randn(ROWS * GROUP, WIDTH, generator=generator).requires_grad_()
    scores = torch.randn(ROWS, GROUP, generator=generator).tolist() if teacher else None
    model = Vectors(temperature, list(dimensions)).train()
    loss = model(queries, passages, scores, not in_batch).loss
    loss.backward()
    return {
        "name": name, "temperature": temperature, "in_batch": in_batch, "dimensions": list(dimensions),
        "queries": queries.tolist(), "passages": passages.tolist(), "teacher": scores, "loss": loss.item(),
        "queries_gradient": queries.grad.tolist(), "passages_gradient": passages.grad.tolist(),
    }  # fmt: skip


def main(path):
    cases = [
        case("in-batch"),
        case("own negatives only", in_batch=False),
        case("temperature .05", temperature=0.05),
        case("distillation", teacher=True, temperature=0.05),
        case("distillation without in-batch", teacher=True, in_batch=False, temperature=0.05),
        case("matryoshka", dimensions=(8, 4)),
    ]
    content = {"FlagEmbedding": version("FlagEmbedding"), "torch": version("torch"), "cases": cases}
    Path(path).write_text(json.dumps(content) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
