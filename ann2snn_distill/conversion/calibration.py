"""Thresholds from the currents that reach the neurons, so that none is silent and none always fires.

Two measurements:

- on the ANN with trained weights: the threshold at which the neuron, driven by each of the ANN's currents for T
  timesteps, comes closest to what the ANN gives for it, in squared error;
- on the SNN itself with random weights, layer by layer: each current is measured with the spikes of the layers before.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from ann2snn_distill.conversion.encoders import one_sided, two_sided
from ann2snn_distill.conversion.norms import norm_module
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.signals import Signal, find_signals, is_maxpool
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.neurons.pairs import unroll_pair
from ann2snn_distill.neurons.temporal import repeat_over_time, unroll_neuron

NO_DECAYS: Mapping[str, float] = MappingProxyType({})
"""All neurons have the decay of their common model."""

MINIMUM = 1e-8
"""Layer scales of 1e-5 make currents of 1e-5 and less."""

_QUANTILE = 0.8413
"""Share of a normal distribution below one standard deviation: for centred currents the level is their deviation."""

_SAMPLES = 1_000_000
"""Values of a current that its level is taken from; more cost seconds a layer."""

_FITTED = 16_384
"""Values of a current on which a threshold is fitted."""

TRIED, _CANDIDATES = (-3.0, 3.0), 73
"""Thresholds that are tried, as powers of two of the current's root mean square: six percent apart."""

_SNN_IMAGES = 64
"""Images of the SNN's measurement: T times as many rows are in memory at once."""


def thresholds_of_ann(
    sites: Sites, images: Tensor, timesteps: int, *, neuron: NeuronModel, decays: Mapping[str, float] = NO_DECAYS
) -> dict[str, float]:
    """Return a threshold for every neuron, from the ANN's values on images (B, 3, H, W).

    Args:
        sites: the network, with the ANN's weights.
        images: normalised images (B, 3, H, W).
        timesteps: T of the spikes that stand for a value.
        neuron: the neurons' parameters.
        decays: of neurons that have their own, by name.
    """
    run = _AnnRun(sites, timesteps, neuron, decays)
    with torch.no_grad():
        run.run(images)
    return run.thresholds


def thresholds_of_snn(
    sites: Sites, images: Tensor, timesteps: int, *, neuron: NeuronModel, decays: Mapping[str, float] = NO_DECAYS
) -> dict[str, float]:
    """Return a threshold for every neuron: 1 where a batch norm scales its current, else from the SNN's currents.

    Args:
        sites: the network; nothing in it is changed.
        images: normalised images (B, 3, H, W).
        timesteps: T of the spikes that make the currents.
        neuron: the neurons' parameters.
        decays: of neurons that have their own, by name.
    """
    names = sites.neuron_names()
    if len(_scaled_by_norms(sites)) == len(names):
        return dict.fromkeys(names, 1.0)
    run = _SnnRun(sites, timesteps, neuron, decays)
    with torch.no_grad():
        run.run(repeat_over_time(images[:_SNN_IMAGES], timesteps))
    return run.thresholds


def activation_names(sites: Sites) -> tuple[str, ...]:
    """Return the names of the neurons that replace an activation, those that were inserted excluded."""
    return tuple(
        node.name
        for node, role in sites.roles.items()
        if role is Role.NEURON and node.target not in (one_sided, two_sided)
    )


class ThresholdRun(fx.Interpreter):
    """Runs the traced network call by call, and finds a threshold wherever a neuron stands."""

    def __init__(self, sites: Sites, timesteps: int, neuron: NeuronModel, decays: Mapping[str, float]):
        super().__init__(sites.trace.body, graph=sites.trace.graph)
        self._sites, self._timesteps, self._neuron, self._decays = sites, timesteps, neuron, decays
        self.thresholds: dict[str, float] = {}

    def model_of(self, node: fx.Node) -> NeuronModel:
        """Return the parameters of a neuron, with its own decay if it has one."""
        return self._neuron._replace(decay=self._decays.get(node.name, self._neuron.decay))


class _AnnRun(ThresholdRun):
    """Runs the ANN and fits every neuron's threshold to what enters and leaves its activation."""

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if self._sites.roles.get(n) is Role.NEURON:
            current = self.env[self._sites.data_inputs(n)[0]]
            assert isinstance(value, Tensor)
            unroll = unroll_pair if n.target is two_sided else unroll_neuron
            self.thresholds[n.name] = _fitted(current, value, unroll, self._timesteps, self.model_of(n))
        return value


class _SnnRun(ThresholdRun):
    """Runs the SNN on T*B rows with the batch's statistics, and settles every threshold when it is reached."""

    def __init__(self, sites: Sites, timesteps: int, neuron: NeuronModel, decays: Mapping[str, float]):
        super().__init__(sites, timesteps, neuron, decays)
        self._scaled = _scaled_by_norms(sites)

    def run_node(self, n: fx.Node) -> object:
        role = self._sites.roles.get(n)
        if role is Role.NEURON:
            return self._fire(n, self.env[self._sites.data_inputs(n)[0]])
        if role is Role.NORM:
            norm = norm_module(self._sites, n)
            x = self.env[self._sites.data_inputs(n)[0]]
            return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        return super().run_node(n)

    def _fire(self, node: fx.Node, current: Tensor) -> Tensor:
        value = 1.0 if node in self._scaled else max(_level(current, node), MINIMUM)
        self.thresholds[node.name] = value
        threshold = torch.tensor(value, dtype=current.dtype, device=current.device)
        unroll = unroll_pair if node.target is two_sided else unroll_neuron
        return unroll(current, threshold, self._timesteps, static=False, model=self.model_of(node))


def _fitted(
    current: Tensor, value: Tensor, unroll: Callable[..., Tensor], timesteps: int, neuron: NeuronModel
) -> float:
    """Return the threshold whose mean emission, for a constant current, is nearest to the ANN's value."""
    current_N, value_N = _thinned(current, _FITTED), _thinned(value, _FITTED)
    scale = float(current_N.square().mean().sqrt())
    if scale <= MINIMUM:
        return MINIMUM
    candidates_C = scale * torch.logspace(*TRIED, steps=_CANDIDATES, base=2, device=current.device)
    many_CN = current_N.expand(_CANDIDATES, -1)
    emitted_TCN = unroll(many_CN, candidates_C[:, None], timesteps, static=True, model=neuron)
    error_C = (emitted_TCN.unflatten(0, (timesteps, -1)).mean(0) - value_N).square().mean(1)
    return float(candidates_C[error_C.argmin()])


def _thinned(values: Tensor, most: int) -> Tensor:
    """Return at most so many of the values, evenly spaced, as a float32 vector."""
    flat = values.detach().float().flatten()
    return flat[:: -(-len(flat) // most)]


def _level(current: Tensor, node: fx.Node) -> float:
    """Return the value that a sixth of the currents exceed; of a pair, that a third exceed in magnitude."""
    values = _thinned(current, _SAMPLES)
    two = node.target is two_sided
    level = torch.quantile(values.abs() if two else values, 2 * _QUANTILE - 1 if two else _QUANTILE)
    return float(level) if level > MINIMUM else float(values.std())


def _scaled_by_norms(sites: Sites) -> set[fx.Node]:
    """Return the neurons whose current a batch norm scales, alone or with sums of spikes and norms beside it.

    A norm that directly follows spikes does not count: above a firing rate of 0.61 a normalised spike stays below 0.8,
    and a leaky neuron with threshold 1 would be silent.
    """
    signals = find_signals(sites)
    scaled: dict[fx.Node, bool | None] = {}
    for node in sites.trace.graph.nodes:
        role, inputs = sites.roles.get(node), sites.data_inputs(node)
        if role is Role.NORM:
            scaled[node] = signals[inputs[0]] is Signal.ANALOG
        elif role is Role.NEURON:
            scaled[node] = None
        elif is_maxpool(sites, node):
            scaled[node] = scaled[inputs[0]]
        elif not inputs or role in (None, Role.ANALOG) or sites.is_weighted(node):
            scaled[node] = False
        else:
            scaled[node] = _joined([scaled[source] for source in inputs])
    return {
        node
        for node, role in sites.roles.items()
        if role is Role.NEURON and node.target not in (one_sided, two_sided) and scaled[sites.data_inputs(node)[0]]
    }


def _joined(parts: list[bool | None]) -> bool | None:
    """Return whether a sum is scaled: spikes (None) beside norms do not change it."""
    known = [part for part in parts if part is not None]
    return all(known) if known else None
