"""The laws of conversion, for one network of each of timm's families."""

import io

import pytest
import timm
import torch
from plain_snn import plain_snn
from rate_inputs import rate_values, site_errors
from safetensors.torch import load, save
from small_networks import labels
from torch.nn import functional as F
from zoo import (
    FAMILIES,
    FAST,
    RECURRENT,
    REFUSED,
    family_images,
    family_network,
    family_student,
    side_of,
    tolerance,
)

from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.errors import UnsupportedModelError
from ann2snn_distill.reporting.families import REPRESENTATIVES

T = 3
ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.zoo) for name in FAMILIES]


@pytest.fixture(scope="module", params=ALL)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def student(family):
    return family_student(family)


@torch.no_grad()
def test_chained_stages_equal_the_model_bit_for_bit(family):
    model, x = family_network(family), family_images(family, 3)
    staged = StagedAnn(partitioned(model, img_size=side_of(family))).eval()
    expected = model(x)
    assert expected.std() > 1e-6
    assert torch.equal(staged(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_rates_are_the_spikes_means_at_every_call_site(family, student, training):
    assert_rates_are_means(student, family, training=training)


@torch.no_grad()
def test_rates_are_the_spikes_means_under_full_coverage(family):
    student = family_student(family, full_coverage=True)
    found = coverage(student.network.sites)
    analog = {fate.operation for fate in found.layers if fate.binary_input is False and not fate.first}
    assert analog == RECURRENT.get(family, set())
    assert found.share_after_first == 1 or analog
    assert_rates_are_means(student, family, training=True)


def assert_rates_are_means(student, family, *, training):
    x = family_images(family)
    plain, logits_TBK = plain_snn(student, torch.cat([x] * T), T, training=training)
    programs = student.in_training if training else student.in_inference
    found, rate_BK = rate_values(student, x, programs.observe(x, T), training=training)
    errors = site_errors(found, plain)
    assert max(errors.values()) < tolerance(family), max(errors, key=errors.get)
    torch.testing.assert_close(rate_BK, logits_TBK.mean(0), rtol=tolerance(family), atol=10 * tolerance(family))
    if training:
        silent = [name for name in student.thresholds if not plain.values[name].any()]
        assert len(silent) <= 0.25 * len(student.thresholds), silent  # two images leave some currents all negative


def test_every_parameter_has_bptts_gradient_at_one_timestep(family, student):
    x, target = family_images(family), labels(2)
    parameters = {name: value for name, value in student.body.named_parameters() if value.requires_grad}
    _, logits_TBK = plain_snn(student, x, 1, training=True)
    wanted = gradients(logits_TBK.mean(0), target, parameters)
    rates = student.in_training.rate(x, 1, student.in_training.observe(x, 1))
    found = gradients(rates[-1], target, parameters)
    total = torch.stack([gradient.norm() for gradient in wanted.values() if gradient is not None]).norm()
    for name, expected in wanted.items():
        assert (found[name] is None) == (expected is None), name
        if expected is not None:
            assert torch.isfinite(found[name]).all(), name
            error = (found[name] - expected).norm()
            assert error <= 100 * tolerance(family) * expected.norm().clamp(min=1e-5 * total), name
    assert sum(gradient is not None for gradient in found.values()) > 0.6 * len(parameters)


def gradients(logits, target, parameters):
    found = torch.autograd.grad(F.cross_entropy(logits, target), list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


@torch.no_grad()
def test_saved_and_loaded_tensors_give_equal_logits(family, student):
    x = family_images(family)
    held = io.BytesIO(save({name: value.contiguous().clone() for name, value in student.body.state_dict().items()}))
    rebuilt = family_student(family, thresholds=student.thresholds)
    for parameter in rebuilt.body.parameters():
        parameter.zero_()
    rebuilt.body.load_state_dict(load(held.getvalue()))
    assert torch.equal(rebuilt(x, T), student(x, T))


@pytest.mark.zoo
def test_there_is_one_network_of_each_family():
    assert list(REPRESENTATIVES) == timm.list_modules()
    for family, name in REPRESENTATIVES.items():
        assert name in timm.list_models(module=family)


@pytest.mark.parametrize(("family", "reason"), REFUSED.items())
def test_what_cannot_be_converted_is_refused_with_its_reason(family, reason):
    model = timm.create_model(REPRESENTATIVES[family])
    with pytest.raises(UnsupportedModelError, match=reason):
        partitioned(model, img_size=64)
