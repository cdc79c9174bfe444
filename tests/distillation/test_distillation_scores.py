"""Student, teacher and branches scored in one pass get what passes of their own give."""

import pytest
import torch

from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.positions import choose_positions
from ann2snn_distill.evaluation.accuracy import top1, top1_at
from ann2snn_distill.evaluation.alignment import cosines_on, hybrid_scores

T = 3


@pytest.fixture
def scored(ann, snn):
    """A student, its branches, and batches of which the last is shorter; labels are the teacher's where they can be."""
    student, teacher = snn("test_resnet"), ann("test_resnet", 2)
    positions = choose_positions(student.stages, teacher.stages, "auto", same_network=True)
    branches = HybridBranches(student.stages, teacher, positions).double()
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(10, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (10,), generator=generator)
    with torch.no_grad():
        labels[:4] = teacher(images[:4]).argmax(1)
        labels[4:8] = student(images[4:8], T).mean(0).argmax(1)
    return student, branches, list(zip(images.split(4), labels.split(4), strict=True))


def test_scores_of_one_pass_are_those_of_separate_passes(scored):
    student, branches, batches = scored
    scores = hybrid_scores(student, branches, batches, T)
    assert scores.top1_at == top1_at(student, batches, T)
    assert scores.teacher_top1 == top1(branches.teacher, batches) >= 40
    assert scores.top1_at[T] >= 40
    for score in scores.branches:
        alone = top1(lambda x, name=score.name: branches(student.in_inference.mean_features(x, T))[name], batches)
        assert score.top1 == alone


def test_cosines_of_batches_add_up_to_that_of_all_images(scored):
    student, branches, batches = scored
    scores = hybrid_scores(student, branches, batches, T)
    together = cosines_on(student, branches, torch.cat([x for x, _ in batches]), T)
    assert list(together) == [score.name for score in scores.branches] == ["layer1", "layer2", "layer3"]
    for score in scores.branches:
        assert score.cosine == pytest.approx(together[score.name], abs=1e-6)
