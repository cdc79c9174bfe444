"""Signs of a distillation that goes wrong: each is told when it is there, and only then."""

import pytest

from ann2snn_distill.evaluation.alignment import BranchScore
from ann2snn_distill.pipeline.signs import failure_signs, foreknown


def lines(**cosines):
    """Lines of metrics.jsonl with these cosines, one an epoch."""
    epochs = zip(*cosines.values(), strict=True)
    return [{"epoch": n, "cosine": dict(zip(cosines, values, strict=True))} for n, values in enumerate(epochs, 1)]


def signs(history=(), scores=(), top1=90.0, *, peak=None, estimate=1000.0):
    return failure_signs(history, scores, top1, peak_mib=peak, estimated_mib=estimate)


def test_a_healthy_run_has_no_sign():
    rising = lines(layer1=[0.5, 0.8, 0.95, 0.97], layer3=[0.2, 0.25, 0.3, 0.35])  # the deepest the lowest: normal
    scores = [BranchScore("layer1", 91.0, 0.97), BranchScore("layer3", 80.5, 0.35)]
    assert signs(rising, scores, peak=1400.0) == []


@pytest.mark.parametrize(
    ("cosine", "sign", "figures"),
    [
        ([0.4, 0.4, 0.4, 0.4], "does not rise", "was 0.40 after the first epoch, 0.40 at best, and is 0.40"),
        ([0.5, 0.6, 0.7, 0.48], "falls", "was 0.50 after the first epoch, 0.70 at best, and is 0.48"),
        ([0.9, 0.9, 0.9, 0.6], "falls", "0.90 at best, and is 0.60"),
    ],
)
def test_a_cut_whose_alignment_does_not_rise_or_falls_is_named_with_its_figures(cosine, sign, figures):
    (told,) = signs(lines(layer1=[0.5, 0.6, 0.7, 0.8], layer2=cosine))
    assert f"the alignment of layer2 {sign}" in told
    assert figures in told
    assert "try --projection-lr 0.1, a lower --lr, or other --branches" in told


def test_the_end_is_the_mean_of_the_last_quarter():
    one_low_epoch = [0.1, 0.5, 0.7, 0.7, 0.7, 0.7, 0.7, 0.55]
    assert signs(lines(layer1=one_low_epoch)) == []


def test_what_is_aligned_need_not_rise_and_few_epochs_say_nothing():
    assert signs(lines(layer1=[0.75, 0.76, 0.74, 0.74])) == []  # found early, and kept
    assert signs(lines(layer3=[0.69, 0.64, 0.53, 0.52])) == []  # fitted before the first step
    assert signs(lines(layer1=[0.5, 0.4, 0.3])) == []
    assert signs([{"epoch": n, "loss": 1.0} for n in range(8)]) == []


def test_a_branch_that_classifies_as_the_student_does_is_not_called_unaligned():
    flat = lines(layer3=[0.48, 0.46, 0.45, 0.45])
    assert signs(flat, [BranchScore("layer3", 89.1, 0.45)]) == []
    (told,) = signs(flat, [BranchScore("layer3", 88.9, 0.45)])
    assert "the alignment of layer3 does not rise" in told


def test_a_branch_far_below_the_student_is_told_and_one_above_is_not():
    (told,) = signs(scores=[BranchScore("layer1", 79.9, 0.9), BranchScore("layer2", 99.0, 0.9)])
    assert "the branch layer1 is left behind: 79.90 %, the student 90.00 %" in told


def test_memory_beyond_the_estimate_is_told():
    (told,) = signs(peak=7100.0, estimate=4000.0)
    assert "training took 7,100 MiB, and 4,000 were expected" in told
    assert signs(peak=6900.0, estimate=4000.0) == signs(peak=None) == []
    assert signs(peak=1494.0, estimate=557.0) == []  # resnet18 in batches of 32 at 32 px, on an H200


@pytest.mark.parametrize(
    ("held_out", "test", "images", "seen"),
    [
        (99.7, 96.6, 10_000, True),
        (97.1, 96.6, 10_000, False),  # two standard errors: chance
        (99.0, 96.0, 200, False),  # so few images tell nothing
        (90.0, 96.6, 10_000, False),  # harder images are no sign
        (100.0, 100.0, 36, False),
        (0.0, 0.0, 36, False),
    ],
)
def test_a_teacher_that_has_seen_the_held_out_images_is_told(held_out, test, images, seen):
    told = foreknown(held_out, test, held_out_images=images, test_images=10_000)
    assert bool(told) is seen
    if seen:
        assert f"{held_out:.2f} % of the held-out images right and {test:.2f} % of the test's" in told[0]
