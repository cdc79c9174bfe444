"""How close the student's projected features are to the teacher's, and what student, branches and teacher are worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.losses import cosine
from ann2snn_distill.evaluation.accuracy import hits_of, logits_at
from ann2snn_distill.evaluation.totals import LabelledBatches, exact_float32, totals_over


@dataclass(frozen=True)
class BranchScore:
    """A branch's top-1 (percent) and the mean cosine of C_k(r_k) with the teacher's feature."""

    name: str
    top1: float
    cosine: float


@dataclass(frozen=True)
class HybridScores:
    """Top-1 (percent) of the student by its first t timesteps, of the teacher, and of every branch."""

    top1_at: dict[int, float]
    teacher_top1: float
    branches: tuple[BranchScore, ...]


def hybrid_scores(
    student: SpikingNetwork, branches: HybridBranches, batches: LabelledBatches, timesteps: int
) -> HybridScores:
    """Score student, teacher and branches in one pass, by the running statistics; `top1_at` is that of `accuracy`."""
    names = [position.name for position in branches.positions]

    def measure(x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = branches.teacher.features(x)
        outputs, logits_TBK = student.in_inference.through_time(x, timesteps)
        logits = {f"student {t}": value for t, value in logits_at(logits_TBK).items()}
        logits |= {f"branch {name}": value for name, value in branches(outputs).items()} | {"teacher": features[-1]}
        cosines = feature_cosines(branches, features, outputs)
        return hits_of(logits, labels) | {f"cosine {name}": value.double() * len(x) for name, value in cosines.items()}

    sums, count = totals_over(batches, measure)
    return HybridScores(
        {t: 100.0 * sums[f"student {t}"] / count for t in range(1, timesteps + 1)},
        100.0 * sums["teacher"] / count,
        tuple(
            BranchScore(name, 100.0 * sums[f"branch {name}"] / count, sums[f"cosine {name}"] / count) for name in names
        ),
    )


def cosines_on(student: SpikingNetwork, branches: HybridBranches, x: Tensor, timesteps: int) -> dict[str, float]:
    """Return the cosine of every branch on one batch."""
    with torch.no_grad(), exact_float32():
        outputs = student.in_inference.mean_features(x, timesteps)
        cosines = feature_cosines(branches, branches.teacher.features(x), outputs)
    return {name: float(value) for name, value in cosines.items()}


def feature_cosines(
    branches: HybridBranches, features: Sequence[Tensor], outputs: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return cos(C_k(r_k), A_k) of every branch, means over the batch.

    Args:
        branches: the branches.
        features: the teacher's stage outputs (B, ...).
        outputs: the student's mean stage outputs (B, ...).
    """
    projected = branches.project(outputs)
    return {
        place.name: cosine(feature, features[place.teacher])
        for place, feature in zip(branches.positions, projected, strict=True)
    }
