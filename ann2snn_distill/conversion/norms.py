"""Reading a norm's module and state into a graph under construction."""

from torch import fx, nn

from ann2snn_distill.conversion.emit import RateGraph, TimeGraph
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.neurons.norm import NormState


def norm_module(sites: Sites, node: fx.Node) -> nn.BatchNorm2d:
    """Return the batch norm that `node` calls."""
    module = sites.trace.body.get_submodule(str(node.target))
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return module  # type: ignore[return-value]


def norm_state(graph: TimeGraph | RateGraph, node: fx.Node) -> NormState:
    """Add reads of the parameters and running statistics of the norm that `node` calls."""
    affine = norm_module(graph.sites, node).affine
    names = ("weight", "bias", "running_mean", "running_var")
    read = [graph.attribute(f"{node.target}.{name}") if affine or "run" in name else None for name in names]
    return NormState(*read)  # type: ignore[arg-type]
