"""The CIFAR-10 policy of AutoAugment on whole batches: Cubuk et al. 2018, arXiv:1805.09501, table 7.

Each image takes one of 25 sub-policies; each of its two operations happens with its own probability, and
with a random sign where the operation has two directions. Images that undergo the same operation form one
group and share its kernels. Shapes: N images, C = 3 channels, H x W pixels, 2 operations.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

Operation = tuple[str, float, int]
"""Name, probability, bin of the magnitude (0..9, 0 where the operation has none)."""

CIFAR10_POLICY: tuple[tuple[Operation, Operation], ...] = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


def _moved(images: Tensor, *, x: int = 0, y: int = 0, shear: tuple[float, float] | None = None) -> Tensor:
    degrees = [math.degrees(math.atan(slope)) for slope in shear or (0.0, 0.0)]
    # a shear is anchored at the corner, as in the paper's code; a translation has no anchor
    center = [0.0, 0.0] if shear else None
    moved: Tensor = F.affine(images, angle=0.0, translate=[x, y], scale=1.0, shear=degrees, center=center)
    return moved


# Magnitudes are shares, slopes, degrees, grey levels or bits; a translation is a share of the image's side.
_APPLY: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ShearX": lambda images, slope: _moved(images, shear=(slope, 0.0)),
    "ShearY": lambda images, slope: _moved(images, shear=(0.0, slope)),
    "TranslateX": lambda images, share: _moved(images, x=int(share * images.shape[-1])),
    "TranslateY": lambda images, share: _moved(images, y=int(share * images.shape[-2])),
    "Rotate": F.rotate,
    "Brightness": lambda images, share: F.adjust_brightness(images, 1 + share),
    "Color": lambda images, share: F.adjust_saturation(images, 1 + share),
    "Contrast": lambda images, share: F.adjust_contrast(images, 1 + share),
    "Sharpness": lambda images, share: F.adjust_sharpness(images, 1 + share),
    "Posterize": lambda images, bits: F.posterize(images, round(bits)),
    "Solarize": F.solarize,
    "AutoContrast": lambda images, _: F.autocontrast(images),
    "Equalize": lambda images, _: F.equalize(images),
    "Invert": lambda images, _: F.invert(images),
}

_TWO_SIDED = {
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateX": 150 / 331,
    "TranslateY": 150 / 331,
    "Rotate": 30.0,
    "Brightness": 0.9,
    "Color": 0.9,
    "Contrast": 0.9,
    "Sharpness": 0.9,
}
"""Magnitude of bin 9; bin 0 is nothing, and the sign is random."""

_ONE_SIDED = {"Posterize": (8.0, 4.0), "Solarize": (255.0, 0.0)}
"""Magnitudes of bins 0 and 9."""


@dataclass(frozen=True)
class Choices:
    """What happens to each image: its sub-policy (int64), which operations apply, and their signs (bool)."""

    policy_N: Tensor
    applied_N2: Tensor
    positive_N2: Tensor


def draw(count: int, generator: Generator) -> Choices:
    """Draw the choices of `count` images, on the CPU."""
    probability_P2 = torch.tensor([[first[1], second[1]] for first, second in CIFAR10_POLICY])
    policy_N = torch.randint(len(CIFAR10_POLICY), (count,), generator=generator)
    applied_N2 = torch.rand(count, 2, generator=generator) < probability_P2[policy_N]
    return Choices(policy_N, applied_N2, torch.randint(2, (count, 2), generator=generator, dtype=torch.bool))


def apply(images_NCHW: Tensor, choices: Choices) -> Tensor:
    """uint8 images after their chosen operations; the choices lie on the CPU, the images anywhere."""
    out_NCHW = images_NCHW.clone()
    for step in (0, 1):
        for (policy, positive), index_M in _groups(choices, step, out_NCHW.device):
            name, _, level = CIFAR10_POLICY[policy][step]
            out_NCHW[index_M] = _APPLY[name](out_NCHW[index_M], _magnitude(name, level, positive=positive))
    return out_NCHW


def _groups(choices: Choices, step: int, device: torch.device) -> Iterator[tuple[tuple[int, bool], Tensor]]:
    """Yield sub-policy, sign and images (M,) of every group whose operation `step` applies.

    By one sort in numpy: a mask a group is 75 parallel operations on the CPU, whose threads wait for each other. Beside
    other work they took 18 ms at best and 2.6 s in the median (50,000 images, 2 cores, torch 2.14.1), this 2 to 11 ms.
    """
    policy_N = choices.policy_N.numpy()
    signed_P = np.array([operations[step][0] in _TWO_SIDED for operations in CIFAR10_POLICY])
    positive_N = choices.positive_N2[:, step].numpy() & signed_P[policy_N]
    key_N = np.where(choices.applied_N2[:, step].numpy(), 2 * policy_N + positive_N, -1).astype(np.int8)
    order_N = np.argsort(key_N, kind="stable")
    ends = np.searchsorted(key_N[order_N], np.arange(2 * len(CIFAR10_POLICY) + 1)).tolist()
    index_N = torch.from_numpy(order_N).to(device, non_blocking=True)
    for key, (start, end) in enumerate(pairwise(ends)):
        if end > start:
            yield (key // 2, bool(key % 2)), index_N[start:end]


def _magnitude(name: str, level: int, *, positive: bool) -> float:
    if name in _TWO_SIDED:
        magnitude = _between(0.0, _TWO_SIDED[name], level)
        return magnitude if positive else -magnitude
    return _between(*_ONE_SIDED.get(name, (0.0, 0.0)), level)


def auto_augment(images_NCHW: Tensor, generator: Generator) -> Tensor:
    """Augment uint8 images with the CIFAR-10 policy; what a movement uncovers is black."""
    return apply(images_NCHW, draw(len(images_NCHW), generator))


def _between(low: float, high: float, level: int) -> float:
    """The magnitude of a bin, in float32 as torchvision has it: the last bit can move a pixel by one."""
    return float(torch.linspace(low, high, 10)[level])
