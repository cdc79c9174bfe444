"""Projections that start as the least-squares fit of the teacher's features from the student's.

Through a random projection the frozen tail sees noise, and its gradient is large: after a short warm-up the early
stages of a student that started from its teacher's weights had lost them, and their branch never recovered
(docs/experiments.md). A fitted one starts near the feature where the student has it, and near its mean where not.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.distillation.branches import HybridBranches, Projection

RIDGE = 1e-3
"""Penalty on a projection's weights, in mean variances of the student's channels: silent ones get none."""

_SILENT = 1e-12
"""Variance of a student none of whose channels fires: its projections give the feature's mean."""


def fit_projections(
    student: SpikingNetwork, branches: HybridBranches, batches: Iterable[Tensor], timesteps: int
) -> None:
    """Set every C_k to the minimiser of sum |C_k(r_k) - A_k|^2 + penalty, with batch statistics as in training.

    Args:
        student: the SNN; its running statistics are as before afterwards.
        branches: whose projections are set.
        batches: normalised images (B, 3, H, W), at least one batch.
        timesteps: T.
    """
    running = {name: buffer.clone() for name, buffer in student.body.named_buffers()}
    fits = [_Fit(projection) for projection in branches.projections if isinstance(projection, Projection)]
    with torch.no_grad():
        for x in batches:
            outputs = student.in_training.mean_features(x, timesteps)
            features = branches.teacher.features(x)
            for fit, position in zip(fits, branches.positions, strict=True):
                fit.add(outputs[position.student], features[position.teacher])
        for fit in fits:
            fit.settle()
        for name, buffer in student.body.named_buffers():
            buffer.copy_(running[name])


class _Fit:
    """The moments of one projection's input x and output y, with a one before them: (1, x, y), in float64."""

    def __init__(self, projection: Projection):
        self._projection = projection
        self._moments: Tensor | None = None

    def add(self, rate: Tensor, feature: Tensor) -> None:
        """Add a batch: the student's rate and the teacher's feature (B, ...)."""
        x_NC, y_NC = self._projection.matched(rate, feature)
        rows = torch.cat([torch.ones_like(x_NC[:, :1]), x_NC, y_NC], 1).double()
        moments = rows.T @ rows
        self._moments = moments if self._moments is None else self._moments + moments

    def settle(self) -> None:
        """Write the solution into the projection."""
        assert self._moments is not None
        moments = (self._moments / self._moments[0, 0]).cpu()
        mean, channels = moments[0, 1:], self._projection.channels
        covariance = moments[1:, 1:] - torch.outer(mean, mean)
        own, shared = covariance[:channels, :channels], covariance[:channels, channels:]
        penalty = RIDGE * own.diagonal().mean().clamp_min(_SILENT)
        weight = torch.linalg.solve(own + penalty * torch.eye(channels, dtype=own.dtype), shared).T
        self._projection.set_map(weight, mean[channels:] - weight @ mean[:channels])
