"""The SNN has no state and no T of its own; its training memory does not know T either."""

import math

import pytest
import torch
from small_networks import IMAGE, images, labels, network, spiking
from torch.nn import functional as F

from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.neurons.equations import IF, LIF
from ann2snn_distill.neurons.temporal import repeat_over_time

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
FAMILIES = ["test_resnet", "resnetv2_18", "vgg11_bn", "mobilenetv2_050", "regnetx_002"]


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_batch_twice_gives_the_same_logits(name):
    student = spiking(name, dtype=torch.float32)
    x, other = images(dtype=torch.float32), images(2, dtype=torch.float32, seed=1)
    first = student(x, 4)
    assert not torch.equal(student(other, 3)[0, 0], first[0, 0])
    assert torch.equal(student(x, 4), first)
    rates = [student.in_training.rate(x, 4, student.in_training.observe(x, 4))[-1] for _ in range(2)]
    assert torch.equal(*rates)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_shorter_run_is_the_start_of_a_longer_one(name):
    student, x = spiking(name, neuron=IF), images()
    longest = student(x, 8)
    assert longest.shape == (8, 3, 10)
    assert (longest[1:] != longest[:-1]).any()
    for timesteps in range(1, 8):
        torch.testing.assert_close(student(x, timesteps), longest[:timesteps], **CLOSE)


@torch.no_grad()
def test_mean_features_end_in_the_mean_logits():
    student, x = spiking("test_resnet"), images()
    features = student.in_inference.mean_features(x, 4)
    torch.testing.assert_close(features[-1], student(x, 4).mean(0), **CLOSE)
    rates = student.in_inference.rate(x, 4, student.in_inference.observe(x, 4))
    assert len(features) == len(rates) == len(student.stages)
    for feature, rate in zip(features, rates, strict=True):
        torch.testing.assert_close(feature, rate, **CLOSE)


@torch.no_grad()
def test_inference_and_the_spike_pass_of_inference_move_no_statistics():
    student, x = spiking("test_resnet"), images()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student(x, 3)
    student.in_inference.observe(x, 3)
    student.activity(x, 3)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    student.in_training.observe(x, 3)
    moved = [name for name, value in student.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert all("running" in name for name in moved)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("training", [True, False])
def test_equal_frames_are_the_image(name, training):
    x, target, timesteps = images(), labels(), 3
    still, moving = spiking(name), spiking(name, static_input=False)
    frames = repeat_over_time(x, timesteps)
    found = []
    for student, given in ((still, x), (moving, frames)):
        programs = student.in_training if training else student.in_inference
        records = programs.observe(given, timesteps)
        outputs = programs.rate(given, timesteps, records)
        loss = F.cross_entropy(outputs[-1], target)
        gradients = torch.autograd.grad(loss, list(student.body.parameters()))
        flat = [value for recorded in records for value in recorded]
        found.append((flat, outputs, gradients, [*student.body.buffers()]))
    for of_image, of_frames in zip(*found, strict=True):
        assert len(of_image) == len(of_frames) > 0
        for ours, theirs in zip(of_image, of_frames, strict=True):
            assert ours.shape == theirs.shape
            scale = theirs.detach().double().norm() / math.sqrt(theirs.numel())
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=max(1e-9, 1e-9 * float(scale)))
    torch.testing.assert_close(
        still.in_inference.unroll(x, timesteps), moving.in_inference.unroll(frames, timesteps), **CLOSE
    )


@torch.no_grad()
def test_frames_that_differ_are_not_their_mean():
    """The first layer sees every frame, not only the last one nor the average."""
    student = spiking("test_resnet", static_input=False)
    frames = images(6)
    logits = student(frames, 2)
    reversed_in_time = frames.unflatten(0, (2, 3)).flip(0).flatten(0, 1)
    average = repeat_over_time(frames.unflatten(0, (2, 3)).mean(0), 2)
    for other in (reversed_in_time, average):
        assert (student(other, 2).mean(0) - logits.mean(0)).abs().max() > 1e-6
    records = student.in_inference.observe(frames, 2)
    torch.testing.assert_close(student.in_inference.rate(frames, 2, records)[-1], logits.mean(0), **CLOSE)


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_050"])
def test_the_rate_pass_correlates_with_the_mean_of_all_frames(name):
    still, moving = spiking(name), spiking(name, static_input=False)
    frames, timesteps = images(6), 2
    records = moving.in_training.observe(frames, timesteps)
    mean_B = (frames[:3] + frames[3:]) / 2
    found = torch.autograd.grad(
        moving.in_training.rate(frames, timesteps, records)[-1].square().sum(), list(moving.body.parameters())
    )
    wanted = torch.autograd.grad(
        still.in_training.rate(mean_B, timesteps, records)[-1].square().sum(), list(still.body.parameters())
    )
    assert wanted[0].any()
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-10 * theirs.norm()


@pytest.mark.parametrize("name", ["test_resnet", "vgg11_bn", "mobilenetv2_050", "densenet"])
def test_bytes_saved_for_backward_do_not_grow_with_time(name):
    keywords = {"block_config": (2, 2)} if name == "densenet" else None
    student = spiking("densenet121" if keywords else name, keywords, dtype=torch.float32)
    x = images(dtype=torch.float32)
    rate, bptt = [], []
    for timesteps in (1, 2, 4, 8):
        with counted_bytes() as seen:
            student.in_training.rate(x, timesteps, student.in_training.observe(x, timesteps))[-1].sum()
        rate.append(sum(seen.values()))
        with counted_bytes() as seen:
            student.in_training.unroll(x, timesteps).sum()
        bptt.append(sum(seen.values()))
    assert rate[0] > 0
    assert len(set(rate)) == 1
    parameters = 4 * sum(parameter.numel() for parameter in student.parameters())
    assert [value - parameters for value in bptt[1:]] > [1.5 * (value - parameters) for value in bptt[:-1]]


def counted_bytes():
    """Count the bytes of every storage that autograd keeps, each once."""
    seen, kept = {}, []

    class Counting(torch.autograd.graph.saved_tensors_hooks):
        def __enter__(self):
            super().__enter__()
            return seen

    def pack(tensor):
        kept.append(tensor)  # alive, so that no address is used twice
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    return Counting(pack, lambda tensor: tensor)


def test_thresholds_of_another_network_are_refused():
    cut = partitioned(network("test_resnet", dtype=torch.float32), img_size=IMAGE)
    names = cut.sites.neuron_names()
    with pytest.raises(BadInputError, match=f"name {len(names) - 1} neurons and the network has {len(names)}") as error:
        SpikingNetwork(cut, LIF, thresholds=uniform_thresholds(names[1:], 1.0))
    assert "convert it again" in str(error.value)
