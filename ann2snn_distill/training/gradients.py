"""What is done with gradients between their computation and the update of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

_SHORTEST = 1e-12
"""A gradient that is shorter, of all weights together, has no direction to go."""


@dataclass(frozen=True)
class Clip:
    """How long gradients may be.

    Attributes:
        most: the norm of all together; under `agc` that of a channel's over its weights' norm.
        mode: norm, or agc (adaptive gradient clipping, Brock et al. 2021, arXiv 2102.06171), which leaves the layers
            alone whose gradients do not explode.
    """

    most: float
    mode: Literal["norm", "agc"] = "norm"

    def shorten(self, parameters: Sequence[nn.Parameter]) -> None:
        """Shorten the parameters' gradients in place, without waiting for the device."""
        if self.mode == "agc":
            adaptive_clip_grad(parameters, self.most)
        else:
            clip_grad_norm_(parameters, self.most)


def go_uphill(parameters: Sequence[nn.Parameter], radius: float) -> None:
    """Move parameters by `radius` along their gradients, all together and in place, without waiting for the device.

    The first half of a step of sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412).
    """
    moved: list[Tensor] = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    with torch.no_grad():
        way = torch._foreach_mul(gradients, radius / length.clamp_min(_SHORTEST))
        torch._foreach_add_(moved, list(way))
