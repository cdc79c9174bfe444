"""Decays that are learnt, one a neuron layer: their gradients are BPTT's where rates give them exactly."""

import pytest
import torch
import zoo
from functorch.compile import make_boxed_func
from plain_snn import plain_snn
from small_networks import IMAGE, images, labels, network, spiking, spiking_form
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional as F

from ann2snn_distill.conversion.encoders import two_sided
from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.student import Neuron, SpikingNetwork, uniform_thresholds
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.neurons.equations import LIF

LEAKY = LIF._replace(v_init=0.3, surrogate_width=2.0)
"""A membrane that is there from the start, so that a decay matters in the first timestep."""

each_reset = pytest.mark.parametrize("reset", ["soft", "soft-detached", "hard"])


def learning(reset="soft", **options):
    return spiking("test_resnet", neuron=LEAKY._replace(reset=reset), learn_decay=True, **options)


def pairs_of_neurons():
    """A student in whose full coverage stand pairs, with decays of their own."""
    cut = partitioned(zoo.family_network("vision_transformer"), img_size=IMAGE, full_coverage=True)
    names = cut.sites.neuron_names()
    assert any(node.target is two_sided for node in cut.sites.roles)
    thresholds, decays = uniform_thresholds(names, 0.5), dict.fromkeys(names, 0.4)
    return SpikingNetwork(cut, LEAKY, thresholds=thresholds, decays=decays, learn_decay=True).double()


def gradients_of(student, loss):
    parameters = dict(student.body.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def assert_same(found, wanted, tolerance=1e-8):
    total = torch.stack([gradient.norm() for gradient in wanted.values()]).norm()
    for name, theirs in wanted.items():
        assert not name.endswith("decay_logit") or theirs != 0, name
        assert (found[name] - theirs).norm() <= tolerance * theirs.norm().clamp(min=1e-6 * total), name


def rate_loss(programs, x, timesteps):
    return F.cross_entropy(programs.rate(x, timesteps, programs.observe(x, timesteps))[-1], labels(len(x)))


@pytest.mark.parametrize("make", [learning, pairs_of_neurons])
def test_gradients_at_one_timestep_are_bptts(make):
    student, x = make(), images()
    _, logits_TBK = plain_snn(student, x, 1, training=True)
    wanted = gradients_of(student, F.cross_entropy(logits_TBK.mean(0), labels()))
    assert_same(gradients_of(student, rate_loss(student.in_training, x, 1)), wanted)


@each_reset
def test_the_unrolled_program_is_the_plain_snn_with_its_gradients(reset):
    student, x = learning(reset), images()
    _, expected_TBK = plain_snn(student, torch.cat([x] * 3), 3, training=True)
    logits_TBK = student.in_training.unroll(x, 3)
    torch.testing.assert_close(logits_TBK, expected_TBK, rtol=1e-10, atol=1e-12)
    wanted = gradients_of(student, F.cross_entropy(expected_TBK.mean(0), labels()))
    assert_same(gradients_of(student, F.cross_entropy(logits_TBK.mean(0), labels())), wanted)


class OneLayer(nn.Module):
    """A single layer of neurons, whose error is the same at every timestep."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.act = nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6), nn.ReLU()
        self.fc = nn.Linear(6, 10)

    def forward(self, x):
        return self.fc(self.act(self.norm(self.convolution(x))).mean((2, 3)))


def one_layer(reset="soft"):
    torch.manual_seed(0)
    return spiking_form(OneLayer().double(), neuron=LEAKY._replace(reset=reset), learn_decay=True)


@each_reset
def test_the_rate_gradients_of_one_layer_are_bptts_at_any_number_of_timesteps(reset):
    student, x = one_layer(reset), images()
    wanted = gradients_of(student, F.cross_entropy(student.in_training.unroll(x, 6).mean(0), labels()))
    for programs in (student.in_training, student.in_training_fused):
        assert_same(gradients_of(student, rate_loss(programs, x, 6)), wanted)


@each_reset
@pytest.mark.parametrize("timesteps", [1, 4])
def test_fused_programs_have_the_gradients_of_the_plain_ones(reset, timesteps):
    student, x = learning(reset), images()
    plain, fused = (
        gradients_of(student, rate_loss(programs, x, timesteps))
        for programs in (student.in_training, student.in_training_fused)
    )
    assert_same(fused, plain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["rate", "fused", "bptt"])
def test_compiled_programs_have_the_gradients_of_the_plain_ones_without_a_graph_break(kind):
    def loss(programs, x):
        if kind == "bptt":
            return F.cross_entropy(programs.unroll(x, 3).mean(0), labels())
        return rate_loss(programs, x, 3)

    def as_it_is(module, _):
        return make_boxed_func(module.forward)

    torch._dynamo.reset()
    plain, compiled, x = one_layer(), one_layer(), images()
    wanted = gradients_of(plain, loss(plain.in_training, x))
    programs = compiled.in_training_fused if kind == "fused" else compiled.in_training
    run = torch.compile(
        lambda x: loss(programs, x),
        backend=aot_autograd(fw_compiler=as_it_is, bw_compiler=as_it_is),
        fullgraph=True,
        dynamic=False,
    )
    assert_same(gradients_of(compiled, run(x)), wanted, tolerance=1e-6)
    torch._dynamo.reset()


def test_without_decays_of_their_own_neurons_have_no_parameter_and_record_no_more():
    with_own, without = learning(), spiking("test_resnet")
    neurons = len(with_own.thresholds)
    assert without.decays is None
    assert without.weight_names() == with_own.weight_names() == tuple(without.body.state_dict())
    added = [name for name, _ in with_own.body.named_parameters() if name not in without.weight_names()]
    assert len(added) == neurons > 5
    counts = [
        sum(len(recorded) for recorded in student.in_training.observe(images(), 2)) for student in (with_own, without)
    ]
    assert counts[0] == counts[1] + neurons


@torch.no_grad()
def test_fixed_decays_are_the_learnt_ones_bit_for_bit():
    learnt = learning(dtype=torch.float32)
    for neuron in learnt.body.neurons.children():
        neuron.decay_logit.normal_(generator=torch.Generator().manual_seed(0))
    cut = partitioned(network("test_resnet", dtype=torch.float32), img_size=IMAGE)
    fixed = SpikingNetwork(cut, learnt.neuron, thresholds=learnt.thresholds, decays=learnt.decays)
    assert fixed.decays == learnt.decays
    assert not [name for name, _ in fixed.body.named_parameters() if "neurons" in name]
    x = images(dtype=torch.float32)
    assert torch.equal(fixed(x, 4), learnt(x, 4))
    assert fixed.activity(x, 4) == learnt.activity(x, 4)


@pytest.mark.parametrize("decay", [5e-324, 0.2, 1 - 2**-53])
def test_a_decay_starts_where_it_is_told_and_its_logit_is_finite(decay):
    neuron = Neuron(1.0, decay, learn=True)
    assert neuron.decay_logit.isfinite()
    assert float(neuron.decay.detach()) == pytest.approx(decay, rel=1e-6, abs=1e-37)


def test_decays_of_another_network_are_refused():
    cut = partitioned(network("test_resnet"), img_size=IMAGE)
    names = cut.sites.neuron_names()
    thresholds = uniform_thresholds(names, 1.0)
    with pytest.raises(BadInputError, match=f"the decays name 1 neurons and the network has {len(names)}"):
        SpikingNetwork(cut, LIF, thresholds=thresholds, decays={names[0]: 0.5})
