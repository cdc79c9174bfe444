"""Hybrid branches: the student's early stages, a 1x1 projection, and the frozen teacher's later stages.

    M_k = S_0 .. S_k  ->  rate r_k  ->  C_k  ->  A_{k+1} .. A_n  ->  logits y^{M_k}

All branches ride one convoy: branch k joins the batch at teacher stage k+1; the teacher runs in eval mode, so the
logits equal those of separate tails. Source: arXiv 2503.16572.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.cuts import CLASSIFIER_CUT
from ann2snn_distill.conversion.network import StagedAnn
from ann2snn_distill.conversion.partition import Stage, default_branches
from ann2snn_distill.errors import UsageError

HEAD_BRANCH = "head"
"""Name of M_H: the cut behind the last feature stage, in front of the head."""


@dataclass(frozen=True)
class Position:
    """Where a branch leaves the student and enters the teacher: the indices of the stages in front of its cuts."""

    name: str
    student: int
    teacher: int


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


def named_cuts(wanted: str) -> tuple[str, ...]:
    """Return the cuts that `--branches` names, at which networks are to be cut: none for auto and none."""
    return tuple(name for name in _names(wanted) if name not in (HEAD_BRANCH, CLASSIFIER_CUT))


def choose_positions(
    student: Sequence[Stage], teacher: Sequence[Stage], wanted: str, *, same_network: bool
) -> tuple[Position, ...]:
    """Resolve `--branches`: auto, none, or cut names separated by commas; early to late in the student.

    The student is cut at `named_cuts` before, and so is the teacher if it is the same network. Stages of different
    networks are matched by reduction, and by depth among those of one reduction; auto leaves out cuts without a
    counterpart, if there are others.

    Raises:
        UsageError: a name that is no cut, or a cut without a counterpart in the teacher.
    """
    cuts, guides = [stage.name for stage in student[:-1]], [stage.name for stage in teacher]
    features = [stage.name for stage in student[:-1] if stage.name != CLASSIFIER_CUT and not stage.named]
    positions = []
    chosen = _names(wanted)
    if wanted == "auto":
        defaults = default_branches(student)
        matched = [name for name in defaults if same_network or _alike(student[cuts.index(name)], teacher)]
        chosen = tuple(matched or defaults)
    for name in chosen:
        cut = features[-1] if name == HEAD_BRANCH and features else name
        if cut not in cuts:
            raise UsageError(f"no cut is named '{name}'; this student has {', '.join([*cuts, HEAD_BRANCH])}")
        index = cuts.index(cut)
        counterpart = guides.index(cut) if same_network else _counterpart(index, student, teacher)
        positions.append(Position(name, index, counterpart))
    return tuple(sorted(positions, key=lambda position: position.student))


def _names(wanted: str) -> tuple[str, ...]:
    return () if wanted in ("auto", "none") else tuple(part.strip() for part in wanted.split(","))


def freeze(teacher: StagedAnn) -> StagedAnn:
    """Put the teacher in eval mode and stop its gradients, for good."""
    return teacher.eval().requires_grad_(False)


def _counterpart(index: int, student: Sequence[Stage], teacher: Sequence[Stage]) -> int:
    """Return the teacher's stage that ends where the student's does: at an equal share of the cuts of its sides."""
    stage = student[index]
    matches = _alike(stage, teacher)
    if not matches:
        raise UsageError(
            f"the teacher has no cut of reduction {stage.reduction} to match the student's '{stage.name}'; "
            "name other --branches, or give --branches none"
        )
    own = _alike(stage, student)
    return matches[-(-(own.index(index) + 1) * len(matches) // len(own)) - 1]


def _alike(stage: Stage, others: Sequence[Stage]) -> list[int]:
    """Return the indices of the cuts with the sides of `stage`; of features without sides, with as many tokens."""
    if stage.name == CLASSIFIER_CUT:
        return [index for index, other in enumerate(others) if other.name == CLASSIFIER_CUT]
    return [
        index
        for index, other in enumerate(others[:-1])
        if other.name != CLASSIFIER_CUT
        and other.reduction == stage.reduction
        and (stage.reduction is not None or other.shape[:-1] == stage.shape[:-1])
    ]
