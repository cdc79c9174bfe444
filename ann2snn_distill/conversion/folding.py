"""The teacher as guidance runs it: norms folded into the convolutions before them, weights in a narrow dtype."""

import copy
from collections import Counter
from dataclasses import replace

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ann2snn_distill.conversion.network import Partitioned, StagedAnn
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.conversion.whole_input import WholeInputConv2d

_PLAIN = (nn.Conv2d, WholeInputConv2d)
"""Others standardise their weights, or pad by themselves."""


def folded(network: Partitioned, *, dtype: torch.dtype) -> StagedAnn:
    """Return a frozen copy of an ANN that computes the same in fewer passes.

    A batch norm is folded if it alone reads one plain convolution, both have one call site, and no cut stands between
    them: w' = w * scale, b' = (b - mean) * scale + shift, computed in the network's own dtype.

    Args:
        network: the ANN; not changed.
        dtype: of the copy's parameters and buffers.
    """
    body = copy.deepcopy(network.body).eval()
    sites = replace(network.sites, trace=replace(network.sites.trace, body=body))
    calls = Counter(node.target for node in sites.trace.graph.nodes if node.op == "call_module")
    ends = {stage.output for stage in network.stages}
    for node, role in sites.roles.items():
        if role is Role.NORM and node.op == "call_module" and calls[node.target] == 1:
            _fold(sites, node, calls, ends)
    result = StagedAnn(Partitioned(sites, network.stages)).to(dtype)
    return result.eval().requires_grad_(False)


def _fold(sites: Sites, node: fx.Node, calls: Counter[object], ends: set[fx.Node]) -> None:
    (source,) = sites.data_inputs(node)
    if source in ends or source.op != "call_module" or calls[source.target] != 1 or len(source.users) != 1:
        return
    body = sites.trace.body
    convolution, norm = body.get_submodule(str(source.target)), body.get_submodule(str(node.target))
    if type(convolution) not in _PLAIN or not isinstance(norm, nn.BatchNorm2d):
        return
    assert isinstance(convolution, nn.Conv2d)
    body.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm))
    identity = nn.Identity()
    for name, child in norm.named_children():  # timm's norms own the dropout and the activation behind them
        identity.add_module(name, child)
    body.set_submodule(str(node.target), identity)
