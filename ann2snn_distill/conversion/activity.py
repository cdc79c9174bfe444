"""How active an SNN is: spikes of its neurons, and spikes that reach its layers with weights.

A layer that spikes drive may read them through averages, norms and scales, which are folded into it: a norm adds a
constant to its current, and each spike of a window that is averaged reaches its weights alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from timm.layers import BlurPool2d
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.emit import Program, TimeGraph
from ann2snn_distill.conversion.partition import Stage
from ann2snn_distill.conversion.programs import unroll_site
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.signals import Signal, find_signals, is_maxpool
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.neurons.equations import NeuronModel

_WINDOWS = (nn.AvgPool1d, nn.AvgPool2d, F.avg_pool1d, F.avg_pool2d)
_ADAPTIVE_WINDOWS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)
_MEANS = (torch.mean, "mean")
_SUMS = (nn.Fold, F.fold, torch.sum, "sum")
_RESIZES = (nn.Upsample, F.interpolate)
_TAPS_OF_MODES = {"linear": 2, "bilinear": 4, "bicubic": 16, "trilinear": 8}


class Activity(NamedTuple):
    """How active the output of a neuron, or the input of a layer with weights, is.

    Attributes:
        share: of the values of a timestep that are not zero or, of spikes, that any spike is part of; in [0, 1].
        spikes: that a value is made of on average, as many as reach its weights; 0 where not spikes alone make it.
    """

    share: float
    spikes: float


@dataclass(frozen=True)
class ActivityProgram:
    """`run(body, x, timesteps) -> (logits, measurements)`, named by the call sites of `names`, (share, spikes) each."""

    run: Program
    names: tuple[str, ...]


def activity_program(
    sites: Sites, stages: Sequence[Stage], *, neuron: NeuronModel, static_input: bool
) -> ActivityProgram:
    """Return the program that measures all neurons' outputs and all inputs of layers with weights.

    Args:
        sites: the network.
        stages: all of its stages.
        neuron: the neurons' parameters.
        static_input: whether the input is constant in time, and so has B rows.
    """
    time = TimeGraph(sites, stages[0].input, static_input=static_input)
    counts = _SpikeCounts(time)
    measured: dict[str, fx.Node] = {}
    for node in (node for stage in stages for node in stage.nodes if node in sites.roles):
        unroll_site(time, node, neuron, training=False)
        counts.follow(node)
        if sites.roles[node] is Role.NEURON:
            measured[node.name] = counts.measured(node)
        elif sites.is_weighted(node):
            measured[node.name] = counts.measured(sites.data_inputs(node)[0])
    return ActivityProgram(time.finish(stages[-1].output, list(measured.values())), tuple(measured))


class _SpikeCounts:
    """Writes into a graph over time, beside what spikes make, how many spikes each value is made of."""

    def __init__(self, time: TimeGraph):
        self._time, self._sites = time, time.sites
        self._signals = find_signals(time.sites)
        self._counts: dict[fx.Node, fx.Node] = {}

    def follow(self, node: fx.Node) -> None:
        """Count the spikes in the values of `node`, which the graph has, if spikes make them."""
        if self._signals[node] is not Signal.BINARY:
            return
        time = self._time
        if self._sites.roles[node] is Role.NEURON:
            self._counts[node] = time.call(_fired, (time.data(node),))
            return
        taps = _taps(self._sites, node)
        if taps is None:  # a norm, a scale or a shift
            (source,) = self._sites.data_inputs(node)
            self._counts[node] = time.call(_as_large, (self._counts[source], time.data(node)))
        else:
            copied = time.copied(node, self._counts)
            self._counts[node] = copied if taps == 1 else time.call(torch.mul, (copied, taps))

    def measured(self, node: fx.Node) -> fx.Node:
        """Add a measurement of the values of `node`."""
        if node in self._counts:
            return self._time.call(_of_counts, (self._counts[node],))
        return self._time.call(_of_values, (self._time.data(node),))


def _taps(sites: Sites, node: fx.Node) -> float | None:
    """Return how many values `node` averages, 1 if it sums or moves them; None if it leaves them in place."""
    module, shapes = sites.module(node), sites.trace.shapes

    def is_one_of(kinds: Sequence[Any]) -> bool:
        if module is None:
            return node.target in kinds
        return isinstance(module, tuple(kind for kind in kinds if isinstance(kind, type)))

    def option(name: str, index: int) -> Any:
        if module is not None:
            return getattr(module, name)
        return node.args[index] if len(node.args) > index else node.kwargs.get(name)

    if sites.roles[node] is Role.SHAPE or is_maxpool(sites, node) or is_one_of(_SUMS):
        return 1
    before, after = shapes[sites.data_inputs(node)[0]], shapes[node]
    if is_one_of(_WINDOWS):
        return _window(option("kernel_size", 1), before, after)
    mode: Any = option("mode", 3) if is_one_of(_RESIZES) else None
    if is_one_of(_ADAPTIVE_WINDOWS) or mode == "area":
        return prod(_mean_window(*side) for side in zip(before[2:], after[2:], strict=True))
    if is_one_of(_MEANS):
        return prod(before) / prod(after)
    if is_one_of(_RESIZES):
        return _TAPS_OF_MODES.get(mode, 1)
    if is_one_of((BlurPool2d,)):
        return float(option("filt_size", 0)) ** 2
    return None


def _window(kernel: Any, before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """Return how many values a pool's window holds; one that is no number was asked of the image, and is as large."""
    sides = kernel if isinstance(kernel, tuple | list) else (kernel,) * len(after[2:])
    known = all(isinstance(side, int) for side in sides)
    return float(prod(sides)) if known else prod(before) / prod(after)


def _mean_window(values: int, windows: int) -> float:
    """Return how many of `values` an adaptive average pool's windows hold on average; they overlap if none fit."""
    ends = (-(-values * (index + 1) // windows) for index in range(windows))
    return sum(end - values * index // windows for index, end in enumerate(ends)) / windows


def _fired(spikes: Tensor) -> Tensor:
    return (spikes != 0).to(spikes.dtype)


def _as_large(counts: Tensor, values: Tensor) -> Tensor:
    return counts.expand_as(values)


def _of_counts(counts: Tensor) -> Tensor:
    return torch.stack([(counts > 0).float().mean(), counts.float().mean()])


def _of_values(values: Tensor) -> Tensor:
    share = (values != 0).float().mean()
    return torch.stack([share, torch.zeros_like(share)])
