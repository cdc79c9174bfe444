"""The rate program's value is the spike program's mean, not at the logits only: there the records answer."""

import pytest
import torch
from plain_snn import plain_snn
from rate_inputs import rate_values, site_errors
from small_networks import NETWORKS, images, labels, spiking, spiking_form
from torch import fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.neurons.equations import IF, LIF
from ann2snn_distill.neurons.norm import observe_norm_eval, observe_norm_train
from ann2snn_distill.neurons.rate import neuron_rate, norm_train_rate
from ann2snn_distill.neurons.temporal import observe_neuron

T = 4


@pytest.fixture(scope="module", params=NETWORKS)
def student(request):
    """Its slope is wide and so half as steep: gradients of 145 neurons in a row stay within ten powers of ten."""
    return spiking(request.param, neuron=LIF._replace(surrogate_width=2.0))


def programs_of(student, training):
    return student.in_training if training else student.in_inference


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_rates_are_the_spikes_means_at_every_call_site(student, training):
    x = images()
    plain, logits_TBK = plain_snn(student, torch.cat([x] * T), T, training=training)
    records = programs_of(student, training).observe(x, T)
    found, rate_BK = rate_values(student, x, records, training=training)
    errors = site_errors(found, plain)

    roles = roles_by_name(student.network.sites.roles)
    assert set(errors) == {name for name, role in roles.items() if role is not Role.SHAPE}
    assert max(errors.values()) < 1e-10
    torch.testing.assert_close(rate_BK, logits_TBK.mean(0), rtol=1e-10, atol=1e-12)
    assert_nothing_silent(student, plain)


@torch.no_grad()
def test_running_statistics_move_once_by_the_folded_batch(student):
    x = images(seed=1)
    plain, _ = plain_snn(student, torch.cat([x] * T), T, training=True)
    student.in_training.observe(x, T)
    assert plain.statistics
    for path, (mean, var) in plain.statistics.items():
        norm = student.body.get_submodule(path)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-10, atol=1e-12)


def test_gradients_at_one_timestep_are_bptts(student):
    assert_bptts_at_one_timestep(student, images(seed=2))


def test_unrolled_program_is_the_plain_snn_with_its_gradients(student):
    x, target = images(seed=3), labels()
    parameters = dict(student.body.named_parameters())
    _, expected_TBK = plain_snn(student, torch.cat([x] * 2), 2, training=True)
    logits_TBK = student.in_training.unroll(x, 2)
    torch.testing.assert_close(logits_TBK, expected_TBK, rtol=1e-10, atol=1e-12)
    wanted = torch.autograd.grad(F.cross_entropy(expected_TBK.mean(0), target), list(parameters.values()))
    found = torch.autograd.grad(F.cross_entropy(logits_TBK.mean(0), target), list(parameters.values()))
    assert_gradients_equal(parameters, found, wanted)


@torch.no_grad()
@pytest.mark.parametrize("neuron", [IF, LIF._replace(reset="hard"), LIF._replace(reset="soft")])
def test_every_neuron_model_keeps_the_law(neuron):
    student, x = spiking("densenet121", {"block_config": (2, 2)}, neuron=neuron, threshold=0.8), images()
    plain, _ = plain_snn(student, torch.cat([x] * T), T, training=True)
    found, _ = rate_values(student, x, student.in_training.observe(x, T), training=True)
    assert max(site_errors(found, plain).values()) < 1e-10


class Analog(nn.Module):
    """Maxima and products that no convolution follows, so that nothing but their own record answers for them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(6) for _ in range(3))
        self.scale = nn.Parameter(torch.rand(6, 1, 1) + 0.5)
        self.act, self.pool, self.fc = nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Linear(6, 10)

    def forward(self, x):
        a = self.act(self.norm1(self.first(x)))
        b = self.act(self.norm2(self.second(a)))
        mixed = self.pool(a) + self.scale * self.third(b) * self.second(a)
        c = self.act(self.norm3(mixed + b * b))
        return self.fc((self.pool(c) / 2 + a).mean((2, 3)))


def analog_student():
    torch.manual_seed(0)
    return spiking_form(Analog().double().eval(), neuron=LIF._replace(surrogate_width=2.0))


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_every_operation_that_does_not_commute_with_the_mean_answers_from_its_own_record(training):
    student, x = analog_student(), images()
    plain, logits_TBK = plain_snn(student, torch.cat([x] * T), T, training=training)
    found, rate_BK = rate_values(student, x, programs_of(student, training).observe(x, T), training=training)
    roles = list(student.network.sites.roles.values())
    assert roles.count(Role.ANALOG) == 4
    assert max(site_errors(found, plain).values()) < 1e-10
    torch.testing.assert_close(rate_BK, logits_TBK.mean(0), rtol=1e-10, atol=1e-12)


def test_analog_gradients_at_one_timestep_are_bptts():
    assert_bptts_at_one_timestep(analog_student(), images())


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_050"])
def test_rates_are_the_spike_programs_means_in_float32(name, training):
    """Compared with the program's own spikes: in float32 another implementation's spikes may flip."""
    student, x = spiking(name, dtype=torch.float32), images(dtype=torch.float32)
    programs = programs_of(student, training)
    means, records, travelling = [], [], x
    for pair in programs.pairs:
        run = SpikeInputs(student, pair.observe)
        travelling, recorded = run.run(travelling, T)
        means += run.means
        records.append(recorded)
    found, _ = rate_values(student, x, tuple(records), training=training)
    roles = roles_by_name(student.network.sites.roles)
    inputs = [value for key, value in found.items() if roles[key] in (Role.NEURON, Role.NORM)]
    assert len(inputs) == len(means) > 20
    for value, mean in zip(inputs, means, strict=True):
        assert value.dtype is torch.float32
        assert (value - mean).abs().max() < 1e-5 * mean.abs().max()


class SpikeInputs(fx.Interpreter):
    """Runs a stage's spike graph and keeps the mean over time of what each norm and neuron is given."""

    def __init__(self, student, program):
        super().__init__(student.body, graph=program.graph)
        self.means = []

    def call_function(self, target, args, kwargs):
        if target in (observe_neuron, observe_norm_train, observe_norm_eval):
            x = args[0]
            self.means.append(x if kwargs["static"] else x.unflatten(0, (T, -1)).mean(0))
        return super().call_function(target, args, kwargs)


@torch.no_grad()
def test_the_check_fails_on_swapped_records():
    student, x = spiking("test_resnet"), images()
    plain, _ = plain_snn(student, torch.cat([x] * T), T, training=True)
    records = [list(recorded) for recorded in student.in_training.observe(x, T)]
    swapped = 0
    for recorded in records:
        for first in range(len(recorded)):
            twins = [
                other for other in range(first + 1, len(recorded)) if recorded[other].shape == recorded[first].shape
            ]
            if twins and not swapped:
                recorded[first], recorded[twins[0]] = recorded[twins[0]], recorded[first]
                swapped += 1
    found, _ = rate_values(student, x, records, training=True)
    assert swapped
    assert max(site_errors(found, plain).values()) > 0.01


@torch.no_grad()
def test_the_check_sees_what_the_logits_do_not():
    """Batch norm by the rates' own statistics: the last neuron answers from its record, so the logits stay."""

    def by_own_statistics(x, state, record):
        return F.batch_norm(x, None, None, state.weight, state.bias, training=True)

    student, x = spiking("resnet18"), images()
    plain, logits_TBK = plain_snn(student, torch.cat([x] * T), T, training=True)
    records = student.in_training.observe(x, T)
    found, rate_BK = rate_values(student, x, records, training=True, replaced={norm_train_rate: by_own_statistics})
    torch.testing.assert_close(rate_BK, logits_TBK.mean(0), rtol=1e-10, atol=1e-12)
    assert max(site_errors(found, plain).values()) > 0.1


def test_the_gradient_check_sees_a_wrong_gain():
    student, x = spiking("test_resnet"), images()
    records = [list(recorded) for recorded in student.in_training.observe(x, 1)]

    def wrong(x, value, slope):
        return neuron_rate(x, value, 1.01 * slope)

    parameters = dict(student.body.named_parameters())
    _, logits_TBK = plain_snn(student, x, 1, training=True)
    wanted = torch.autograd.grad(F.cross_entropy(logits_TBK.mean(0), labels()), list(parameters.values()))
    _, rate_BK = rate_values(student, x, records, training=True, replaced={neuron_rate: wrong})
    found = torch.autograd.grad(F.cross_entropy(rate_BK, labels()), list(parameters.values()))
    with pytest.raises(AssertionError):
        assert_gradients_equal(parameters, found, wanted)


def roles_by_name(roles):
    return {node.name: role for node, role in roles.items()}


def assert_nothing_silent(student, plain):
    for name in student.thresholds:
        share = (plain.values[name] != 0).double().mean()
        assert 0.02 < share < 0.98, name


def assert_bptts_at_one_timestep(student, x):
    parameters, target = dict(student.body.named_parameters()), labels()
    _, logits_TBK = plain_snn(student, x, 1, training=True)
    wanted = torch.autograd.grad(F.cross_entropy(logits_TBK.mean(0), target), list(parameters.values()))
    rates = student.in_training.rate(x, 1, student.in_training.observe(x, 1))
    found = torch.autograd.grad(F.cross_entropy(rates[-1], target), list(parameters.values()))
    assert_gradients_equal(parameters, found, wanted)


def assert_gradients_equal(parameters, found, wanted):
    """Relative to each gradient's norm; a bias that a norm takes away again has none but rounding."""
    total = torch.stack([gradient.norm() for gradient in wanted]).norm()
    for name, ours, theirs in zip(parameters, found, wanted, strict=True):
        least = 1e-6 * total if name.endswith("bias") else 1e-6
        assert name.endswith("bias") or theirs.norm() > least, name
        assert (ours - theirs).norm() <= 1e-8 * theirs.norm().clamp(min=least), name
