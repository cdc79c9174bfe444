"""Hybrid branches: the student's early stages, a 1x1 projection, and the frozen teacher's later stages.

    M_k = S_0 .. S_k  ->  rate r_k  ->  C_k  ->  A_{k+1} .. A_n  ->  logits y^{M_k}

All branches ride one convoy: branch k joins the batch at teacher stage k+1; the teacher runs in eval mode, so the
logits equal those of separate tails. Source: arXiv 2503.16572.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.network import StagedAnn
from ann2snn_distill.conversion.partition import Stage
from ann2snn_distill.distillation.positions import Position


class Projection(nn.Module):
    """C_k: a 1x1 convolution (a linear layer for features without sides), then the teacher's side if it differs."""

    def __init__(self, student: Stage, teacher: Stage):
        super().__init__()
        self._from_last, self._to_last = student.channels_last, teacher.channels_last
        self.side: tuple[int, int] | None = None
        if student.reduction is None:
            self.map: nn.Linear | nn.Conv2d = nn.Linear(student.channels, teacher.channels)
        else:
            self.map = nn.Conv2d(student.channels, teacher.channels, kernel_size=1)
            rows, columns = teacher.shape[:2] if self._to_last else teacher.shape[1:]
            self.side = (rows, columns)

    def forward(self, rate: Tensor) -> Tensor:
        """Return the projected rate in the shape of the teacher's feature."""
        if self.side is None:
            mapped: Tensor = self.map(rate)
            return mapped
        feature: Tensor = self._resized(self.map(rate.movedim(-1, 1) if self._from_last else rate))
        return feature.movedim(1, -1) if self._to_last else feature

    @property
    def channels(self) -> int:
        """The student's channels."""
        return int(self.map.weight.shape[1])

    def matched(self, rate: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows (N, C) that the map is given and those that it should give.

        The map commutes with the interpolation behind it, so its input is resized here.

        Args:
            rate: of the student (B, ...).
            feature: of the teacher (B, ...).
        """
        if self.side is not None:
            rate = self._resized(rate.movedim(-1, 1) if self._from_last else rate).movedim(1, -1)
            feature = feature if self._to_last else feature.movedim(1, -1)
        return rate.flatten(0, -2), feature.flatten(0, -2)

    def set_map(self, weight: Tensor, bias: Tensor) -> None:
        """Write a weight (teacher's channels, student's channels) and a bias (teacher's channels,)."""
        with torch.no_grad():
            self.map.weight.copy_(weight.view_as(self.map.weight))
            assert self.map.bias is not None
            self.map.bias.copy_(bias)

    def _resized(self, feature: Tensor) -> Tensor:
        if self.side is None or tuple(feature.shape[2:]) == self.side:
            return feature
        return F.interpolate(feature, size=self.side, mode="bilinear", antialias=False)


class HybridBranches(nn.Module):
    """The branches of a student and a teacher; its parameters are the projections, the teacher's are frozen.

    Attributes:
        positions: the branches, early to late.
    """

    def __init__(self, student: Sequence[Stage], teacher: StagedAnn, positions: Sequence[Position]):
        super().__init__()
        self.positions = tuple(sorted(positions, key=lambda position: position.teacher))
        self._teacher = (freeze(teacher),)
        self.projections = nn.ModuleList(
            Projection(student[position.student], teacher.stages[position.teacher]) for position in self.positions
        )

    @property
    def teacher(self) -> StagedAnn:
        """The frozen ANN."""
        return self._teacher[0]

    def rows(self, batch: int, *, sampled: bool) -> tuple[slice, ...]:
        """Return which images of a batch each branch takes.

        All of them; or, `sampled`, consecutive equal parts, so that each image takes one branch. Images come shuffled,
        so the mean over a part estimates that over the batch without bias. Fewer images than branches are not parted.
        """
        count = len(self.positions)
        if not sampled or batch < count:
            return (slice(0, batch),) * count
        ends = [batch * index // count for index in range(count + 1)]
        return tuple(slice(start, end) for start, end in pairwise(ends))

    def project(self, outputs: Sequence[Tensor], rows: Sequence[slice] | None = None) -> list[Tensor]:
        """Return C_k(r_k) of every branch for the student's stage outputs (B, ...), of its `rows` (default: all)."""
        rows = rows or self.rows(len(outputs[0]), sampled=False)
        return [
            projection(outputs[position.student][taken])
            for projection, position, taken in zip(self.projections, self.positions, rows, strict=True)
        ]

    def forward(
        self, outputs: Sequence[Tensor], guide: StagedAnn | None = None, rows: Sequence[slice] | None = None
    ) -> dict[str, Tensor]:
        """Return the logits of every branch by name, through the tails of `guide` (default: the teacher).

        Args:
            outputs: the student's stage outputs (B, ...).
            guide: a staged ANN equal to the teacher.
            rows: the images that each branch takes, as `rows` gives them (default: all).
        """
        if not self.positions:
            return {}
        entries = [place.teacher for place in self.positions]
        logits = convoy(guide or self.teacher, self.project(outputs, rows), entries)
        return dict(zip((place.name for place in self.positions), logits, strict=True))


def convoy(teacher: StagedAnn, features: Sequence[Tensor], entries: Sequence[int]) -> tuple[Tensor, ...]:
    """Run the tails of several branches as one batch.

    Args:
        teacher: the staged ANN, in eval mode.
        features: one tensor (B_k, ...) a branch, in the order of `entries`.
        entries: ascending stage indices; a feature stands for the output of that stage.

    Returns:
        The logits (B_k, K) of each branch.
    """
    travelling: Tensor | None = None
    waiting = list(zip(entries, features, strict=True))
    for index in range(entries[0], len(teacher.stages)):
        if travelling is not None:
            travelling = teacher.run_stage(index, travelling)
        joining = [feature for entry, feature in waiting if entry == index]
        if joining:
            travelling = torch.cat([*([] if travelling is None else [travelling]), *joining])
    assert travelling is not None
    return torch.split(travelling, [len(feature) for feature in features])


def freeze(teacher: StagedAnn) -> StagedAnn:
    """Put the teacher in eval mode and stop its gradients, for good."""
    return teacher.eval().requires_grad_(False)
