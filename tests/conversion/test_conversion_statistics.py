"""Statistics computed anew equal those of the currents that a second implementation sees, batch by batch."""

import pytest
import torch
from plain_snn import plain_snn
from small_networks import images, network, spiking_form

from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.statistics import statistics_over
from ann2snn_distill.neurons.temporal import repeat_over_time

T = 3


def batch_statistics(student, x):
    """Mean and unbiased variance of what each call of a norm is given, by call site."""
    run, _ = plain_snn(student, repeat_over_time(x, T), T, training=True)
    norms = [node for node, role in student.network.sites.roles.items() if role is Role.NORM]
    found = [run.inputs[node.name].transpose(0, 1).flatten(1) for node in norms]
    return [(str(node.target), values.mean(1), values.var(1)) for node, values in zip(norms, found, strict=True)]


@pytest.mark.parametrize("name", ["test_resnet", "vgg11_bn"])
def test_statistics_are_the_means_over_batches_of_what_each_norm_is_given(name):
    student = spiking_form(network(name))
    batches = [images(count, seed=seed) for seed, count in enumerate((4, 4, 2))]
    alone = [batch_statistics(student, x) for x in batches]
    weights = {name: tensor.clone() for name, tensor in student.body.named_parameters()}
    found = statistics_over(student, iter(batches), T)
    for calls in zip(*alone, strict=True):
        path = calls[0][0]
        for statistic, values in (("running_mean", [c[1] for c in calls]), ("running_var", [c[2] for c in calls])):
            mean = sum(values) / 3
            torch.testing.assert_close(found.pop(f"{path}.{statistic}"), mean, rtol=1e-10, atol=1e-12)
    assert not found
    assert all(torch.equal(tensor, weights[name]) for name, tensor in student.body.named_parameters())


def test_they_depend_on_no_statistics_from_before():
    found = []
    for start in (0.0, 7.0):
        student = spiking_form(network("test_resnet"))
        for name, tensor in student.body.named_buffers():
            tensor.fill_(start) if "running" in name else None
        found.append(statistics_over(student, [images()], T))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_norm_at_two_call_sites_weighs_them_as_its_running_statistics_do():
    model = network("test_resnet")
    block = model.layer2[0]
    block.bn2 = block.bn1
    student = spiking_form(model)
    calls = [call for call in batch_statistics(student, images()) if call[0] == "layer2.0.bn1"]
    assert len(calls) == 2
    kept = 1 - block.bn1.momentum
    found = statistics_over(student, [images()], T)
    for index, statistic in ((1, "running_mean"), (2, "running_var")):
        first, second = (call[index] for call in calls)
        torch.testing.assert_close(found[f"layer2.0.bn1.{statistic}"], (kept * first + second) / (kept + 1))


def test_a_norm_whose_statistics_never_move_keeps_them():
    model = network("test_resnet")
    model.bn1.momentum = 0.0
    found = statistics_over(spiking_form(model), [images()], T)
    assert "bn1.running_mean" not in found
    assert "layer1.0.bn1.running_mean" in found
