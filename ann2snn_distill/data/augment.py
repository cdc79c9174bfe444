"""Augmentation of whole batches on the device; every random choice comes from a generator on the CPU.

Choices are drawn as small tensors on the CPU and then moved, so that CPU and CUDA do the same.
Shapes: N or B images, C channels, H x W pixels, K classes.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images and targets.

    `crop_padding` and `cutout` are in pixels (0: off); streamed images take a random resized crop in
    place of the padded one. `policy` is none, cifar10, imagenet, rand or trivial; images that stay on the
    device know none and cifar10. `mixup` and `cutmix` are beta parameters (0: off) of batches that are mixed
    with probability `mixup_prob`, none from epoch `mixup_off_epoch` on (0: to the end); `smoothing` is the share
    of the target spread over all classes.
    """

    flip: bool
    crop_padding: int
    policy: str = "none"
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = field(default=1.0, repr=False)  # cached teachers are named by the rest
    mixup_off_epoch: int = field(default=0, repr=False)
    smoothing: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether any batch may be mixed."""
        return bool(self.mixup or self.cutmix)

    def in_epoch(self, epoch: int) -> "Augmentation":
        """Return what is done in an epoch, counted from 0."""
        off = 0 < self.mixup_off_epoch <= epoch
        return replace(self, mixup=0.0, cutmix=0.0) if off else self


def random_crop(images_NCHW: Tensor, padding: int, generator: Generator) -> Tensor:
    """Each image shifted by up to `padding` pixels a side; what enters is black (before normalisation)."""
    N, _, H, W = images_NCHW.shape
    offset_N2 = torch.randint(2 * padding + 1, (N, 2), generator=generator)
    offset_N2 = offset_N2.to(images_NCHW.device, non_blocking=True)
    # a view of every window, from which one index takes one window an image: no copy but the result
    windows = F.pad(images_NCHW, (padding,) * 4).unfold(2, H, 1).unfold(3, W, 1)
    return windows[torch.arange(N, device=images_NCHW.device), :, offset_N2[:, 0], offset_N2[:, 1]]


def random_flip(images_NCHW: Tensor, generator: Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    flipped_N = torch.randint(2, (len(images_NCHW),), generator=generator, dtype=torch.bool)
    flipped_N = flipped_N.to(images_NCHW.device, non_blocking=True)
    return torch.where(flipped_N[:, None, None, None], images_NCHW.flip(3), images_NCHW)


def cutout(images_NCHW: Tensor, size: int, generator: Generator) -> Tensor:
    """A black square of side `size` (0: none) in each image, centred anywhere and clipped at the border.

    DeVries and Taylor 2017, arXiv:1708.04552; black before normalisation.
    """
    if not size:
        return images_NCHW
    N, _, H, W = images_NCHW.shape
    device = images_NCHW.device
    top_N, left_N = (
        (torch.randint(side, (N, 1), generator=generator) - size // 2).to(device, non_blocking=True) for side in (H, W)
    )
    row_H, column_W = torch.arange(H, device=device), torch.arange(W, device=device)
    erased_NH = (row_H >= top_N) & (row_H < top_N + size)
    erased_NW = (column_W >= left_N) & (column_W < left_N + size)
    return images_NCHW.masked_fill((erased_NH[:, :, None] & erased_NW[:, None, :])[:, None], 0)


def soft_targets(labels_B: Tensor, *, classes: int, smoothing: float) -> Tensor:
    """Target probabilities (B, K), float32: one-hot, of which the share `smoothing` is spread evenly."""
    return F.one_hot(labels_B, classes).float() * (1 - smoothing) + smoothing / classes


def mix(
    x_BCHW: Tensor, target_BK: Tensor, *, mixup: float, cutmix: float, generator: Generator, probability: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with those of the image at the mirrored place, in this `probability` of batches.

    With both on, each batch takes one of the two at random. The share kept is Beta(a, a) with a the beta
    parameter, one draw a batch (timm's `Mixup`); for cutmix it is corrected to the pixels really kept.
    Mixup: Zhang et al. 2017, arXiv:1710.09412. Cutmix: Yun et al. 2019, arXiv:1905.04899.
    """
    if mixup <= 0 and cutmix <= 0:
        return x_BCHW, target_BK
    # numpy, because torch has no beta distribution that takes a generator
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    if probability < 1 and random.random() >= probability:
        return x_BCHW, target_BK
    cut = cutmix > 0 and (mixup <= 0 or random.random() < 0.5)
    parameter = cutmix if cut else mixup
    kept = float(random.beta(parameter, parameter))
    if cut:
        (top, bottom, left, right), kept = _box(x_BCHW.shape[2], x_BCHW.shape[3], kept, random)
        mixed_BCHW = x_BCHW.clone()
        mixed_BCHW[:, :, top:bottom, left:right] = x_BCHW.flip(0)[:, :, top:bottom, left:right]
    else:
        mixed_BCHW = torch.lerp(x_BCHW.flip(0), x_BCHW, kept)
    return mixed_BCHW, torch.lerp(target_BK.flip(0), target_BK, kept)


def _box(H: int, W: int, kept: float, random: np.random.Generator) -> tuple[tuple[int, int, int, int], float]:
    """A box over the share 1 - `kept` of the image, clipped at the border, and the share really kept."""
    height, width = int(H * (1 - kept) ** 0.5), int(W * (1 - kept) ** 0.5)
    row, column = int(random.integers(H)), int(random.integers(W))
    top, bottom = max(0, row - height // 2), min(H, row + height // 2)
    left, right = max(0, column - width // 2), min(W, column + width // 2)
    return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (H * W)
