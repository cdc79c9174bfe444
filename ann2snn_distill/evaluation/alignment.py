"""How close the student's projected features are to the teacher's, and what its hybrid branches are worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.losses import cosine
from ann2snn_distill.evaluation.accuracy import LabelledBatches, exact_float32, top1_each


@dataclass(frozen=True)
class BranchScore:
    """A branch's top-1 (percent) and the mean cosine of C_k(r_k) with the teacher's feature."""

    name: str
    top1: float
    cosine: float


def branch_scores(
    student: SpikingNetwork, branches: HybridBranches, batches: LabelledBatches, timesteps: int
) -> tuple[BranchScore, ...]:
    """Return the score of every branch, by the running statistics."""
    cosines: dict[str, list[float]] = {position.name: [] for position in branches.positions}

    def predict(x: Tensor) -> dict[str, Tensor]:
        outputs = student.in_inference.mean_features(x, timesteps)
        for name, value in feature_cosines(branches, x, outputs).items():
            cosines[name].append(float(value) * len(x))
        count[0] += len(x)
        logits: dict[str, Tensor] = branches(outputs)
        return logits

    count = [0]
    accuracy = top1_each(predict, batches)
    return tuple(BranchScore(name, accuracy[name], sum(cosines[name]) / count[0]) for name in accuracy)


def cosines_on(student: SpikingNetwork, branches: HybridBranches, x: Tensor, timesteps: int) -> dict[str, float]:
    """Return the cosine of every branch on one batch."""
    with torch.no_grad(), exact_float32():
        outputs = student.in_inference.mean_features(x, timesteps)
        return {name: float(value) for name, value in feature_cosines(branches, x, outputs).items()}


def feature_cosines(branches: HybridBranches, x: Tensor, outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return cos(C_k(r_k), A_k) of every branch, means over the batch."""
    features = branches.teacher.features(x)
    projected = branches.project(outputs)
    return {
        place.name: cosine(feature, features[place.teacher])
        for place, feature in zip(branches.positions, projected, strict=True)
    }
