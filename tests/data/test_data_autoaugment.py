"""Laws of the CIFAR-10 policy: torchvision's transform, image by image, is the oracle."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import autoaugment as oracle
from torchvision.transforms.v2 import functional

from ann2snn_distill.data import autoaugment


def random_images(count: int) -> Tensor:
    random = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 256, (count, 3, 8, 8), generator=random).float()
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return (smooth * 0.7 + 20).to(torch.uint8)  # less than the full range, so that contrast can grow


def test_the_table_is_torchvisions() -> None:
    theirs = oracle.AutoAugment(oracle.AutoAugmentPolicy.CIFAR10).policies
    assert [[(name, p, level or 0) for name, p, level in pair] for pair in theirs] == [
        list(pair) for pair in autoaugment.CIFAR10_POLICY
    ]


@pytest.mark.parametrize("policy", range(25))
def test_each_sub_policy_does_to_each_image_what_torchvision_does(policy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    applied = torch.tensor([[True, True], [True, False], [False, True], [True, True], [False, False]])
    positive = torch.tensor([[True, True], [False, True], [True, False], [False, False], [True, True]])
    images_NCHW = random_images(5)
    choices = autoaugment.Choices(torch.full((5,), policy), applied, positive)
    ours = autoaugment.apply(images_NCHW, choices)
    # the oracle's logic over the newer kernels: the older ones round up to 1 grey level otherwise (sharpness
    # in 10 % of the pixels, where the newer agree with PIL), and solarising makes 1 level a whole jump
    monkeypatch.setattr(oracle, "F", functional)
    transform = oracle.AutoAugment(oracle.AutoAugmentPolicy.CIFAR10)
    for index, image in enumerate(images_NCHW):
        # an operation happens where the draw does not exceed its probability
        chances = torch.where(applied[index], -1.0, 2.0)
        monkeypatch.setattr(transform, "get_params", lambda _, i=index, c=chances: (policy, c, positive[i].long()))
        assert torch.equal(ours[index], transform(image)), autoaugment.CIFAR10_POLICY[policy]


def test_operations_happen_as_often_as_their_probabilities_say() -> None:
    choices = autoaugment.draw(100_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(choices.policy_N, minlength=25)
    assert torch.allclose(counts / 100_000, torch.tensor(1 / 25), atol=0.003)
    for policy, pair in enumerate(autoaugment.CIFAR10_POLICY):
        members = choices.policy_N == policy
        for step, (_, probability, _) in enumerate(pair):
            share = float(choices.applied_N2[members, step].float().mean())
            assert share == pytest.approx(probability, abs=0.04)
            assert float(choices.positive_N2[members, step].float().mean()) == pytest.approx(0.5, abs=0.04)


def test_the_batch_given_is_not_changed() -> None:
    images_NCHW = random_images(50)
    before = images_NCHW.clone()
    augmented = autoaugment.auto_augment(images_NCHW, torch.Generator().manual_seed(0))
    assert torch.equal(images_NCHW, before)
    assert not torch.equal(augmented, before)
