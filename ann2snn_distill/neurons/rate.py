"""The rate pass: operations that answer from what the spike pass recorded, and carry the gradient.

Their values come from the record alone, so whatever computed their input is dead code for a compiler; only the
gradient goes through it. Shapes: B batch, C channels; records have B rows.

Batch norm in training, with xbar = mean_t x_t, mean and var over (T, B, H, W), n = B*H*W:

    xhat = (xbar - mean) / sqrt(var + eps),   y = weight * xhat + bias        equals mean_t BN(x_t)
    dx = weight / sqrt(var + eps) * (d - sum(d)/n - xhat * sum(d * xhat)/n)
    dweight = sum(d * xhat),   dbias = sum(d)

A neuron: y = threshold * rate, dx = threshold * gain * d, and if its decay is learnt, ddecay = sum(decay_slope * d).
Source: arXiv 2410.11488; its code divides the gradient by T besides, which the maths does not ask for, and neither
does this file.
"""

from typing import Any

import torch
from torch import Tensor

from ann2snn_distill.neurons.norm import NormRecord, NormState, affine, all_but_channels, per_channel
from ann2snn_distill.neurons.temporal import at_least_float32


class NormTrainRate(torch.autograd.Function):
    """Batch norm of the rate pass in training: answers from the record, ignoring its input's value."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        input_B: Tensor,
        mean_C: Tensor,
        inverse_deviation_C: Tensor,
    ) -> Tensor:
        """Return weight * xhat + bias at the recorded input, in the input's dtype."""
        ctx.save_for_backward(weight, input_B, mean_C, inverse_deviation_C)
        ctx.dtype, ctx.biased = x.dtype, bias is not None
        value = affine(_recorded_xhat(input_B, mean_C, inverse_deviation_C), weight, bias).to(x.dtype)
        return value.detach()  # or torch 2.11's compiler differentiates `affine`, and every gradient to x is 0

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None, None]:
        """Return the gradients of the module's docstring."""
        weight, input_B, mean_C, inverse_deviation_C = ctx.saved_tensors
        d = at_least_float32(upstream)
        xhat = _recorded_xhat(input_B, mean_C, inverse_deviation_C)
        dims = all_but_channels(d)
        dbias, dweight = d.sum(dims), (d * xhat).sum(dims)
        n = d.numel() // d.shape[1]
        scale = inverse_deviation_C if weight is None else weight * inverse_deviation_C
        centred = d - per_channel(dbias / n, d) - xhat * per_channel(dweight / n, d)
        dx = (per_channel(scale, d) * centred).to(ctx.dtype)
        return dx, None if weight is None else dweight, dbias if ctx.biased else None, None, None, None


def norm_train_rate(x: Tensor, state: NormState, record: NormRecord) -> Tensor:
    """Return the norm's mean output (B, C, ...), with the gradient of batch statistics."""
    normalised: Tensor = NormTrainRate.apply(x, state.weight, state.bias, *record)
    return normalised


def norm_eval_rate(x: Tensor, state: NormState, record: NormRecord) -> Tensor:
    """Return the norm's mean output (B, C, ...), with the gradient of constant statistics."""
    xhat = per_channel(record.inverse_deviation_C, x) * (answer(x, record.input_B) - per_channel(record.mean_C, x))
    return affine(xhat, state.weight, state.bias).to(x.dtype)


class Answer(torch.autograd.Function):
    """Another value for the same gradient: forward returns the record, backward passes slope * upstream."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recorded: Tensor, slope: Tensor | None) -> Tensor:
        """Return `recorded`."""
        ctx.save_for_backward(slope)
        ctx.dtype = x.dtype
        return recorded.view_as(recorded)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Return slope * upstream in the input's dtype."""
        (slope,) = ctx.saved_tensors
        gradient = upstream if slope is None else upstream * slope
        return gradient.to(ctx.dtype), None, None


def answer(x: Tensor, recorded: Tensor) -> Tensor:
    """Return `recorded`, with the gradient of `x`; whatever computed `x` is dead code for a compiler."""
    answered: Tensor = Answer.apply(x, recorded, None)
    return answered


def neuron_rate(
    x: Tensor, value_B: Tensor, slope_B: Tensor, decay_slope_B: Tensor | None = None, decay: Tensor | None = None
) -> Tensor:
    """Return a neuron's recorded mean output (B, ...); its gradient is slope * upstream.

    A decay that is learnt, a scalar, has the gradient sum(decay_slope * upstream).
    """
    answered: Tensor = Answer.apply(x, value_B, slope_B)
    if decay_slope_B is None or decay is None:
        return answered
    learning: Tensor = AnswerDecay.apply(answered, decay, decay_slope_B)
    return learning


class AnswerDecay(torch.autograd.Function):
    """The identity, at which a decay (a scalar) takes its gradient, sum(slope * upstream)."""

    @staticmethod
    def forward(ctx: Any, answered: Tensor, decay: Tensor, slope: Tensor) -> Tensor:
        """Return `answered`."""
        ctx.save_for_backward(slope)
        ctx.dtype = decay.dtype
        return answered.view_as(answered)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the upstream gradient, and the decay's, summed in float32 at least."""
        (slope,) = ctx.saved_tensors
        return upstream, (at_least_float32(upstream) * slope).sum().to(ctx.dtype), None


def _recorded_xhat(input_B: Tensor, mean_C: Tensor, inverse_deviation_C: Tensor) -> Tensor:
    return (input_B - per_channel(mean_C, input_B)) * per_channel(inverse_deviation_C, input_B)
