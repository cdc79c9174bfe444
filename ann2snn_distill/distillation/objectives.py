"""What one batch costs, by method: named loss parts, of which "loss" is the one that is differentiated.

Shapes: images (B, 3, H, W), targets (B, K) probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ann2snn_distill.conversion.network import StagedAnn
from ann2snn_distill.conversion.student import Programs
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.losses import cross_entropy, divergence, guided

Parts = dict[str, Tensor]
Objective = Callable[[Tensor, Tensor], Parts]


@dataclass(frozen=True)
class HybridObjective:
    """l(y^S) + sum_k beta_k l(y^{M_k}), l = (1 - alpha) CE + alpha KL, on rates (arXiv 2503.16572).

    Attributes:
        programs: the SNN in training, by rate-based backpropagation.
        branches: projections and frozen tails.
        guide: the teacher as guidance runs it: equal to the branches' own, or faster and narrower.
        betas: weight of each branch.
        timesteps: T.
        alpha: share of guidance.
        temperature: of guidance.
        sampled: whether each image takes one of the branches in place of all.
    """

    programs: Programs
    branches: HybridBranches
    guide: StagedAnn
    betas: tuple[float, ...]
    timesteps: int
    alpha: float
    temperature: float
    sampled: bool = False

    def __call__(self, x: Tensor, target_BK: Tensor) -> Parts:
        """Return the loss parts of a batch."""
        with torch.no_grad():
            teacher_BK = self.guide(x)
        records = self.programs.observe(x, self.timesteps)
        outputs = self.programs.rate(x, self.timesteps, records)
        cross = cross_entropy(outputs[-1], target_BK)
        guidance = divergence(outputs[-1], teacher_BK, self.temperature)
        total = guided(cross, guidance, self.alpha)
        parts = {"student_ce": cross, "student_kl": guidance}
        rows = self.branches.rows(len(x), sampled=self.sampled)
        logits = self.branches(outputs, self.guide, rows)
        for beta, taken, (name, logits_BK) in zip(self.betas, rows, logits.items(), strict=True):
            branch = guided(
                cross_entropy(logits_BK, target_BK[taken]),
                divergence(logits_BK, teacher_BK[taken], self.temperature),
                self.alpha,
            )
            parts[f"branch_{name}"] = branch
            total = total + beta * branch
        return {"loss": total, **parts}


@dataclass(frozen=True)
class RateObjective:
    """Cross entropy of the mean logits, by rate-based backpropagation without guidance (arXiv 2410.11488)."""

    programs: Programs
    timesteps: int

    def __call__(self, x: Tensor, target_BK: Tensor) -> Parts:
        """Return the loss parts of a batch."""
        records = self.programs.observe(x, self.timesteps)
        outputs = self.programs.rate(x, self.timesteps, records)
        return {"loss": cross_entropy(outputs[-1], target_BK)}


@dataclass(frozen=True)
class BpttObjective:
    """Cross entropy of the mean logits, by backpropagation through time."""

    programs: Programs
    timesteps: int

    def __call__(self, x: Tensor, target_BK: Tensor) -> Parts:
        """Return the loss parts of a batch."""
        logits_BK = self.programs.unroll(x, self.timesteps).float().mean(0)
        return {"loss": cross_entropy(logits_BK, target_BK)}


@dataclass(frozen=True)
class EveryTimestepObjective:
    """mean_t l(y^S_t), l = (1 - alpha) CE + alpha KL, by backpropagation through time (CE alone: arXiv 2202.11946).

    Attributes:
        programs: the SNN in training.
        guide: the teacher, or None for cross entropy alone.
        timesteps: T.
        alpha: share of guidance.
        temperature: of guidance.
    """

    programs: Programs
    guide: StagedAnn | None
    timesteps: int
    alpha: float
    temperature: float

    def __call__(self, x: Tensor, target_BK: Tensor) -> Parts:
        """Return the loss parts of a batch."""
        logits_MK = self.programs.unroll(x, self.timesteps).float().flatten(0, 1)  # M = T * B
        cross = cross_entropy(logits_MK, target_BK.repeat(self.timesteps, 1))
        if self.guide is None:
            return {"loss": cross, "student_ce": cross}
        with torch.no_grad():
            teacher_BK = self.guide(x)
        guidance = divergence(logits_MK, teacher_BK.repeat(self.timesteps, 1), self.temperature)
        return {"loss": guided(cross, guidance, self.alpha), "student_ce": cross, "student_kl": guidance}


@dataclass(frozen=True)
class AnnObjective:
    """Cross entropy of a plain ANN, in training mode."""

    network: nn.Module

    def __call__(self, x: Tensor, target_BK: Tensor) -> Parts:
        """Return the loss parts of a batch."""
        return {"loss": cross_entropy(self.network(x), target_BK)}
