"""A network's running statistics computed anew, as torch.optim.swa_utils.update_bn does with a cumulative average.

Weights that were averaged need it: statistics that were averaged beside them are those of other networks, whose
spikes, and so whose currents, are not the averaged network's (for ANNs: Izmailov et al. 2018, arXiv:1803.05407).
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from ann2snn_distill.conversion.norms import norm_module
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.conversion.student import SpikingNetwork


def statistics_over(student: SpikingNetwork, batches: Iterable[Tensor], timesteps: int) -> dict[str, Tensor]:
    """Return every norm's running mean and variance (C,) by name: means over the batches, which count alike.

    Each batch passes as in training, normalised by itself; variances are unbiased, as the running ones are.

    Args:
        student: the SNN; its own running statistics are overwritten.
        batches: normalised images (B, 3, H, W), at least one batch.
        timesteps: T.
    """
    shares = _shares(student.network.sites)
    running = {name: student.body.get_buffer(name) for name in shares}
    sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in running.items()}
    count = 0
    with torch.no_grad():
        for x in batches:
            count += 1
            for tensor in running.values():
                tensor.zero_()
            student.in_training.unroll(x, timesteps)
            for name, tensor in running.items():
                sums[name] += tensor / shares[name]
    return {name: (sums[name] / count).to(tensor.dtype) for name, tensor in running.items()}


def _shares(sites: Sites) -> dict[str, float]:
    """Return, of every running statistic, the share that one batch has after it: 1 - (1 - momentum)^calls."""
    norms = [node for node, role in sites.roles.items() if role is Role.NORM]
    calls = Counter(str(node.target) for node in norms)
    momenta = {str(node.target): norm_module(sites, node).momentum or 0.0 for node in norms}
    return {
        f"{path}.{statistic}": 1 - (1 - momentum) ** calls[path]
        for path, momentum in momenta.items()
        if momentum  # 0: they never move, in training neither
        for statistic in ("running_mean", "running_var")
    }
