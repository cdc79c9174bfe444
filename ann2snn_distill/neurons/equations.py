"""One timestep of a spiking neuron, its surrogate slope and its sensitivity, as pure functions.

Letters: u charge (membrane before firing), v membrane after reset, s spike in {0, 1}, I input current.

    u_t = decay * v_{t-1} + I_t                 charge
    s_t = 1[u_t >= threshold]                   fire
    v_t = u_t - threshold * s_t                 reset, soft       v_t = u_t * (1 - s_t)   reset, hard

Sources: arXiv 2410.11488 (rate-based backpropagation) and arXiv 2503.16572 (the `lif` setting).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reset = Literal["soft", "soft-detached", "hard"]

SLOPE = 4.0
"""Steepness of the sigmoid at width 1, so that the slope's peak is 1 / threshold."""


class NeuronModel(NamedTuple):
    """Parameters that all neurons of a network share; thresholds stand with each neuron.

    Attributes:
        decay: share of the membrane kept per timestep, in [0, 1]; a scalar tensor where a neuron has its own, which
            may be learnt.
        v_init: membrane before the first timestep, in thresholds.
        reset: soft (subtract the threshold), soft-detached (the same, not differentiated), or hard.
        surrogate_width: width of the surrogate slope, in thresholds.
    """

    decay: float | Tensor
    v_init: float
    reset: Reset
    surrogate_width: float


LIF = NeuronModel(decay=0.2, v_init=0.0, reset="soft-detached", surrogate_width=1.0)
"""The papers' leaky integrate-and-fire neuron."""

IF = NeuronModel(decay=1.0, v_init=0.5, reset="soft", surrogate_width=0.5)
"""Integrate-and-fire that rounds a constant current to T + 1 levels; its reset is differentiated, since
otherwise its gain grows with T (mean slope 7.2 at T=16 where 1 is ideal). Half the width, since its membrane starts
half a threshold below firing: at width 1 a pair that hardly spikes has a slope of 1.4 at T=4."""


def charge(membrane: Tensor, current: Tensor, model: NeuronModel) -> Tensor:
    """Return u = decay * v + I; the current is not scaled."""
    return model.decay * membrane + current


def fire(charged: Tensor, threshold: Tensor) -> Tensor:
    """Return s = 1 where the charge reaches the threshold, else 0, in the charge's dtype."""
    return (charged >= threshold).to(charged.dtype)


def reset(charged: Tensor, spike: Tensor, threshold: Tensor, model: NeuronModel) -> Tensor:
    """Return the membrane after firing; `soft-detached` hides the spike from differentiation."""
    if model.reset == "hard":
        return charged * (1 - spike)
    if model.reset == "soft-detached":
        spike = spike.detach()
    return charged - threshold * spike


def surrogate_slope(charged: Tensor, threshold: Tensor, model: NeuronModel) -> Tensor:
    """Return h(u) = (a / threshold) q (1 - q), q = sigmoid(a (u / threshold - 1)), a = 4 / width."""
    steepness = SLOPE / model.surrogate_width
    q = torch.sigmoid(steepness * (charged / threshold - 1))
    return (steepness / threshold) * q * (1 - q)


def reset_slope(charged: Tensor, spike: Tensor, slope: Tensor, threshold: Tensor, model: NeuronModel) -> Tensor | float:
    """Return dv/du: 1, 1 - threshold * h or 1 - s - u * h, for soft-detached, soft and hard."""
    if model.reset == "soft-detached":
        return 1.0
    return 1 - threshold * slope if model.reset == "soft" else 1 - spike - charged * slope


def next_sensitivity(sensitivity: Tensor | float, kept: Tensor | float, model: NeuronModel) -> Tensor | float:
    """Return f_{t+1} = 1 + decay * f_t * dv/du, the derivative of u_{t+1} by a shift common to all currents."""
    return 1 + model.decay * sensitivity * kept


def next_decay_sensitivity(sensitivity: Tensor, kept: Tensor | float, membrane: Tensor, model: NeuronModel) -> Tensor:
    """Return e_{t+1} = v_t + decay * e_t * dv/du, the derivative of u_{t+1} by the decay; e_0 = v_{-1}."""
    return membrane + model.decay * sensitivity * kept
