"""Batch norm over time and batch: the spike pass's side, recorded, and BPTT's, differentiable.

In training mean and biased variance run over (T, B, H, W), as nn.BatchNorm's on the folded batch, and the running
statistics move once; in eval the running statistics are constants. The rate pass's side stands in rate.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ann2snn_distill.neurons.temporal import at_least_float32, mean_over_time


class NormRecord(NamedTuple):
    """What the rate pass needs of a norm: mean input (B, C, ...), mean (C,) and 1 / deviation (C,)."""

    input_B: Tensor
    mean_C: Tensor
    inverse_deviation_C: Tensor


class NormState(NamedTuple):
    """A norm's parameters and running statistics, each (C,); weight and bias may be absent."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor


def observe_norm_train(
    x: Tensor, state: NormState, timesteps: int, *, static: bool, eps: float, momentum: float
) -> tuple[Tensor, NormRecord]:
    """Normalise by the batch's statistics, move the running ones, and record.

    Args:
        x: (TB, C, ...), or (B, C, ...) if static.
        state: parameters and running statistics; the latter are updated in place.
        timesteps: T; a static input counts T times in the running variance.
        static: whether `x` is constant in time.
        eps: added to the variance.
        momentum: weight of the new statistics in the running ones.

    Returns:
        The normalised input in its own dtype and shape, and the record.
    """
    wide = at_least_float32(x)
    var_C, mean_C = torch.var_mean(wide, all_but_channels(x), correction=0)
    repeats = timesteps if static else 1
    move_statistics(state, mean_C, var_C, count=repeats * x.numel() // x.shape[1], momentum=momentum)
    return _normalised(x, wide, state, timesteps, static=static, mean_C=mean_C, var_C=var_C, eps=eps)


def observe_norm_eval(
    x: Tensor, state: NormState, timesteps: int, *, static: bool, eps: float
) -> tuple[Tensor, NormRecord]:
    """Normalise by the running statistics and record; arguments as for `observe_norm_train`."""
    wide = at_least_float32(x)
    mean_C, var_C = state.running_mean, state.running_var
    return _normalised(x, wide, state, timesteps, static=static, mean_C=mean_C, var_C=var_C, eps=eps)


def unroll_norm_train(
    x: Tensor, state: NormState, timesteps: int, *, static: bool, eps: float, momentum: float
) -> Tensor:
    """Normalise by the batch's statistics, differentiable; arguments as for `observe_norm_train`."""
    wide = at_least_float32(x)
    var_C, mean_C = torch.var_mean(wide, all_but_channels(x), correction=0)
    count = (timesteps if static else 1) * x.numel() // x.shape[1]
    move_statistics(state, mean_C.detach(), var_C.detach(), count=count, momentum=momentum)
    xhat = (wide - per_channel(mean_C, x)) * per_channel(torch.rsqrt(var_C + eps), x)
    return affine(xhat, state.weight, state.bias).to(x.dtype)


def unroll_norm_eval(x: Tensor, state: NormState, *, eps: float) -> Tensor:
    """Normalise by the running statistics, differentiable."""
    xhat = at_least_float32(x) - per_channel(state.running_mean, x)
    xhat = xhat * per_channel(torch.rsqrt(state.running_var + eps), x)
    return affine(xhat, state.weight, state.bias).to(x.dtype)


def move_statistics(state: NormState, mean_C: Tensor, var_C: Tensor, *, count: int, momentum: float) -> None:
    """Move the running statistics in place; `var_C` is biased, the running variance is not."""
    state.running_mean.lerp_(mean_C, momentum)
    state.running_var.lerp_(var_C * (count / max(count - 1, 1)), momentum)


def _normalised(
    x: Tensor,
    wide: Tensor,
    state: NormState,
    timesteps: int,
    *,
    static: bool,
    mean_C: Tensor,
    var_C: Tensor,
    eps: float,
) -> tuple[Tensor, NormRecord]:
    inverse_deviation_C = torch.rsqrt(var_C + eps)
    xhat = (wide - per_channel(mean_C, x)) * per_channel(inverse_deviation_C, x)
    input_B = wide if static else mean_over_time(wide, timesteps)
    return affine(xhat, state.weight, state.bias).to(x.dtype), NormRecord(input_B, mean_C, inverse_deviation_C)


def affine(xhat: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return weight * xhat + bias, channel by channel; either may be absent."""
    scaled = xhat if weight is None else xhat * per_channel(weight, xhat)
    return scaled if bias is None else scaled + per_channel(bias, xhat)


def all_but_channels(x: Tensor) -> list[int]:
    """Return every dimension of `x` (N, C, ...) except C."""
    return [0, *range(2, x.ndim)]


def per_channel(x_C: Tensor, like: Tensor) -> Tensor:
    """Return `x_C` shaped to broadcast over `like` (N, C, ...)."""
    return x_C.view(-1, *(1,) * (like.ndim - 2))
