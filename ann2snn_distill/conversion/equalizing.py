"""Cross-layer equalisation: a copied ANN's channels, rescaled so that one threshold a layer suits all of them.

A neuron has one threshold, and the channels of a trained ANN differ in scale, those of depthwise convolutions a
hundredfold: most of them would never fire, or always. What makes a channel is divided by a factor, and what reads it
multiplied by the same, as Nagel et al. 2019 (arXiv 1906.04721) do for quantisation. In the SNN this is exactly a
threshold of each channel's own; in an ANN of ReLUs it changes nothing.

Channels belong together along a group of call sites that pass each on as it is: neurons, sums, pools, identities. A
group is left alone if anything but weights makes or reads it, or if a module in it serves elsewhere, too.
"""

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from timm.layers import Conv2dSame
from torch import Tensor, fx, nn

from ann2snn_distill.conversion.calibration import NO_DECAYS
from ann2snn_distill.conversion.channels import channel_thresholds_of_ann
from ann2snn_distill.conversion.rules import Kind, Role
from ann2snn_distill.conversion.signals import is_maxpool
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.conversion.whole_input import WholeInputConv2d
from ann2snn_distill.neurons.equations import NeuronModel

_MOST = 16.0
"""A channel's factor, and its reciprocal, at most: what is quieter than that hardly matters."""

_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_POOLS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_FLATTENS = (nn.Flatten, torch.flatten, "flatten")
_WEIGHTED = (nn.Conv2d, WholeInputConv2d, Conv2dSame, nn.Linear)
_MAKERS = (nn.BatchNorm1d, nn.BatchNorm2d, *_WEIGHTED)
"""These classes alone: others, such as convolutions that standardise their weights, undo a factor."""


@dataclass
class _Group:
    """Call sites whose channels belong together.

    Attributes:
        makers: norms and weighted layers that give the values.
        readers: weighted layers that read them.
        neurons: the neurons among them.
        open: whether anything else makes or reads them.
    """

    makers: list[fx.Node] = field(default_factory=list)
    readers: list[fx.Node] = field(default_factory=list)
    neurons: list[fx.Node] = field(default_factory=list)
    open: bool = False

    def axes(self, sites: Sites) -> set[int]:
        """Return the dimensions that its modules take for the channels'."""
        shapes = sites.trace.shapes
        return {len(shapes[node]) - 1 if isinstance(sites.module(node), nn.Linear) else 1 for node in self.weights}

    @property
    def weights(self) -> tuple[fx.Node, ...]:
        """The call sites whose weights are rescaled."""
        return (*self.makers, *self.readers)


def has_depthwise(network: nn.Module) -> bool:
    """Return whether the network has a convolution with a filter for each channel."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(module.groups == module.in_channels > 1 for module in convolutions)


def equalize(
    sites: Sites,
    images: Tensor,
    timesteps: int,
    *,
    thresholds: Mapping[str, float],
    neuron: NeuronModel,
    decays: Mapping[str, float] = NO_DECAYS,
) -> tuple[str, ...]:
    """Rescale the weights of `sites` in place; return the names of the neurons whose channels were equalised.

    Args:
        sites: the student's network, which owns its weights: the ANN's.
        images: normalised images (B, 3, H, W) on which every channel's best threshold is found.
        timesteps: T of the spikes that stand for a value.
        thresholds: of every neuron; they stay as they are.
        neuron: the neurons' parameters.
        decays: of neurons that have their own, by name.
    """
    groups = _groups(sites)
    axes = {node.name: axis for group in groups for axis in group.axes(sites) for node in group.neurons}
    alone_C = channel_thresholds_of_ann(sites, images, timesteps, axes=axes, neuron=neuron, decays=decays)
    with torch.no_grad():
        for group in groups:
            factor_C = _factor([alone_C[node.name] / thresholds[node.name] for node in group.neurons])
            for node in group.makers:
                _divide_outputs(sites.module(node), factor_C)
            for node in group.readers:
                _multiply_inputs(sites.module(node), factor_C)
    return tuple(axes)


def _factor(ratios: list[Tensor]) -> Tensor:
    """Return the geometric mean (C,) of the neurons' ratios, channels that give nothing left out; 1 without any."""
    ratios_NC = torch.stack(ratios)
    found_NC = ratios_NC > 0
    logarithm_C = ratios_NC.clamp(min=1 / _MOST).log().where(found_NC, 0).sum(0) / found_NC.sum(0).clamp(min=1)
    return logarithm_C.exp().clamp(1 / _MOST, _MOST)


def _groups(sites: Sites) -> list[_Group]:
    """Return the groups that can be rescaled and have neurons."""
    joined = _Joined()
    for node in sites.trace.graph.nodes:
        if _passes_channels(sites, node):
            for source in sites.data_inputs(node):
                joined.join(source, node)
    calls = Counter(str(node.target) for node in sites.trace.graph.nodes if node.op == "call_module")
    groups: dict[fx.Node, _Group] = {}
    for node in sites.trace.graph.nodes:
        if sites.kinds[node] is Kind.DATA:
            _enter(sites, node, groups, joined, once=calls[str(node.target)] == 1)
    return [group for group in groups.values() if group.neurons and not group.open and len(group.axes(sites)) == 1]


class _Joined:
    """Disjoint sets of nodes."""

    def __init__(self) -> None:
        self._parents: dict[fx.Node, fx.Node] = {}

    def root(self, node: fx.Node) -> fx.Node:
        """Return the node that stands for the set of `node`."""
        while (parent := self._parents.get(node, node)) is not node:
            node = parent
        return node

    def join(self, first: fx.Node, second: fx.Node) -> None:
        """Make one set of the two nodes' sets."""
        self._parents[self.root(first)] = self.root(second)


def _enter(sites: Sites, node: fx.Node, groups: dict[fx.Node, _Group], joined: _Joined, *, once: bool) -> None:
    """Add to its groups what `node` is to its output and to what it reads."""
    module, own = sites.module(node), groups.setdefault(joined.root(node), _Group())
    read = [groups.setdefault(joined.root(source), _Group()) for source in sites.data_inputs(node)]
    if sites.roles.get(node) is Role.NEURON:
        own.neurons.append(node)
    elif _passes_channels(sites, node):
        return
    elif once and module is not None and type(module) in _MAKERS and _is_affine(module):
        own.makers.append(node)
        for group in read:
            group.readers.append(node)
            group.open |= type(module) not in _WEIGHTED
    else:
        for group in (own, *read):
            group.open = True


def _passes_channels(sites: Sites, node: fx.Node) -> bool:
    """Return whether every channel of what `node` gives is made of the same channel of all that it reads."""
    module, shapes, sources = sites.module(node), sites.trace.shapes, sites.data_inputs(node)
    if sites.roles.get(node) is Role.NEURON or type(module) is nn.Identity or isinstance(module, _POOLS):
        return True
    if is_maxpool(sites, node):
        return isinstance(module, nn.MaxPool2d)
    if node.target in _SUMS:
        plain = len(sources) == len(node.args) == 2 and not node.kwargs
        return plain and len({shapes.get(source) for source in (node, *sources)}) == 1
    if node.target in _FLATTENS or isinstance(module, nn.Flatten):
        before, after = shapes[sources[0]], shapes[node]
        return len(before) == 4 and after == before[:2] and before[2:] == (1, 1)
    return False


def _is_affine(module: nn.Module) -> bool:
    return isinstance(module, _WEIGHTED) or bool(getattr(module, "affine", False))


def _divide_outputs(module: nn.Module | None, factor_C: Tensor) -> None:
    assert isinstance(module, _MAKERS)
    module.weight.div_(factor_C.view(-1, *[1] * (module.weight.ndim - 1)))
    if module.bias is not None:
        module.bias.div_(factor_C)


def _multiply_inputs(module: nn.Module | None, factor_C: Tensor) -> None:
    assert isinstance(module, _WEIGHTED)
    weight = module.weight
    if isinstance(module, nn.Linear):
        weight.mul_(factor_C)
        return
    by_group = factor_C.view(module.groups, 1, -1).expand(-1, len(weight) // module.groups, -1)
    weight.mul_(by_group.reshape(len(weight), -1, 1, 1))
