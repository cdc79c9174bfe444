"""Objectives: the loss is the sum of its parts, and a training step moves the student and nothing of the teacher."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.losses import branch_weights
from ann2snn_distill.distillation.objectives import (
    AnnObjective,
    BpttObjective,
    EveryTimestepObjective,
    HybridObjective,
    RateObjective,
)
from ann2snn_distill.distillation.positions import choose_positions
from ann2snn_distill.training.state import train_state
from ann2snn_distill.training.step import LossTotals, plain_step

T = 3


@pytest.fixture
def hybrid(ann, snn):
    """A hybrid objective of alpha 0.3 and temperature 2, with all default branches."""
    student, teacher = snn("test_resnet"), ann("test_resnet")
    places = choose_positions(student.stages, teacher.stages, "auto", same_network=True)
    torch.manual_seed(0)
    branches = HybridBranches(student.stages, teacher, places).double()
    weights = branch_weights(len(places), "decay")
    return HybridObjective(
        student.in_training, branches, branches.teacher, weights, timesteps=T, alpha=0.3, temperature=2.0
    )


def definition(logits, target, teacher, alpha=0.3, temperature=2.0):
    """(1 - alpha) CE + alpha KL, from log-probabilities."""
    cross = -(target * logits.log_softmax(1)).sum(1).mean()
    p, q = (teacher / temperature).softmax(1), (logits / temperature).softmax(1)
    return cross, temperature**2 * (p * (p / q).log()).sum(1).mean(), alpha


def test_hybrid_loss_is_the_weighted_sum_of_its_parts(hybrid, model, batch):
    x, target = batch
    parts = hybrid(x, target)
    with torch.no_grad():
        teacher = model("test_resnet", 0)(x)
        programs = hybrid.programs
        outputs = programs.rate(x, T, programs.observe(x, T))
        cross, divergence, alpha = definition(outputs[-1], target, teacher)
        total = (1 - alpha) * cross + alpha * divergence
        places, projections = hybrid.branches.positions, hybrid.branches.projections
        assert len(places) == 3
        for beta, place, projection in zip((1 / 7, 2 / 7, 4 / 7), places, projections, strict=True):
            logits = projection(outputs[place.student])
            for index in range(place.teacher + 1, len(hybrid.branches.teacher.stages)):
                logits = hybrid.branches.teacher.run_stage(index, logits)
            branch_cross, branch_divergence, _ = definition(logits, target, teacher)
            branch = (1 - alpha) * branch_cross + alpha * branch_divergence
            torch.testing.assert_close(parts[f"branch_{place.name}"].double(), branch, rtol=1e-5, atol=1e-6)
            total = total + beta * branch
    torch.testing.assert_close(parts["student_ce"].double(), cross, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts["student_kl"].double(), divergence, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts["loss"].double(), total, rtol=1e-5, atol=1e-6)


def test_sampled_branches_are_on_average_all_of_them_in_loss_and_gradient(hybrid, batch):
    """Over every place that the images can take in a batch of six, one branch having two of them."""
    x, target = (torch.cat([part, part[:2] + 0.1])[:6] for part in batch)
    target = target / target.sum(1, keepdim=True)
    sampled = replace(hybrid, sampled=True)
    weights = [*hybrid.branches.projections.parameters(), *hybrid.programs.body.parameters()]

    def found(objective, order):
        parts = objective(x[order], target[order])
        gradients = torch.autograd.grad(parts["loss"], weights)
        return {name: value.detach() for name, value in parts.items()}, gradients

    wanted, gradients = found(hybrid, torch.arange(6))
    rotations = [found(sampled, torch.arange(6).roll(shift)) for shift in range(0, 6, 2)]
    assert any(parts["branch_layer1"] != wanted["branch_layer1"] for parts, _ in rotations)
    for name, value in wanted.items():
        mean = torch.stack([parts[name] for parts, _ in rotations]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6)
    for index, gradient in enumerate(gradients):
        mean = torch.stack([parts[index] for _, parts in rotations]).mean(0)
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("batch_size", "sampled", "ends"),
    [
        (8, False, [(0, 8)] * 3),
        (8, True, [(0, 2), (2, 5), (5, 8)]),
        (3, True, [(0, 1), (1, 2), (2, 3)]),
        (2, True, [(0, 2)] * 3),
    ],
)
def test_each_image_takes_one_branch_if_sampled_and_there_are_enough(hybrid, batch_size, sampled, ends):
    rows = hybrid.branches.rows(batch_size, sampled=sampled)
    assert [(taken.start, taken.stop) for taken in rows] == ends


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_a_training_step_moves_every_weight_and_nothing_of_the_teacher(hybrid, batch, opt):
    state = train_state({"student": hybrid.programs.body, "branches": hybrid.branches}, opt=opt, weight_decay=0.0)
    state.set_learning_rate(0.01)
    teacher = hybrid.branches.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    old = {name: value.clone() for name, value in state.tensors().items()}
    step = plain_step(hybrid, state, LossTotals(torch.device("cpu")), amp=False, device=torch.device("cpu"))
    for _ in range(2):
        step(*batch)
    assert len(before) > 50
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    weights = [name for name in old if name.split(".")[-1] in ("weight", "bias") and not name.startswith("optimizer")]
    stuck = [name for name in weights if torch.equal(state.tensors()[name], old[name])]
    assert len(weights) > 50
    assert stuck == []


def test_the_teacher_gives_no_gradient_to_its_own_answer(hybrid, batch):
    """Guidance at the teacher's own logits only: the loss does not differentiate the target of the KL."""
    parts = hybrid(*batch)
    gradients = torch.autograd.grad(parts["student_kl"], list(hybrid.programs.body.parameters()), allow_unused=True)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_branches_send_their_gradient_into_the_students_early_stages_only(hybrid, batch):
    parts = hybrid(*batch)
    named = dict(hybrid.programs.body.named_parameters())
    gradients = torch.autograd.grad(parts["branch_layer1"], list(named.values()), allow_unused=True)
    touched = {
        name.split(".")[0]
        for name, gradient in zip(named, gradients, strict=True)
        if gradient is not None and gradient.any()  # the convoy sends zeros to the others
    }
    assert touched == {"conv1", "bn1", "layer1"}


def test_rate_and_bptt_objectives_agree_on_the_loss_and_at_one_timestep_on_the_gradient(snn, batch):
    student = snn("test_resnet")
    parameters = list(student.body.parameters())
    for timesteps in (1, T):
        losses = [kind(student.in_training, timesteps)(*batch)["loss"] for kind in (RateObjective, BpttObjective)]
        torch.testing.assert_close(*losses)
    found, wanted = (
        torch.autograd.grad(kind(student.in_training, 1)(*batch)["loss"], parameters)
        for kind in (RateObjective, BpttObjective)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("with_guide", [True, False])
def test_the_loss_at_every_timestep_is_the_mean_of_those_of_each(snn, ann, model, batch, with_guide):
    x, target = batch
    student, teacher = snn("test_resnet"), ann("test_resnet")
    objective = EveryTimestepObjective(
        student.in_training, teacher if with_guide else None, timesteps=T, alpha=0.3, temperature=2.0
    )
    parts = objective(x, target)
    logits_TBK = student.in_training.unroll(x, T)
    assert logits_TBK.shape == (T, 4, 10)
    with torch.no_grad():
        taught = model("test_resnet", 0)(x)
    each = [definition(logits, target, taught) for logits in logits_TBK]
    cross, guidance = (sum(part[i] for part in each) / T for i in (0, 1))
    expected = 0.7 * cross + 0.3 * guidance if with_guide else cross
    torch.testing.assert_close(parts["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    weights = list(student.body.parameters())
    found, wanted = (torch.autograd.grad(loss, weights) for loss in (parts["loss"], expected))
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-9


def test_ann_objective_is_the_cross_entropy_in_training_mode(model, batch):
    network = model("test_resnet", 3)
    x, target = batch
    expected = F.cross_entropy(network(x), target.argmax(1))
    torch.testing.assert_close(AnnObjective(network)(x, target)["loss"].double(), expected, rtol=1e-5, atol=1e-6)
