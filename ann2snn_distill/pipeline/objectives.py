"""From settings to the objective of a training, and to what is measured after each of its epochs."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.folding import folded
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.losses import branch_weights
from ann2snn_distill.distillation.objectives import BpttObjective, HybridObjective, Objective, RateObjective
from ann2snn_distill.evaluation.accuracy import top1_at
from ann2snn_distill.evaluation.alignment import branch_scores, cosines_on
from ann2snn_distill.training.fit import EpochMetrics, Execution


def objective_of(
    settings: ConvertSettings, student: SpikingNetwork, branches: HybridBranches, execution: Execution
) -> Objective:
    """Return the objective of `settings.method`, in the form that is fastest where it runs.

    Compiled on CUDA, norms and sums run inside their neuron's operation, and in bfloat16 guidance comes from a folded
    bfloat16 copy of the teacher; everywhere else the plain programs and the teacher itself are used.
    """
    fast = execution.compiled and execution.device.type == "cuda"
    programs = student.in_training_fused if fast else student.in_training
    if settings.method == "bptt":
        return BpttObjective(programs, settings.timesteps)
    if settings.method == "rate":
        return RateObjective(programs, settings.timesteps)
    teacher = branches.teacher
    return HybridObjective(
        programs,
        branches,
        folded(teacher.network, dtype=torch.bfloat16) if fast and execution.amp else teacher,
        betas=branch_weights(len(branches.positions), settings.beta),
        timesteps=settings.timesteps,
        alpha=settings.alpha,
        temperature=settings.temperature,
    )


def epoch_metrics(
    student: SpikingNetwork,
    branches: HybridBranches,
    *,
    timesteps: int,
    probe: Tensor,
    validation: Iterable[tuple[Tensor, Tensor]] | None,
) -> EpochMetrics:
    """Return what is measured after an epoch: cosine of every cut on `probe`, and accuracies on `validation`.

    Args:
        student: the SNN, by its weights of the moment (not the average's).
        branches: its branches.
        timesteps: T.
        probe: normalised images (B, 3, H, W) from the training split.
        validation: labelled batches, or None without a validation split.
    """

    def measure(epoch: int) -> dict[str, Any]:
        del epoch
        line: dict[str, Any] = {}
        if branches.positions:
            line["cosine"] = cosines_on(student, branches, probe, timesteps)
        if validation is not None:
            line["val_top1"] = top1_at(student, validation, timesteps)[timesteps]
            if branches.positions:
                scores = branch_scores(student, branches, validation, timesteps)
                line["val_branches"] = {score.name: score.top1 for score in scores}
        return line

    return measure
