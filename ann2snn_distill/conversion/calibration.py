"""Thresholds from the currents that reach the neurons, so that none is silent and none always fires.

Two measurements:

- on the ANN with trained weights: the standard deviation of what enters an activation; for an inserted neuron the
  level below which five sixths of the values lie;
- on the SNN itself with random weights, layer by layer: each current is measured with the spikes of the layers before.
"""

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

_MINIMUM = 1e-8
"""Layer scales of 1e-5 make currents of 1e-5 and less."""

_QUANTILE = 0.8413
"""Share of a normal distribution below one standard deviation: for centred currents the level is their deviation."""

_SAMPLES = 1_000_000
"""Values of a current that its level is taken from; more cost seconds a layer."""

_SNN_IMAGES = 64
"""Images of the SNN's measurement: T times as many rows are in memory at once."""


def thresholds_of_ann(sites: Sites, images: Tensor) -> dict[str, float]:
    """Return a threshold for every neuron, from the ANN's values on images (B, 3, H, W)."""
    run = _AnnRun(sites)
    with torch.no_grad():
        run.run(images)
    return run.thresholds


def thresholds_of_snn(sites: Sites, images: Tensor, timesteps: int, *, neuron: NeuronModel) -> dict[str, float]:
    """Return a threshold for every neuron: 1 where a batch norm scales its current, else from the SNN's currents.

    Args:
        sites: the network; nothing in it is changed.
        images: normalised images (B, 3, H, W).
        timesteps: T of the spikes that make the currents.
        neuron: the neurons' parameters.
    """
    names = sites.neuron_names()
    if len(_scaled_by_norms(sites)) == len(names):
        return dict.fromkeys(names, 1.0)
    run = _SnnRun(sites, timesteps, neuron)
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


class _AnnRun(fx.Interpreter):
    """Runs the ANN and measures every neuron's input."""

    def __init__(self, sites: Sites):
        super().__init__(sites.trace.body, graph=sites.trace.graph)
        self._sites = sites
        self.thresholds: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> object:
        if self._sites.roles.get(n) is Role.NEURON:
            current = self.env[self._sites.data_inputs(n)[0]]
            inserted = n.target in (one_sided, two_sided)
            found = _level(current, n) if inserted else float(current.float().std())
            self.thresholds[n.name] = max(found, _MINIMUM)
        return super().run_node(n)


class _SnnRun(fx.Interpreter):
    """Runs the SNN on T*B rows with the batch's statistics, and settles every threshold when it is reached."""

    def __init__(self, sites: Sites, timesteps: int, neuron: NeuronModel):
        super().__init__(sites.trace.body, graph=sites.trace.graph)
        self._sites, self._timesteps, self._neuron = sites, timesteps, neuron
        self._scaled = _scaled_by_norms(sites)
        self.thresholds: dict[str, float] = {}

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
        value = 1.0 if node in self._scaled else max(_level(current, node), _MINIMUM)
        self.thresholds[node.name] = value
        threshold = torch.tensor(value, dtype=current.dtype, device=current.device)
        unroll = unroll_pair if node.target is two_sided else unroll_neuron
        return unroll(current, threshold, self._timesteps, static=False, model=self._neuron)


def _level(current: Tensor, node: fx.Node) -> float:
    """Return the value that a sixth of the currents exceed; of a pair, that a third exceed in magnitude."""
    values = current.detach().float().flatten()
    values = values[:: -(-len(values) // _SAMPLES)]
    two = node.target is two_sided
    level = torch.quantile(values.abs() if two else values, 2 * _QUANTILE - 1 if two else _QUANTILE)
    return float(level) if level > _MINIMUM else float(values.std())


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
