"""How close the student's projected features are to the teacher's, and what its hybrid branches are worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.losses import cosine
from ann2snn_distill.evaluation.accuracy import hits_of
from ann2snn_distill.evaluation.totals import LabelledBatches, exact_float32, totals_over


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
    if not branches.positions:
        return ()

    def measure(x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = student.in_inference.mean_features(x, timesteps)
        hits = hits_of(branches(outputs), labels)
        cosines = feature_cosines(branches, x, outputs)
        return {f"hits {name}": value for name, value in hits.items()} | {
            f"cosine {name}": value.double() * len(x) for name, value in cosines.items()
        }

    sums, count = totals_over(batches, measure)
    names = [position.name for position in branches.positions]
    return tuple(
        BranchScore(name, 100.0 * sums[f"hits {name}"] / count, sums[f"cosine {name}"] / count) for name in names
    )


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
