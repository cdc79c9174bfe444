"""Limits at infinity, which limit nothing, as finite numbers: what is trained and filed is finite."""

import math

from torch import nn


def finite_limits(network: nn.Module) -> nn.Module:
    """Let every infinite value of a network's buffers be the largest finite one of its sign, in place.

    The clamps of timm's gemma4_vit have such buffers until weights bring others.
    """
    for buffer in network.buffers():
        if buffer.is_floating_point() and not buffer.is_meta and bool(buffer.isinf().any()):
            buffer.nan_to_num_(nan=math.nan)
    return network
