"""Where branches leave the student and enter the teacher: `--branches` resolved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ann2snn_distill.conversion.cuts import CLASSIFIER_CUT
from ann2snn_distill.conversion.partition import Stage, default_branches
from ann2snn_distill.errors import UsageError

_WORDS = ("auto", "none")

HEAD_BRANCH = "head"
"""Name of M_H: the cut behind the last feature stage, in front of the head."""


@dataclass(frozen=True)
class Position:
    """Where a branch leaves the student and enters the teacher: the indices of the stages in front of its cuts."""

    name: str
    student: int
    teacher: int


def named_cuts(wanted: str) -> tuple[str, ...]:
    """Return the cuts that `--branches` names, at which networks are to be cut: none for auto and none.

    Raises:
        UsageError: auto or none stands beside names, or a name is empty.
    """
    return tuple(name for name in _names(wanted) if name not in (HEAD_BRANCH, CLASSIFIER_CUT))


def choose_positions(
    student: Sequence[Stage], teacher: Sequence[Stage], wanted: str, *, same_network: bool
) -> tuple[Position, ...]:
    """Resolve `--branches`: auto, none, or cut names separated by commas; early to late in the student.

    The student is cut at `named_cuts` before, and so is the teacher if it is the same network. Stages of different
    networks are matched by reduction, and by depth among those of one reduction; auto leaves out cuts without a
    counterpart, if there are others.

    Raises:
        UsageError: a name that is no cut, names beside auto or none, a place named twice, or a cut
            without a counterpart in the teacher.
    """
    cuts, guides = [stage.name for stage in student[:-1]], [stage.name for stage in teacher]
    features = [stage.name for stage in student[:-1] if stage.name != CLASSIFIER_CUT and not stage.named]
    positions = []
    chosen = _names(wanted)
    if wanted.strip() == "auto":
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
    _refuse_twice(positions)
    return tuple(sorted(positions, key=lambda position: position.student))


def _names(wanted: str) -> tuple[str, ...]:
    """Return the names of cuts in `--branches`.

    Raises:
        UsageError: a name is empty, or a word that stands for all of them.
    """
    if wanted.strip() in _WORDS:
        return ()
    names = tuple(part.strip() for part in wanted.split(","))
    for word in _WORDS:
        if word in names:
            raise UsageError(f"--branches {wanted}: {word} stands alone; give {word}, or the names without it")
    if "" in names:
        raise UsageError(f"--branches {wanted!r} has an empty name; separate names by one comma each")
    return names


def _refuse_twice(positions: Sequence[Position]) -> None:
    """See that no two branches leave the student and enter the teacher at the same places, whatever their names.

    Raises:
        UsageError: two do; the second would double the weight of the first.
    """
    names: dict[tuple[int, int], str] = {}
    for position in positions:
        first = names.setdefault((position.student, position.teacher), position.name)
        if first != position.name:
            raise UsageError(
                f"--branches names one place twice, as {first} and as {position.name}; give one of the names"
            )
        if [other.name for other in positions].count(first) > 1:
            raise UsageError(f"--branches names {first} twice; give it once")


def _counterpart(index: int, student: Sequence[Stage], teacher: Sequence[Stage]) -> int:
    """Return the teacher's stage that ends where the student's does: at an equal share of the cuts of its sides."""
    stage = student[index]
    matches = _alike(stage, teacher)
    if not matches:
        raise UsageError(
            f"the teacher has no cut {_likeness(stage)} to match the student's '{stage.name}'; "
            "name other --branches, or give --branches none"
        )
    own = _alike(stage, student)
    return matches[-(-(own.index(index) + 1) * len(matches) // len(own)) - 1]


def _likeness(stage: Stage) -> str:
    if stage.name == CLASSIFIER_CUT:
        return "in front of its last layer"
    if stage.reduction is not None:
        return f"of reduction {stage.reduction}"
    return f"of {math.prod(stage.shape[:-1])} tokens" if len(stage.shape) > 1 else "of features without sides"


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
