"""Our losses against FlagEmbedding 1.4.2's, values and gradients.

FlagEmbedding can't be installed beside transformers 5, so tests/golden/flagembedding_losses.json holds
what its AbsEmbedderModel computed; benchmarks/flagembedding_losses.py wrote it in FlagEmbedding's environment.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from embedfit.training.losses.loss import Targets, loss_named
from embedfit.training.losses.objective import Objective

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "flagembedding_losses.json"
CASES = json.loads(GOLDEN.read_text("utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_value_and_gradient(case):
    queries = torch.tensor(case["queries"]).requires_grad_()
    passages = torch.tensor(case["passages"]).requires_grad_()
    rows = len(queries)
    group = torch.arange(len(passages)).reshape(rows, -1)
    teacher = torch.tensor(case["teacher"]) if case["teacher"] else torch.zeros(group.shape)
    own = torch.zeros(rows, len(passages), dtype=torch.bool).scatter(1, group, True)
    targets = Targets(
        group=group,
        allowed=torch.ones_like(own) if case["in_batch"] else own,
        teacher=teacher,
        has_teacher=torch.full((rows,), bool(case["teacher"])),
    )
    objective = Objective(
        loss=loss_named("distil" if case["teacher"] else "infonce"),
        temperature=case["temperature"],
        teacher_temperature=1.0,
        infonce_weight=1.0,
        dimensions=tuple(case["dimensions"]),
    )
    loss = objective(normalize(queries, dim=1), normalize(passages, dim=1), targets)
    loss.backward()
    # FlagEmbedding's distillation leaves out the teacher's entropy, a constant.
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean() if case["teacher"] else torch.tensor(0.0)
    torch.testing.assert_close(loss.detach() + entropy, torch.tensor(case["loss"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(queries.grad, torch.tensor(case["queries_gradient"]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(passages.grad, torch.tensor(case["passages_gradient"]), rtol=1e-4, atol=1e-6)
