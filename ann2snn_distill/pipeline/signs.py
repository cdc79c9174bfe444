"""Signs that a distillation goes wrong, as a user would want to be told (method of arXiv 2503.16572).

The deepest branch having the lowest cosine is none: that is how it is.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from ann2snn_distill.evaluation.alignment import BranchScore

_EPOCHS = 4
"""Fewer epochs have no last quarter to judge."""
_ALIGNED = 0.5
_RISE = 0.01
_KEPT = 0.7
"""Share of its best cosine that a cut keeps: fitted projections begin high, and the student moves on from there."""
_APART = 10.0
"""Points between a branch's accuracy and the student's."""
_AS_GOOD = 1.0
"""Fewer points than that between them: whatever its cosine is, the teacher's tail reads the branch's features."""
_BEYOND = 1.5
"""Measured memory over the estimate, which does not grow with T but for one layer at a time."""
_WORKSPACE_MIB = 1024.0
"""What libraries may take for themselves beyond it, which counts where batches are small."""
_ERRORS = 4.0
"""Standard errors between two accuracies that chance does not explain."""


def failure_signs(
    history: Sequence[Mapping[str, Any]],
    scores: Sequence[BranchScore],
    student_top1: float,
    *,
    peak_mib: float | None,
    estimated_mib: float,
) -> list[str]:
    """Return a sentence for every sign that is seen.

    Args:
        history: the lines of metrics.jsonl.
        scores: of the branches, at the end.
        student_top1: percent.
        peak_mib: measured memory, or None on a CPU.
        estimated_mib: what was expected.
    """
    led = {score.name for score in scores if student_top1 - score.top1 < _AS_GOOD}
    return [*_unaligned(history, led), *_left_behind(scores, student_top1), *_grown(peak_mib, estimated_mib)]


def foreknown(held_out: float, test: float, *, held_out_images: int, test_images: int) -> list[str]:
    """Return a sentence if the teacher is better on held-out images than on test images, as one that has seen them is.

    Args:
        held_out: its accuracy on the images held out from training, percent.
        test: its accuracy on test images, percent.
        held_out_images: how many they are.
        test_images: how many they are.
    """
    mean = (held_out * held_out_images + test * test_images) / (held_out_images + test_images)
    error = (mean * (100 - mean) * (1 / held_out_images + 1 / test_images)) ** 0.5
    if held_out - test <= _ERRORS * error:
        return []
    return [
        f"the teacher has {held_out:.2f} % of the held-out images right and {test:.2f} % of the test's: if "
        "it was trained on them, validation favours students that follow it closely; train one by `snn-distill teach`, "
        "with the same --val-split and --seed"
    ]


def _unaligned(history: Sequence[Mapping[str, Any]], led: Collection[str]) -> Iterator[str]:
    """Yield a sentence for every cut of low cosine, but of `led`: their features give the teacher what it needs."""
    lines = [line["cosine"] for line in history if line.get("cosine")]
    if len(lines) < _EPOCHS:
        return
    quarter = len(lines) // 4
    for name in (cut for cut in lines[0] if cut not in led):
        first, best = lines[0][name], max(line[name] for line in lines)
        last = fmean(line[name] for line in lines[-quarter:])
        falls = last < _KEPT * best
        if falls or (last < first + _RISE and last < _ALIGNED):
            sign = "falls" if falls else "does not rise"
            yield (
                f"the alignment of {name} {sign}: its cosine with the teacher's feature was {first:.2f} after the "
                f"first epoch, {best:.2f} at best, and is {last:.2f}; try --projection-lr 0.1, "
                "a lower --lr, or other --branches"
            )


def _left_behind(scores: Sequence[BranchScore], student_top1: float) -> Iterator[str]:
    for score in scores:
        if student_top1 - score.top1 > _APART:
            yield (
                f"the branch {score.name} is left behind: {score.top1:.2f} %, the student {student_top1:.2f} %; "
                "its guidance may mislead, so try other --branches"
            )


def _grown(peak_mib: float | None, estimated_mib: float) -> Iterator[str]:
    if peak_mib is not None and peak_mib > _BEYOND * estimated_mib + _WORKSPACE_MIB:
        yield (
            f"training took {peak_mib:,.0f} MiB, and {estimated_mib:,.0f} were expected: something kept activations of "
            "every timestep; please report the model and its flags"
        )
