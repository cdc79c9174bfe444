"""What drives each synapse: spikes, or analog values. A model is as spiking as its multiply-accumulates are."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.rules import Role, describe
from ann2snn_distill.conversion.signals import Signal, find_signals
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.conversion.tracer import BATCH

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class LayerFate:
    """The fate of one call site.

    Attributes:
        name: its name in the graph, unique.
        path: the module that calls it.
        operation: class, function or method.
        role: what it is to the SNN.
        binary_input: of a layer with weights, whether spikes drive it, an LSTM never; None for others.
        macs: multiply-accumulates a timestep and image, of a product of two activations as well.
        static: whether it works on what is constant in time, so that once a static image is enough.
        first: of a layer with weights, whether it reads the image itself.
    """

    name: str
    path: str
    operation: str
    role: Role
    binary_input: bool | None
    macs: int
    static: bool
    first: bool


@dataclass(frozen=True)
class Coverage:
    """Fates of all layers, and multiply-accumulates a timestep and image.

    Attributes:
        layers: every data call site.
        spiking_macs: those of layers that spikes drive.
        first_macs: those of layers that read the image.
        total_macs: all of convolutions, linear and recurrent layers.
        product_macs: of matrix products of two activations, as in attention; not in the total.
    """

    layers: tuple[LayerFate, ...]
    spiking_macs: int
    first_macs: int
    total_macs: int
    product_macs: int

    @property
    def share(self) -> float:
        """Spiking over all, in [0, 1]."""
        return self.spiking_macs / self.total_macs if self.total_macs else 0.0

    @property
    def share_after_first(self) -> float:
        """Spiking over all but the layers that read the image, in [0, 1]."""
        rest = self.total_macs - self.first_macs
        return self.spiking_macs / rest if rest else 0.0


def coverage(sites: Sites) -> Coverage:
    """Return what becomes of every data call site of a network."""
    signals = find_signals(sites)
    static, first = _static(sites), _reading_the_image(sites)
    fates = []
    for node in sites.roles:
        weighted = sites.has_weights(node)
        fates.append(
            LayerFate(
                name=node.name,
                path=sites.trace.paths[node],
                operation=describe(node, sites.trace.body),
                role=sites.roles[node],
                binary_input=_is_driven(sites, node, signals) if weighted else None,
                macs=_macs(sites, node) if weighted or sites.is_matrix_product(node) else 0,
                static=node in static,
                first=weighted and sites.data_inputs(node)[0] in first,
            )
        )
    weighted_fates = [fate for fate in fates if fate.binary_input is not None]
    return Coverage(
        layers=tuple(fates),
        spiking_macs=sum(fate.macs for fate in weighted_fates if fate.binary_input),
        first_macs=sum(fate.macs for fate in weighted_fates if fate.first),
        total_macs=sum(fate.macs for fate in weighted_fates),
        product_macs=sum(fate.macs for fate in fates if fate.binary_input is None),
    )


def _is_driven(sites: Sites, node: fx.Node, signals: Mapping[fx.Node, Signal]) -> bool:
    return signals[sites.data_inputs(node)[0]] is Signal.BINARY and not sites.is_recurrent(node)


def _static(sites: Sites) -> set[fx.Node]:
    static: set[fx.Node] = set()
    for node in sites.trace.graph.nodes:
        inputs = sites.data_inputs(node)
        if sites.roles.get(node) is not Role.NEURON and all(source in static for source in inputs):
            static.add(node)
    return static


def _reading_the_image(sites: Sites) -> set[fx.Node]:
    """Return the nodes that no layer with weights is in front of."""
    found: set[fx.Node] = set()
    for node in sites.trace.graph.nodes:
        if not sites.has_weights(node) and all(source in found for source in sites.data_inputs(node)):
            found.add(node)
    return found


def _macs(sites: Sites, node: fx.Node) -> int:
    """Return the multiply-accumulates of one image: output values times the weights that meet in each."""
    shapes = sites.trace.shapes
    operands = [shapes[source] for source in node.all_input_nodes if source in shapes]
    module = sites.module(node)
    if isinstance(module, nn.RNNBase):  # at each step of its sequences, every matrix once
        matrices = (parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)
        return prod(operands[0][:-1]) * sum(matrices) // BATCH
    outputs = prod(shapes[node])
    if module is not None:
        weight = tuple(module.get_parameter("weight").shape)
        outputs = prod(operands[0]) if isinstance(module, _TRANSPOSED) else outputs
        return outputs * prod(weight[1:]) // BATCH
    if node.target is F.scaled_dot_product_attention:
        query, key, value = operands[:3]
        return prod(query[:-1]) * key[-2] * (query[-1] + value[-1]) // BATCH
    if node.target is torch.einsum:
        return _einsum_macs(str(node.args[0]), operands) // BATCH
    if node.target in (F.conv_transpose1d, F.conv_transpose2d):
        return prod(operands[0]) * prod(operands[1][1:]) // BATCH
    if node.target in (F.linear, F.conv1d, F.conv2d, F.conv3d):
        return outputs * prod(operands[1][1:]) // BATCH
    if node.target is torch.baddbmm:
        return outputs * operands[1][-1] // BATCH
    return outputs * operands[0][-1] // BATCH


def _einsum_macs(equation: str, operands: list[tuple[int, ...]]) -> int:
    """Return the product of the sizes of all its letters."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {
        letter: size
        for term, shape in zip(terms, operands, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return prod(sizes.values())
