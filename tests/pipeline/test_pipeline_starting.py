"""A student that goes on from a file has its weights, thresholds, decays and neuron, and is refused if it cannot."""

import json

import pytest
import torch

from ann2snn_distill.checkpoint import load_checkpoint, read_header, save_checkpoint
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.evaluation.totals import exact_float32
from ann2snn_distill.pipeline import distilling
from ann2snn_distill.pipeline.students import is_same_network, new_student
from ann2snn_distill.teacher import load_network

WITH_SMALL_STEM = 278_275_584
"""Multiply-accumulates of resnet10t for three classes and images of 32 px, no stride before its first stage."""

STILL = ("--lr", "1e-12", "--epochs", 1, "--overwrite")


@pytest.fixture(scope="module")
def start(command, tiny, tmp_path_factory):
    """The file of a student with a neuron that is not the default."""
    folder = tmp_path_factory.mktemp("start")
    done = command(
        "convert",
        *tiny,
        "--decay",
        0.4,
        "--v-init",
        0.25,
        "--stage-decays",
        "layer1=0.9",
        "--surrogate-width",
        2,
        "--output",
        folder,
    )
    assert done.code == 0, done.err
    return folder / "student.safetensors"


def go_on(command, tiny, start, folder, *more):
    done = command("convert", *tiny, "--init", start, *STILL, *more, "--output", folder)
    assert done.code == 0, done.err
    return load_checkpoint(folder / "student.safetensors")


def test_a_student_goes_on_from_a_files_weights_thresholds_decays_and_neuron(command, tiny, start, tmp_path):
    before, weights = load_checkpoint(start)
    header, tensors = go_on(command, tiny, start, tmp_path / "on", "--timesteps", 4)
    assert (before.timesteps, header.timesteps) == (2, 4)
    assert header.neuron == before.neuron
    assert (header.neuron.decay, header.neuron.surrogate_width) == (0.4, 2)
    assert header.decays == before.decays
    assert {round(decay, 6) for decay in header.decays.values()} == {0.4, 0.9}
    assert header.thresholds == pytest.approx(before.thresholds)
    trained = [name for name in weights if "running" not in name and weights[name].is_floating_point()]
    assert len(trained) > 20
    for name in trained:
        torch.testing.assert_close(tensors[name], weights[name], msg=name)


def test_what_is_said_beats_the_file(command, tiny, start, tmp_path):
    more = ("--stage-decays", "layer2=0.5", "--v-init", 0, "--threshold", 2)
    header, _ = go_on(command, tiny, start, tmp_path / "on", *more)
    assert (header.neuron.decay, header.neuron.v_init) == (0.4, 0)
    assert {round(decay, 6) for decay in header.decays.values()} == {0.4, 0.5}
    assert set(header.thresholds.values()) == {2.0}
    header, _ = go_on(command, tiny, start, tmp_path / "decay", "--decay", 0.7)
    assert (header.neuron.decay, header.decays) == (0.7, None)
    header, _ = go_on(command, tiny, start, tmp_path / "if", "--neuron", "if")
    assert (header.neuron.name, header.neuron.decay, header.neuron.v_init, header.decays) == ("if", 1, 0.5, None)


def test_decays_are_learnt_from_the_files_on(command, tiny, start, tmp_path):
    header, _ = go_on(command, tiny, start, tmp_path / "on", "--learn-decay")
    assert header.decays == pytest.approx(read_header(start).decays, abs=1e-6)


def test_a_run_that_went_on_is_resumed_from_the_same_file_alone(
    tiny_settings, converting, interrupting, command, tiny, start, tmp_path
):
    copy = tmp_path / "start.safetensors"
    copy.write_bytes(start.read_bytes())
    output = tmp_path / "run"
    with pytest.raises(Exception, match="interrupted"):
        converting(tiny_settings(init=str(copy), output=output), interrupting("hybrid"))
    header, tensors = load_checkpoint(start)
    save_checkpoint(copy, tensors, header.model_copy(update={"dataset": "other"}))
    with pytest.raises(Exception, match="other settings"):
        converting(tiny_settings(init=str(copy), resume=str(output)))
    copy.write_bytes(start.read_bytes())
    assert converting(tiny_settings(init=str(copy), resume=str(output))).training.epochs == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--img-size", 32), "its image side is 16, not 32"),
        (("--student", "test_resnet2"), "no model 'test_resnet2'"),
        (
            ("--student", "test_vit", "--stem", "keep"),
            "its network is test_resnet, not test_vit, its stem is small, not",
        ),
        (("--coverage", "full", "--neuron", "lif"), "its coverage is activations, not full"),
        (("--model-kwargs", "stem_width=8"), "its layers are others"),
    ],
)
def test_a_file_of_another_student_is_refused_before_anything_is_trained(command, tiny, start, tmp_path, more, said):
    done = command("convert", *tiny, "--init", start, *more, "--output", tmp_path / "no")
    assert (done.code, said in done.err.splitlines()[-1]) == (2, True), done.err
    assert not (tmp_path / "no").exists()


def test_a_file_that_is_no_students_is_refused(command, tiny, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"nothing")
    for start, code in ((path, 1), (tmp_path / "none.safetensors", 1), ("Teacher", 2)):
        done = command("convert", *tiny, "--init", start, "--output", tmp_path / "no")
        assert done.code == code, done.err
    assert "--init must be teacher, scratch, or a student's .safetensors file" in done.err


def test_if_neurons_of_a_file_have_no_decay_to_give_or_learn(command, tiny, tmp_path):
    assert command("convert", *tiny, "--neuron", "if", "--output", tmp_path / "if").code == 0
    file = tmp_path / "if" / "student.safetensors"
    for flags in (("--learn-decay",), ("--decay", 0.5)):
        done = command("convert", *tiny, "--init", file, *flags, "--output", tmp_path / "no")
        assert (done.code, "has if neurons, which keep their whole membrane" in done.err) == (2, True)


@pytest.mark.parametrize("teacher", ["vgg11_bn", "test_resnet"])
def test_another_student_has_the_stem_that_its_images_ask_for_whatever_its_teachers_is(command, shades, teacher):
    options = "--student resnet10t --timesteps 2 --img-size 32 --device cpu --dry-run --json"
    done = command("convert", teacher, "--dataset", shades, *options.split())
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["coverage"]["total_macs"] == WITH_SMALL_STEM


def test_weights_of_another_tag_are_of_the_same_network():
    settings = ConvertSettings(model="resnet18.a1_in1k", student="resnet18")
    assert is_same_network(settings)
    assert not is_same_network(settings.model_copy(update={"student": "resnet34.a1_in1k"}))


def test_a_student_that_the_device_cannot_calibrate_is_calibrated_on_the_cpu(
    converting, tiny_settings, tmp_path, monkeypatch
):
    real, devices = distilling.first_student, []

    def first_student(settings, teacher, images):
        devices.append(images.device.type)
        if len(devices) == 1:
            raise torch.OutOfMemoryError
        return real(settings, teacher, images)

    monkeypatch.setattr(distilling, "first_student", first_student)
    converting(tiny_settings(output=tmp_path / "run", init="teacher"))
    assert devices == ["cpu", "cpu"]
    assert (tmp_path / "run" / "student.safetensors").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_050"])
def test_a_gpu_calibrates_as_the_cpu_does(name):
    settings = ConvertSettings(
        model=name, dataset="digits", timesteps=4, init="teacher", equalize=True, decay=0.2, v_init=0.25,
        reset="soft-detached", surrogate_width=1.0,
    )  # fmt: skip
    teacher = load_network(name, classes=10, img_size=32, data_mean=(0.5,) * 3, data_std=(0.25,) * 3, seed=1)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with exact_float32():
        ours, theirs = (new_student(settings, teacher, images.to(device), seed=0) for device in ("cuda", "cpu"))
    assert {tensor.device.type for tensor in ours.body.state_dict().values()} == {"cuda"}
    for key, threshold in theirs.thresholds.items():
        assert ours.thresholds[key] == pytest.approx(threshold, rel=0.06), key  # candidates are six percent apart
    for key, tensor in theirs.body.state_dict().items():
        torch.testing.assert_close(ours.body.state_dict()[key].cpu(), tensor, rtol=0.15, atol=1e-3, msg=key)
