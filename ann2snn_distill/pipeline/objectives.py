"""From settings to the objective of a training, and to what is measured after each of its epochs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.folding import folded
from ann2snn_distill.conversion.network import StagedAnn
from ann2snn_distill.conversion.student import Programs, SpikingNetwork
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.losses import branch_weights
from ann2snn_distill.distillation.objectives import (
    BpttObjective,
    EveryTimestepObjective,
    HybridObjective,
    Objective,
    RateObjective,
)
from ann2snn_distill.evaluation.alignment import cosines_on, hybrid_scores
from ann2snn_distill.training.fit import EpochMetrics, Execution, Span
from ann2snn_distill.training.state import TrainState


def spans_of(
    settings: ConvertSettings, student: SpikingNetwork, branches: HybridBranches, execution: Execution
) -> tuple[Span, ...]:
    """Return what the epochs of a training go by, in their order; spans without epochs are left out.

    First `settings.quantized_epochs` of the ANN whose activations have the levels of T timesteps, last
    `settings.finish_epochs` with a loss at every timestep, through time, and guided under hybrid.
    """
    assert settings.epochs
    first, last = settings.quantized_epochs, settings.finish_epochs
    programs, guide = _programs(student, execution), _guide(settings, branches, execution)
    spans = []
    if first:
        quantized = student.in_quantized_training(fused=execution.fast)
        spans.append(Span(first, _by_rates(settings, quantized, branches, guide)))
    if settings.epochs > first + last:
        spans.append(Span(settings.epochs - first - last, _by_method(settings, programs, branches, guide)))
    if last:
        spans.append(Span(last, _at_every_timestep(settings, programs, guide)))
    return tuple(spans)


def objective_of(
    settings: ConvertSettings, student: SpikingNetwork, branches: HybridBranches, execution: Execution
) -> Objective:
    """Return the objective of `settings.method`, in the form that is fastest where it runs.

    Compiled or captured on CUDA, norms and sums run inside their neuron's operation, and under autocast guidance comes
    from a folded copy of the teacher in autocast's dtype; everywhere else the plain programs and the teacher itself are
    used.
    """
    return _by_method(settings, _programs(student, execution), branches, _guide(settings, branches, execution))


def _by_method(
    settings: ConvertSettings, programs: Programs, branches: HybridBranches, guide: StagedAnn | None
) -> Objective:
    if settings.method == "bptt":
        return BpttObjective(programs, settings.trained_timesteps)
    return _by_rates(settings, programs, branches, guide)


def _by_rates(
    settings: ConvertSettings, programs: Programs, branches: HybridBranches, guide: StagedAnn | None
) -> Objective:
    if guide is None:
        return RateObjective(programs, settings.trained_timesteps)
    assert settings.alpha is not None  # resolved
    return HybridObjective(
        programs,
        branches,
        guide,
        betas=branch_weights(len(branches.positions), settings.beta),
        timesteps=settings.trained_timesteps,
        alpha=settings.alpha,
        temperature=settings.temperature,
        sampled=settings.sampled_branches,
    )


def _at_every_timestep(settings: ConvertSettings, programs: Programs, guide: StagedAnn | None) -> Objective:
    return EveryTimestepObjective(
        programs,
        guide,
        timesteps=settings.trained_timesteps,
        alpha=settings.alpha or 0.0,  # open without guidance
        temperature=settings.temperature,
    )


def _programs(student: SpikingNetwork, execution: Execution) -> Programs:
    return student.in_training_fused if execution.fast else student.in_training


def _guide(settings: ConvertSettings, branches: HybridBranches, execution: Execution) -> StagedAnn | None:
    """Return the teacher as guidance runs it, None where there is no guidance."""
    if settings.method != "hybrid":
        return None
    if execution.fast and execution.amp:
        return folded(branches.teacher.network, dtype=execution.dtype)
    return branches.teacher


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Held-out data, and how often they are looked at: every so many epochs, and after the last of `epochs`."""

    batches: Iterable[tuple[Tensor, Tensor]]
    interval: int
    epochs: int

    def is_due(self, epoch: int) -> bool:
        """Return whether accuracies are measured after an epoch, counted from 1."""
        return epoch % self.interval == 0 or epoch == self.epochs


def epoch_metrics(
    student: SpikingNetwork,
    branches: HybridBranches,
    state: TrainState,
    *,
    timesteps: int,
    probe: Tensor,
    validation: Validation | None,
) -> EpochMetrics:
    """Return what is measured after an epoch, by the weights that would be evaluated (the average's if it is on).

    Args:
        student: the SNN.
        branches: its branches.
        state: what is trained, the student first.
        timesteps: T.
        probe: normalised images (B, 3, H, W) from the training split, on which the cosine of every cut is taken.
        validation: where accuracies are taken, or None without a validation split.
    """

    def measure(epoch: int) -> dict[str, Any]:
        line: dict[str, Any] = {}
        with state.as_evaluated():
            if branches.positions:
                line["cosine"] = cosines_on(student, branches, probe, timesteps)
            if validation is not None and validation.is_due(epoch):
                scores = hybrid_scores(student, branches, validation.batches, timesteps)
                line["val_top1"] = scores.top1_at[timesteps]
                line["val_top1_at"] = {str(t): accuracy for t, accuracy in scores.top1_at.items()}
                line["val_branches"] = {score.name: score.top1 for score in scores.branches}
        return line

    return measure
