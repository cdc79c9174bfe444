"""A pair of neurons for a current of both signs: one is driven by it, the other by its negative.

    on spikes for I, off spikes for -I, each by the equations of equations.py; the pair emits threshold * (on - off)

A synapse reads two binary populations with opposite weights. With v_init below 1 the two never spike in the same
timestep: their charges then sum to at most 2 * v_init * threshold, and both would have to reach the threshold.
"""

from torch import Tensor

from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.neurons.temporal import NeuronRecord, observe_neuron, unroll_neuron


def observe_pair(
    current: Tensor, threshold: Tensor, timesteps: int, *, static: bool, model: NeuronModel
) -> tuple[Tensor, NeuronRecord]:
    """Run a pair over T timesteps and record its rate and gain; arguments and results as of `observe_neuron`.

    The slopes add: off's rate falls where the current rises, and off counts negatively. Those by the decay, which
    both have in common, do not.
    """
    on, of_on = observe_neuron(current, threshold, timesteps, static=static, model=model)
    off, of_off = observe_neuron(-current, threshold, timesteps, static=static, model=model)
    value_B, slope_B = of_on.value_B - of_off.value_B, of_on.slope_B + of_off.slope_B
    if of_on.decay_slope_B is None or of_off.decay_slope_B is None:
        return on - off, NeuronRecord(value_B, slope_B)
    return on - off, NeuronRecord(value_B, slope_B, of_on.decay_slope_B - of_off.decay_slope_B)


def unroll_pair(current: Tensor, threshold: Tensor, timesteps: int, *, static: bool, model: NeuronModel) -> Tensor:
    """Run a pair over T timesteps, differentiable through time (BPTT); arguments as of `unroll_neuron`."""
    on = unroll_neuron(current, threshold, timesteps, static=static, model=model)
    return on - unroll_neuron(-current, threshold, timesteps, static=static, model=model)
