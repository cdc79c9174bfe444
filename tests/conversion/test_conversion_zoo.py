"""The laws of conversion, for one network of each of timm's families."""

import pytest
import timm
import torch
from plain_snn import plain_snn
from rate_inputs import rate_values, site_errors
from small_networks import CLASSES, labels
from torch.nn import functional as F
from zoo import (
    COVERAGES,
    EVERY,
    RECURRENT,
    REFUSED,
    WIDE_LIF,
    arguments_of,
    family_images,
    family_network,
    family_student,
    name_of,
    side_of,
    tolerance,
)

from ann2snn_distill.checkpoint import SnnHeader, load_checkpoint, save_checkpoint
from ann2snn_distill.conversion.activity import activity_program
from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.errors import UnsupportedModelError
from ann2snn_distill.pipeline.measuring import numerics
from ann2snn_distill.pipeline.students import neuron_header, student_from_header
from ann2snn_distill.reporting.families import REPRESENTATIVES
from ann2snn_distill.teacher import build_blueprint

T = 3


@pytest.fixture(scope="module", params=EVERY)
def family(request):
    return request.param


@pytest.fixture(scope="module", params=COVERAGES)
def full_coverage(request):
    return request.param


@pytest.fixture(scope="module")
def student(family, full_coverage):
    return family_student(family, full_coverage=full_coverage)


@torch.no_grad()
def test_chained_stages_equal_the_model_bit_for_bit(family, full_coverage):
    model, x = family_network(family), family_images(family, 3)
    staged = StagedAnn(partitioned(model, img_size=side_of(family), full_coverage=full_coverage)).eval()
    expected = model(x)
    assert expected.std() > 1e-6
    assert torch.equal(staged(x), expected)


@torch.no_grad()
def test_counting_spikes_changes_none_and_finds_them_wherever_they_drive_a_layer(family, student):
    sites, x = student.network.sites, family_images(family)
    program = activity_program(sites, student.stages, neuron=student.neuron, static_input=True)
    logits, _ = program.run(student.body, x, T)
    assert torch.equal(logits, student(x, T).flatten(0, 1))
    measured = student.activity(x, T)
    assert set(sites.neuron_names()) <= set(measured)
    assert all(0 <= share <= 1 for share, _ in measured.values())
    driven = [measured[layer.name] for layer in coverage(sites).layers if layer.binary_input]
    assert all(share <= spikes * (1 + 1e-6) for share, spikes in driven)


def test_full_coverage_leaves_only_lstms_and_the_layers_that_read_the_image_analog(family):
    model = build_blueprint(name_of(family), classes=CLASSES, **arguments_of(family))
    found = coverage(partitioned(model, img_size=side_of(family), full_coverage=True).sites)
    analog = {fate.operation for fate in found.layers if fate.binary_input is False and not fate.first}
    assert analog == RECURRENT.get(family, set())
    assert (found.share_after_first == 1) == (not analog)


@torch.no_grad()
def test_rates_are_the_spikes_means_at_every_call_site_in_training(family, student):
    assert_rates_are_means(student, family, training=True)


@torch.no_grad()
def test_rates_are_the_spikes_means_at_every_call_site_in_evaluation(family, student):
    logits_TBK = assert_rates_are_means(student, family, training=False)
    torch.testing.assert_close(student(family_images(family), T), logits_TBK, **near(family))


def assert_rates_are_means(student, family, *, training):
    x = family_images(family)
    plain, logits_TBK = plain_snn(student, torch.cat([x] * T), T, training=training)
    programs = student.in_training if training else student.in_inference
    found, rate_BK = rate_values(student, x, programs.observe(x, T), training=training)
    errors = site_errors(found, plain)
    assert max(errors.values()) < tolerance(family), max(errors, key=errors.get)
    torch.testing.assert_close(rate_BK, logits_TBK.mean(0), **near(family))
    silent = [name for name in student.thresholds if not plain.values[name].any()]
    assert len(silent) <= 0.25 * len(student.thresholds), silent  # two images leave some currents all negative
    return logits_TBK


def near(family):
    return {"rtol": tolerance(family), "atol": 10 * tolerance(family)}


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
    of_ann = gradients(student.body(x), target, parameters)
    assert [name for name in found if (found[name] is None) != (of_ann[name] is None)] == []


def gradients(logits, target, parameters):
    found = torch.autograd.grad(F.cross_entropy(logits, target), list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


@torch.no_grad()
def test_a_file_gives_equal_logits(family, full_coverage, tmp_path):
    student, x = family_student(family, full_coverage=full_coverage).float(), family_images(family).float()
    path, tensors = tmp_path / "student.safetensors", student.body.state_dict()
    header = family_header(family, student, full_coverage=full_coverage)
    save_checkpoint(path, {name: tensors[name] for name in student.weight_names()}, header)
    loaded = student_from_header(*load_checkpoint(path))
    path.unlink()  # pytest keeps the folders of three runs, and some networks are large
    assert loaded.thresholds == student.thresholds
    expected = student(x, T)
    assert expected.std() > 1e-6
    assert torch.equal(loaded(x, T), expected)


def family_header(family, student, *, full_coverage):
    return SnnHeader(
        model=name_of(family),
        student=name_of(family),
        dataset="none",
        classes=[str(number) for number in range(CLASSES)],
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        timesteps=T,
        neuron=neuron_header("lif", WIDE_LIF),
        cuts=[stage.name for stage in student.stages[:-1]],
        coverage="full" if full_coverage else "activations",
        maxpool="keep",
        **arguments_of(family),
        thresholds=student.thresholds,
        evaluation=numerics(torch.device("cpu"), img_size=side_of(family)),
        versions={},
        training={},
    )


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
