"""Loss parts against their definitions, written out over numbers."""

import math

import pytest
import torch

from ann2snn_distill.distillation.losses import branch_weights, cosine, cross_entropy, divergence, guided


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def test_cross_entropy_of_soft_targets():
    logits, target = random(5, 4, seed=0), random(5, 4, seed=1).softmax(1)
    rows = zip(logits.tolist(), target.tolist(), strict=True)
    expected = [-sum(t * math.log(p) for p, t in zip(softmax(row), weights, strict=True)) for row, weights in rows]
    assert float(cross_entropy(logits, target)) == pytest.approx(sum(expected) / 5, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_divergence_is_from_the_teacher_scaled_by_the_temperature_squared(temperature):
    logits, teacher = 3 * random(5, 4, seed=2), 3 * random(5, 4, seed=3)
    expected = 0.0
    for ours, theirs in zip(logits.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(ours, temperature), softmax(theirs, temperature)
        expected += temperature**2 * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)) / 5
    assert float(divergence(logits, teacher, temperature)) == pytest.approx(expected, rel=1e-5)
    assert abs(float(divergence(teacher, teacher, temperature))) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_whatever_the_logits_are(dtype):
    logits, target = random(3, 4, seed=4).to(dtype), random(3, 4, seed=5).softmax(1)
    for loss in (cross_entropy(logits, target), divergence(logits, logits, 1.0), cosine(logits, logits)):
        assert loss.dtype is torch.float32


def test_guidance_has_the_share_alpha():
    parts = torch.tensor(2.0), torch.tensor(5.0)
    assert [float(guided(*parts, alpha)) for alpha in (0.0, 0.25, 1.0)] == [2.0, 2.75, 5.0]


def test_branch_weights_sum_to_one():
    assert branch_weights(4, "uniform") == (0.25, 0.25, 0.25, 0.25)
    assert branch_weights(3, "decay") == pytest.approx((1 / 7, 2 / 7, 4 / 7))
    assert branch_weights(0, "uniform") == branch_weights(0, "decay") == ()


def test_cosine_is_of_the_flattened_features():
    feature, reference = random(3, 2, 4, 4, seed=6), random(3, 2, 4, 4, seed=7)
    expected = 0.0
    for a, b in zip(feature.flatten(1).tolist(), reference.flatten(1).tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        expected += dot / math.hypot(*a) / math.hypot(*b) / 3
    assert float(cosine(feature, reference)) == pytest.approx(expected, rel=1e-5)
    assert float(cosine(feature, 3 * feature)) == pytest.approx(1.0)
