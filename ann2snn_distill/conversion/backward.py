"""Which synapses PyTorch differentiates with the help of their input's value."""

import operator

import torch
from timm.layers import BlurPool2d
from torch import fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.sites import Sites

_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, BlurPool2d)
_POOL_FUNCTIONS = (F.avg_pool2d, F.adaptive_avg_pool2d)
_SCALINGS = (
    operator.mul, operator.matmul, operator.truediv, torch.mul, torch.matmul, torch.div, torch.bmm, torch.einsum,
    torch.addcmul, "mul", "matmul", "div", "bmm", "addcmul",
)  # fmt: skip


def needs_input_value(sites: Sites, node: fx.Node) -> bool:
    """Return whether PyTorch's backward of a synapse takes its input: for weights, and a pool's for its shape."""
    if node.op == "call_module":
        module = sites.trace.body.get_submodule(str(node.target))
        return isinstance(module, _POOLS) or any(True for _ in module.parameters())
    return sites.is_weighted(node) or node.target in (*_SCALINGS, *_POOL_FUNCTIONS)
