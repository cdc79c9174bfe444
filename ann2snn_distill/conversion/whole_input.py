"""Convolutions whose kernel is as large as their input, computed as the linear layers that they are.

vgg's classifier is one: 7x7 over 7x7, 512 to 4,096 channels. cuDNN's gradient of such a weight is far from a matrix
product's speed (docs/experiments.md).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class WholeInputConv2d(nn.Conv2d):
    """A convolution of images (B, C, H, W) by kernels (H, W) to (B, O, 1, 1), without padding, groups or dilation."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what the convolution gives, by one matrix product."""
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


class WholeInputs:
    """While it is open, watches which convolutions of a network read their whole input in every call.

    `linearize` then makes them `WholeInputConv2d`, in place: parameters, their names and every other module stay.
    """

    def __init__(self, network: nn.Module):
        self._whole: dict[nn.Conv2d, bool] = {}
        self._watched = [module for module in network.modules() if type(module) is nn.Conv2d and _is_plain(module)]
        self._handles: list[Any] = []

    def __enter__(self) -> "WholeInputs":
        self._handles = [module.register_forward_pre_hook(self._see) for module in self._watched]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def linearize(self) -> None:
        """Turn the convolutions that were seen to read their whole input into matrix products."""
        for module, whole in self._whole.items():
            if whole:
                module.__class__ = WholeInputConv2d

    def _see(self, module: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        whole = tuple(inputs[0].shape[-2:]) == module.kernel_size
        self._whole[module] = whole and self._whole.get(module, True)


def _is_plain(module: nn.Conv2d) -> bool:
    larger = max(module.kernel_size) > 1
    return larger and module.groups == 1 and module.padding == (0, 0) and module.dilation == (1, 1)
