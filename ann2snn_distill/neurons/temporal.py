"""Neurons and norms over all timesteps: what the spike pass computes, and what it records for the rate pass.

Shapes: T timesteps, B batch, C channels; TB is time folded into the batch, time outermost. A tensor that is
constant in time (`static`) has B rows and stands for T equal timesteps. Membranes and statistics are float32
at least, whatever the activations are.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ann2snn_distill.neurons.equations import (
    NeuronModel,
    charge,
    fire,
    next_decay_sensitivity,
    next_sensitivity,
    reset,
    reset_slope,
    surrogate_slope,
)


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if it is narrower."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def split_time(x: Tensor, timesteps: int, *, static: bool) -> tuple[Tensor, ...]:
    """Return T tensors of B rows: the slices of `x` (TB, ...), or a static `x` (B, ...) T times."""
    if static:
        return (x,) * timesteps
    slices: tuple[Tensor, ...] = x.unflatten(0, (timesteps, -1)).unbind(0)
    return slices


def mean_over_time(x: Tensor, timesteps: int, axis: int = 0) -> Tensor:
    """Return the mean (B, ...) of `x` (TB, ...), in float32 at least; TB may be another axis than the first."""
    return at_least_float32(x.unflatten(axis, (timesteps, -1))).mean(axis)


def repeat_over_time(x: Tensor, timesteps: int, axis: int = 0) -> Tensor:
    """Return `x` (B, ...) as (TB, ...); B may be another axis than the first."""
    return torch.cat([x] * timesteps, axis)


class NeuronRecord(NamedTuple):
    """What the rate pass needs of a neuron.

    Attributes:
        value_B: mean of the emitted threshold * s_t, (B, ...).
        slope_B: threshold * gain, gain = mean_t f_t h(u_t) = d rate / d (shift common to all currents).
        decay_slope_B: mean_t threshold * h(u_t) * e_t = d value / d decay, where the decay is a tensor.
    """

    value_B: Tensor
    slope_B: Tensor
    decay_slope_B: Tensor | None = None


def observe_neuron(
    current: Tensor, threshold: Tensor, timesteps: int, *, static: bool, model: NeuronModel
) -> tuple[Tensor, NeuronRecord]:
    """Run a neuron over T timesteps and record its rate and gain; nothing here is differentiated.

    Args:
        current: input current, (TB, ...), or (B, ...) if static.
        threshold: firing threshold, a scalar tensor.
        timesteps: T.
        static: whether the current is constant in time.
        model: the neuron's parameters.

    Returns:
        The emitted threshold * s_t (TB, ...) in the current's dtype, and the record.
    """
    membrane: Tensor = model.v_init * threshold
    sensitivity: Tensor | float = 1.0
    decay_sensitivity = membrane
    emitted = []
    rate_sum: Tensor | float = 0.0
    gain_sum: Tensor | float = 0.0
    decay_sum: Tensor | float = 0.0
    for current_B in split_time(at_least_float32(current), timesteps, static=static):
        u = charge(membrane, current_B, model)
        s = fire(u, threshold)
        h = surrogate_slope(u, threshold, model)
        membrane = reset(u, s, threshold, model)
        rate_sum, gain_sum = rate_sum + s, gain_sum + sensitivity * h
        kept = reset_slope(u, s, h, threshold, model)
        sensitivity = next_sensitivity(sensitivity, kept, model)
        if isinstance(model.decay, Tensor):
            decay_sum = decay_sum + decay_sensitivity * h
            decay_sensitivity = next_decay_sensitivity(decay_sensitivity, kept, membrane, model)
        emitted.append((threshold * s).to(current.dtype))
    scale = threshold / timesteps
    of_decay = scale * decay_sum if isinstance(decay_sum, Tensor) else None
    return torch.cat(emitted), NeuronRecord(scale * rate_sum, scale * gain_sum, of_decay)


class SurrogateSpike(torch.autograd.Function):
    """Heaviside forward, surrogate slope backward."""

    @staticmethod
    def forward(ctx: Any, charged: Tensor, threshold: Tensor, model: NeuronModel) -> Tensor:
        """Return the spikes of a charge."""
        ctx.save_for_backward(charged, threshold)
        ctx.model = model
        return fire(charged, threshold)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Return upstream * h(u)."""
        charged, threshold = ctx.saved_tensors
        return upstream * surrogate_slope(charged, threshold, ctx.model), None, None


def unroll_neuron(current: Tensor, threshold: Tensor, timesteps: int, *, static: bool, model: NeuronModel) -> Tensor:
    """Run a neuron over T timesteps, differentiable through time by the surrogate slope (BPTT).

    Arguments and the emitted tensor as for `observe_neuron`.
    """
    membrane: Tensor = model.v_init * threshold
    emitted = []
    for current_B in split_time(at_least_float32(current), timesteps, static=static):
        u = charge(membrane, current_B, model)
        s = SurrogateSpike.apply(u, threshold, model)
        membrane = reset(u, s, threshold, model)
        emitted.append((threshold * s).to(current.dtype))
    return torch.cat(emitted)
