"""Laws of augmentation, each against an independent oracle on single images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as oracle

from ann2snn_distill.data import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=generator(9), dtype=torch.uint8)


def test_each_crop_is_a_window_of_the_padded_image_and_every_window_occurs() -> None:
    images_NCHW = random_images(400, 8)
    cropped_NCHW = augment.random_crop(images_NCHW, 1, generator())
    seen = set()
    for image, crop in zip(images_NCHW, cropped_NCHW, strict=True):
        padded = oracle.pad(image, [1])
        windows = [(t, le) for t in range(3) for le in range(3)]
        matches = [w for w in windows if torch.equal(oracle.crop(padded, *w, 8, 8), crop)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 9


def test_half_of_the_images_are_mirrored_and_the_others_untouched() -> None:
    images_NCHW = random_images(1000, 4)
    flipped_NCHW = augment.random_flip(images_NCHW, generator())
    mirrored = [torch.equal(f, oracle.hflip(i)) for i, f in zip(images_NCHW, flipped_NCHW, strict=True)]
    same = [torch.equal(f, i) for i, f in zip(images_NCHW, flipped_NCHW, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 430 < sum(mirrored) < 570


@pytest.mark.parametrize("size", [1, 5, 8, 40])
def test_cutout_blackens_one_clipped_rectangle_and_nothing_else(size: int) -> None:
    images_NCHW = random_images(200, 16) // 2 + 1  # no black before
    erased_NCHW = augment.cutout(images_NCHW, size, generator())
    areas = []
    for image, erased in zip(images_NCHW, erased_NCHW, strict=True):
        black = erased[0] == 0
        rows, columns = black.any(1).nonzero()[:, 0], black.any(0).nonzero()[:, 0]
        top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
        assert torch.equal(erased, oracle.erase(image, top, left, height, width, torch.tensor(0)))
        assert height <= size
        assert height == size or top == 0 or top + height == 16  # smaller only where clipped
        areas.append(height * width)
    assert max(areas) == min(size, 16) ** 2


def test_cutout_of_no_pixels_changes_nothing() -> None:
    assert torch.equal(augment.cutout(random_images(3), 0, generator()), random_images(3))


def test_smoothed_targets_are_the_mixture_of_one_hot_and_uniform() -> None:
    target_BK = augment.soft_targets(torch.tensor([2, 0]), classes=4, smoothing=0.2)
    expected = torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]])
    torch.testing.assert_close(target_BK, expected)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.3, 1.0)])
def test_mixed_targets_sum_to_one_and_weigh_what_the_pixels_hold(mixup: float, cutmix: float) -> None:
    # image b is constant b, and its target one-hot b: the pixels' mean tells the share of each source
    x_BCHW = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16)
    random = generator()
    for _ in range(20):
        mixed_BCHW, target_BK = augment.mix(x_BCHW, torch.eye(4), mixup=mixup, cutmix=cutmix, generator=random)
        torch.testing.assert_close(target_BK.sum(1), torch.ones(4))
        torch.testing.assert_close(mixed_BCHW.mean((1, 2, 3)), target_BK @ torch.arange(4.0))


def test_cutmix_pastes_one_box_and_mixup_blends_every_pixel() -> None:
    x_BCHW = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 16, 16)
    cut, _ = augment.mix(x_BCHW, torch.eye(2), mixup=0.0, cutmix=1.0, generator=generator(1))
    assert set(cut.flatten().tolist()) == {0.0, 1.0}
    blended, target_BK = augment.mix(x_BCHW, torch.eye(2), mixup=1.0, cutmix=0.0, generator=generator(1))
    torch.testing.assert_close(blended[0], torch.full((3, 16, 16), float(target_BK[0, 1])))


def test_with_both_on_each_is_taken_half_of_the_time() -> None:
    x_BCHW = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 16, 16)
    random, cut = generator(), 0
    for _ in range(400):
        mixed, _ = augment.mix(x_BCHW, torch.eye(2), mixup=1.0, cutmix=1.0, generator=random)
        cut += bool(((mixed == 0) | (mixed == 1)).all())
    assert 160 < cut < 240


def test_mixups_share_follows_the_beta_distribution() -> None:
    x_BCHW, random = torch.zeros(2, 1, 1, 1), generator()
    kept = [
        float(augment.mix(x_BCHW, torch.eye(2), mixup=0.4, cutmix=0.0, generator=random)[1][0, 0]) for _ in range(1500)
    ]
    assert np.mean(kept) == pytest.approx(0.5, abs=0.04)
    assert np.var(kept) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.015)  # of Beta(a, a)


def test_without_mixing_the_batch_is_handed_on_as_it_is() -> None:
    x_BCHW, target_BK = torch.rand(2, 3, 4, 4), torch.eye(2)
    same = augment.mix(x_BCHW, target_BK, mixup=0.0, cutmix=0.0, generator=generator())
    assert same[0] is x_BCHW
    assert same[1] is target_BK


def test_batches_are_mixed_as_often_as_the_probability_says() -> None:
    x_BCHW, target_BK, random = torch.rand(2, 3, 8, 8), torch.eye(2), generator(4)
    mixed = [
        augment.mix(x_BCHW, target_BK, mixup=1.0, cutmix=0.0, generator=random, probability=0.3)[0] is not x_BCHW
        for _ in range(2000)
    ]
    assert abs(sum(mixed) / len(mixed) - 0.3) < 0.04


def test_no_epoch_is_mixed_after_the_last_that_may_be() -> None:
    ending = augment.Augmentation(flip=True, crop_padding=4, mixup=0.4, cutmix=1.0, mixup_off_epoch=2)
    assert [(ending.in_epoch(epoch).mixup, ending.in_epoch(epoch).cutmix) for epoch in (0, 1, 2, 3)] == [
        (0.4, 1.0), (0.4, 1.0), (0.0, 0.0), (0.0, 0.0),
    ]  # fmt: skip
    endless = replace(ending, mixup_off_epoch=0)
    assert all(endless.in_epoch(epoch) is endless for epoch in (0, 1, 300))
