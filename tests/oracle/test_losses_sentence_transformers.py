"""Our losses against those of sentence-transformers, values and gradients."""

from dataclasses import replace

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as theirs
from torch.nn.functional import normalize

from embedfit.training.losses.distil import kl_divergence
from embedfit.training.losses.infonce import info_nce
from embedfit.training.losses.loss import Targets, loss_named
from embedfit.training.losses.margin_mse import margin_mse
from embedfit.training.losses.objective import Objective, matryoshka
from embedfit.training.masking import guide_allows

ROWS, WIDTH = 6, 16


class Vectors(torch.nn.Module):
    """A "model" that returns the vectors that it is fed as token features."""

    def forward(self, features):
        return {"sentence_embedding": features["vectors"]}

    def get_embedding_dimension(self):
        return WIDTH


def leaves(columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(ROWS, WIDTH, generator=generator).requires_grad_() for _ in range(columns)]


def targets(group_size, teacher=None):
    """Passages in sentence-transformers' order: all positives, then all first negatives, and so on."""
    group = torch.arange(ROWS)[:, None] + ROWS * torch.arange(group_size)[None]
    allowed = torch.ones(ROWS, ROWS * group_size, dtype=torch.bool)
    scores = torch.zeros(ROWS, group_size) if teacher is None else teacher
    return Targets(group=group, allowed=allowed, teacher=scores, has_teacher=torch.full((ROWS,), teacher is not None))


def assert_agree(ours, loss, vectors, reference):
    ours.backward()
    own = [vector.grad.clone() for vector in vectors]
    for vector in vectors:
        vector.grad = None
    reference.backward()
    torch.testing.assert_close(ours.detach(), reference.detach(), rtol=1e-5, atol=1e-6)
    for gradient, vector in zip(own, vectors, strict=True):
        torch.testing.assert_close(gradient, vector.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("columns", [2, 3, 5])
def test_info_nce_is_multiple_negatives_ranking(columns):
    vectors = leaves(columns)
    unit = [normalize(vector, dim=1) for vector in vectors]
    ours = Objective(temperature=0.05)(unit[0], torch.cat(unit[1:]), targets(columns - 1))
    loss = theirs.MultipleNegativesRankingLoss(Vectors(), scale=20.0)
    assert_agree(ours, loss, vectors, loss.compute_loss_from_embeddings(list(vectors), None))


def test_both_directions_are_the_symmetric_loss():
    vectors = leaves(2)
    unit = [normalize(vector, dim=1) for vector in vectors]
    ours = Objective(temperature=0.05, both_directions=True)(unit[0], unit[1], targets(1))
    loss = theirs.MultipleNegativesRankingLoss(
        Vectors(), scale=20.0, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    reference = loss([{"vectors": vector} for vector in vectors], None)
    assert_agree(ours, loss, vectors, reference)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
def test_guide_masks_are_those_of_gist(margin):
    vectors, guides = leaves(2), [normalize(vector.detach(), dim=1) for vector in leaves(2, seed=7)]
    # A guide that often likes another passage nearly as much as the positive.
    guides[1] = normalize(guides[0] + 0.8 * guides[1] + 1.5 * guides[0].mean(0), dim=1)
    unit = [normalize(vector, dim=1) for vector in vectors]
    allowed = torch.from_numpy(guide_allows(guides[0].numpy(), guides[1].numpy(), torch.arange(ROWS).numpy(), margin))
    assert margin == 0.0 or not bool(allowed.all())
    ours = info_nce(unit[0] @ unit[1].T / 0.05, torch.arange(ROWS), allowed | torch.eye(ROWS, dtype=torch.bool)).mean()

    class Guide(Vectors):
        tokenizer = None

    loss = theirs.GISTEmbedLoss.__new__(theirs.GISTEmbedLoss)
    torch.nn.Module.__init__(loss)
    loss.model, loss.guide, loss.temperature = Vectors(), Guide(), 0.05
    loss.margin_strategy, loss.margin = "relative", margin
    loss.contrast_anchors = loss.contrast_positives = loss.gather_across_devices = False
    loss.similarity_fct = torch.nn.CosineSimilarity(dim=-1)
    loss.must_retokenize = False
    loss.cross_entropy_loss = torch.nn.CrossEntropyLoss()
    loss.guide.forward = lambda features: {"sentence_embedding": features["guide"]}
    reference = loss([{"vectors": v, "guide": g} for v, g in zip(vectors, guides, strict=True)], None)
    assert_agree(ours, loss, vectors, reference)


@pytest.mark.parametrize("negatives", [1, 3])
def test_margin_mse(negatives):
    vectors = leaves(2 + negatives)
    generator = torch.Generator().manual_seed(3)
    teacher = torch.randn(ROWS, 1 + negatives, generator=generator)
    student = torch.stack([(vectors[0] * vector).sum(1) for vector in vectors[1:]], 1)
    ours = margin_mse(student, teacher, torch.ones_like(teacher, dtype=torch.bool)).mean()
    loss = theirs.MarginMSELoss(Vectors())
    margins = teacher[:, :1] - teacher[:, 1:]
    reference = loss([{"vectors": vector} for vector in vectors], margins.squeeze(1) if negatives == 1 else margins)
    assert_agree(ours, loss, vectors, reference)


def test_kl_divergence():
    vectors = leaves(4)
    teacher = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(3))
    student = torch.stack([(vectors[0] * vector).sum(1) for vector in vectors[1:]], 1)
    temperature = 2.0
    present = torch.ones_like(teacher, dtype=torch.bool)
    # Theirs is multiplied by the squared temperature, as in Hinton et al. 2015.
    ours = kl_divergence(student / temperature, teacher / temperature, present).mean() * temperature**2
    loss = theirs.DistillKLDivLoss(Vectors(), temperature=temperature)
    assert_agree(ours, loss, vectors, loss([{"vectors": vector} for vector in vectors], teacher))


def test_in_batch_distillation_is_kl_over_every_passage_of_the_batch():
    vectors = leaves(3)
    unit = [normalize(vector, dim=1) for vector in vectors]
    labels = 2 * torch.randn(ROWS, 2 * ROWS, generator=torch.Generator().manual_seed(3))
    objective = Objective(
        loss=loss_named("in-batch-distil"), temperature=0.05, teacher_temperature=0.5, infonce_weight=0.25
    )
    ours = objective(unit[0], torch.cat(unit[1:]), replace(targets(2), soft_labels=labels))
    # The same by theirs: every passage is a column of every row, at one temperature, which theirs squares.
    unit = [normalize(vector, dim=1) for vector in vectors]
    columns = [passage.expand(ROWS, WIDTH) for passage in torch.cat(unit[1:])]
    taught = theirs.DistillKLDivLoss(Vectors(), temperature=0.05)
    taught = taught([{"vectors": vector} for vector in (unit[0], *columns)], labels * 0.05 / 0.5) / 0.05**2
    contrast = theirs.MultipleNegativesRankingLoss(Vectors(), scale=20.0)
    reference = taught + 0.25 * contrast.compute_loss_from_embeddings(list(vectors), None)
    assert_agree(ours, None, vectors, reference)


def test_matryoshka():
    vectors = leaves(3)
    sizes = (16, 8, 4)
    objective, wanted = Objective(temperature=0.05), targets(2)
    ours = matryoshka(lambda q, p: objective(q, p, wanted), vectors[0], torch.cat(vectors[1:]), sizes)
    model = Vectors()
    loss = theirs.MatryoshkaLoss(
        model, theirs.MultipleNegativesRankingLoss(model, scale=20.0), matryoshka_dims=list(sizes)
    )
    reference = loss([{"vectors": vector} for vector in vectors], None) / len(sizes)  # theirs is a sum
    assert_agree(ours, loss, vectors, reference)
