"""Norm, residual sum, neuron and records as one operation: what the spike pass does at a neuron, in one read.

    I_t = a(x_t) + b(y_t),   a(x) = (x - center) * scale + shift by channel, or x itself

On CUDA the operations run Triton kernels (`kernels.py`); elsewhere they are the plain equations of `temporal.py`,
which are also what the kernels are tested against. A compiler sees each as one opaque call. Everything is computed
in float32 at least; what is recorded has the width of the activations.

Shapes: T timesteps, B batch, C channels; TB is time folded into the batch, time outermost.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ann2snn_distill.neurons.equations import SLOPE, NeuronModel, Reset
from ann2snn_distill.neurons.norm import NormState, all_but_channels, move_statistics, per_channel
from ann2snn_distill.neurons.temporal import (
    NeuronRecord,
    at_least_float32,
    mean_over_time,
    observe_neuron,
    repeat_over_time,
)


class Term(NamedTuple):
    """One summand of a neuron's current.

    Attributes:
        values: (TB, C, ...), or (B, C, ...) if static.
        affine_3C: center, scale and shift of every channel, or None for the values themselves.
        static: whether the values are constant in time.
    """

    values: Tensor
    affine_3C: Tensor | None
    static: bool


_NO_TERM = (None, None, False)
_Pairs = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
_Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def observe_terms(
    terms: tuple[Term, ...], threshold: Tensor, timesteps: int, *, model: NeuronModel
) -> tuple[Tensor, NeuronRecord, tuple[Tensor | None, ...]]:
    """Run a neuron on the sum of one or two terms and record; nothing here is differentiated.

    Args:
        terms: summands of the current, of equal shapes but for time.
        threshold: firing threshold, a scalar tensor.
        timesteps: T.
        model: the neuron's parameters.

    Returns:
        The emitted threshold * s_t (TB, ...), the neuron's record, and the mean input (B, ...) of every affine term.
    """
    (x, x_affine_3C, x_static), (y, y_affine_3C, y_static) = (*terms, _NO_TERM)[:2]
    decay, own_decay = (0.0, model.decay) if isinstance(model.decay, Tensor) else (model.decay, None)
    emitted, value, slope, of_decay, *means = observe_drive(
        x, x_affine_3C, y, y_affine_3C, threshold, timesteps,
        [x_static, y_static], [decay, model.v_init, model.surrogate_width], model.reset, own_decay,
    )  # fmt: skip
    inputs = [
        None if term.affine_3C is None else term.values if term.static else mean
        for term, mean in zip(terms, means, strict=False)
    ]
    return emitted, NeuronRecord(value, slope, None if own_decay is None else of_decay), tuple(inputs)


def affine_by_batch(
    x: Tensor, state: NormState, timesteps: int, *, static: bool, eps: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch norm's map (3, C) by the batch's statistics, their mean (C,) and 1 / deviation (C,).

    The running statistics move. Arguments as for `norm.observe_norm_train`.
    """
    mean_C, var_C = channel_moments(x)
    count = (timesteps if static else 1) * x.numel() // x.shape[1]
    move_statistics(state, mean_C, var_C, count=count, momentum=momentum)
    return _affine(state, mean_C, var_C, eps)


def affine_by_running(state: NormState, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch norm's map (3, C) by its running statistics, their mean (C,) and 1 / deviation (C,)."""
    return _affine(state, state.running_mean, state.running_var, eps)


def _affine(state: NormState, mean_C: Tensor, var_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    inverse_C = torch.rsqrt(var_C + eps)
    scale_C = inverse_C if state.weight is None else inverse_C * state.weight
    shift_C = torch.zeros_like(mean_C) if state.bias is None else state.bias
    return torch.stack([mean_C, scale_C, shift_C.to(mean_C.dtype)]), mean_C, inverse_C


@torch.library.custom_op("snn_distill::channel_moments", mutates_args=())
def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (C,) of `x` (N, C, ...) over all but channels, in float32 at least."""
    if not x.is_cuda or not is_channels_last(x):
        var_C, mean_C = torch.var_mean(at_least_float32(x), all_but_channels(x), correction=0)
        return mean_C, var_C
    from ann2snn_distill.neurons.kernels import launch_moments

    mean_C = x.new_empty(x.shape[1], dtype=_wide(x))
    var_C = torch.empty_like(mean_C)
    launch_moments(x, mean_C, var_C)
    return mean_C, var_C


@channel_moments.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    mean_C = x.new_empty(x.shape[1], dtype=_wide(x))
    return mean_C, torch.empty_like(mean_C)


@torch.library.custom_op("snn_distill::observe_drive", mutates_args=())
def observe_drive(
    x: Tensor,
    x_affine_3C: Tensor | None,
    y: Tensor | None,
    y_affine_3C: Tensor | None,
    threshold: Tensor,
    timesteps: int,
    static: list[bool],
    parameters: list[float],
    reset: str,
    own_decay: Tensor | None = None,
) -> _Outputs:
    """The operation behind `observe_terms`.

    Args:
        x: the first term; y is the second, or None.
        x_affine_3C: its map, or None.
        y: the second term, or None.
        y_affine_3C: its map, or None.
        threshold: scalar.
        timesteps: T.
        static: of x and of y.
        parameters: decay, v_init, surrogate_width.
        reset: as in `NeuronModel`.
        own_decay: scalar that goes before the decay of `parameters`, and by which a slope is recorded; or None.

    Returns:
        Emitted (TB, ...), value, slope, slope by the decay, mean of x and mean of y (B, ...); what nobody needs is
        empty.
    """
    outputs = _outputs((x, x_affine_3C, y, y_affine_3C), timesteps, static, own_decay)
    decay, v_init, width = parameters
    if not x.is_cuda:
        model = NeuronModel(decay if own_decay is None else own_decay, v_init, _reset(reset), width)
        return _plain((x, x_affine_3C, y, y_affine_3C), threshold, timesteps, static, model, outputs)
    from ann2snn_distill.neurons.kernels import launch_drive

    last = is_channels_last(outputs[1])
    terms = (_laid_out(x, last), x_affine_3C, None if y is None else _laid_out(y, last), y_affine_3C)
    launch_drive(
        terms, threshold, outputs, timesteps=timesteps, static=(static[0], static[1]),
        model=(decay, v_init, reset, SLOPE / width), own_decay=own_decay, channels_last=last,
    )  # fmt: skip
    return outputs


@observe_drive.register_fake
def _(
    x: Tensor,
    x_affine_3C: Tensor | None,
    y: Tensor | None,
    y_affine_3C: Tensor | None,
    threshold: Tensor,
    timesteps: int,
    static: list[bool],
    parameters: list[float],
    reset: str,
    own_decay: Tensor | None = None,
) -> _Outputs:
    del threshold, parameters, reset
    return _outputs((x, x_affine_3C, y, y_affine_3C), timesteps, static, own_decay)


def _outputs(terms: _Pairs, timesteps: int, static: list[bool], own_decay: Tensor | None) -> _Outputs:
    """Allocate what `observe_drive` returns, in the layout of `x`."""
    x, x_affine_3C, y, y_affine_3C = terms
    dtype = x.dtype if y is None else torch.promote_types(x.dtype, y.dtype)
    batch = x.shape[0] // (1 if static[0] else timesteps)
    form = torch.channels_last if is_channels_last(x) else torch.contiguous_format

    def empty(rows: int) -> Tensor:
        return torch.empty((rows, *x.shape[1:]), dtype=dtype, device=x.device, memory_format=form)

    of_decay = x.new_empty(0) if own_decay is None else empty(batch)
    x_mean = x.new_empty(0) if x_affine_3C is None or static[0] else empty(batch)
    y_mean = x.new_empty(0) if y_affine_3C is None or static[1] else empty(batch)
    return empty(timesteps * batch), empty(batch), empty(batch), of_decay, x_mean, y_mean


def _plain(
    terms: _Pairs, threshold: Tensor, timesteps: int, static: list[bool], model: NeuronModel, outputs: _Outputs
) -> _Outputs:
    """Fill `outputs` by the plain equations."""
    x, x_affine_3C, y, y_affine_3C = terms
    emitted, value, slope, of_decay, x_mean, y_mean = outputs
    current, still = _mapped(x, x_affine_3C), static[0]
    if y is not None:
        other = _mapped(y, y_affine_3C)
        if static[0] != static[1]:
            current = repeat_over_time(current, timesteps) if static[0] else current
            other = repeat_over_time(other, timesteps) if static[1] else other
        current, still = current + other, static[0] and static[1]
    spikes, record = observe_neuron(current, threshold, timesteps, static=still, model=model)
    emitted.copy_(spikes)
    value.copy_(record.value_B)
    slope.copy_(record.slope_B)
    if record.decay_slope_B is not None:
        of_decay.copy_(record.decay_slope_B)
    if x_mean.numel():
        x_mean.copy_(mean_over_time(x, timesteps))
    if y is not None and y_mean.numel():
        y_mean.copy_(mean_over_time(y, timesteps))
    return outputs


def _mapped(x: Tensor, affine_3C: Tensor | None) -> Tensor:
    wide = at_least_float32(x)
    if affine_3C is None:
        return wide
    center_C, scale_C, shift_C = affine_3C
    return (wide - per_channel(center_C, x)) * per_channel(scale_C, x) + per_channel(shift_C, x)


def is_channels_last(x: Tensor) -> bool:
    """Return whether the channels of `x` (N, C, H, W) are innermost in memory."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _laid_out(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _reset(name: str) -> Reset:
    assert name in ("soft", "soft-detached", "hard")
    return name  # type: ignore[return-value]
