"""What `inspect` estimates of a training step, against what was measured and counted elsewhere."""

import json

import pytest

from ann2snn_distill.checkpoint import read_header_and_index
from ann2snn_distill.config import InspectSettings


def test_inspect_of_a_student_estimates_its_training_at_the_timesteps_of_the_file(command, trained):
    header = read_header_and_index(trained / "student.safetensors")[0]
    assert header.timesteps != InspectSettings(model="test_resnet").timesteps  # else the default would do
    found = json.loads(command("inspect", trained / "student.safetensors", "--json").out)
    assert found["training"]["timesteps"] == header.timesteps


@pytest.mark.parametrize(("img_size", "batch"), [(64, 512), (65, 64)])
def test_inspect_estimates_a_step_of_the_recipes_batch(command, img_size, batch):
    found = json.loads(command("inspect", "test_resnet", "--img-size", img_size, "--json").out)
    assert (found["training"]["timesteps"], found["training"]["batch_size"]) == (4, batch)


def test_inspect_estimates_what_was_measured_on_an_h100(command):
    """The peak of docs/performance.md: hybrid, T = 4, batch 128, the first case of its process, and its GFLOP."""
    found = command("inspect", "resnet18", "--img-size", 32, "--timesteps", 4, "--batch-size", 128, "--json")
    cost = json.loads(found.out)["training"]
    assert cost["memory_mib"] == pytest.approx(950, rel=0.05)
    assert cost["gflop_per_image"] == pytest.approx(10.99, abs=0.005)


def training_of(command, *arguments):
    return json.loads(command("inspect", *arguments, "--json").out)["training"]


def test_what_training_takes_grows_with_timesteps_batch_and_neurons(command):
    plain = training_of(command, "test_vit", "--timesteps", 4, "--batch-size", 64)
    longer = training_of(command, "test_vit", "--timesteps", 8, "--batch-size", 64)
    larger = training_of(command, "test_vit", "--timesteps", 4, "--batch-size", 128)
    full = training_of(command, "test_vit", "--timesteps", 4, "--batch-size", 64, "--coverage", "full")
    assert longer["gflop_per_image"] > plain["gflop_per_image"] == larger["gflop_per_image"]
    assert larger["memory_mib"] > plain["memory_mib"]
    assert full["memory_mib"] > plain["memory_mib"]
    assert full["gflop_per_image"] > plain["gflop_per_image"]  # fewer layers are constant in time


def test_inspect_shows_what_a_training_step_takes(command):
    cost = training_of(command, "test_resnet", "--timesteps", 2, "--batch-size", 7)
    shown = " ".join(command("inspect", "test_resnet", "--timesteps", 2, "--batch-size", 7).out.split())
    assert (
        f"a training step of 7 images at T=2, on a GPU with the default branches: about {cost['memory_mib']:,.0f} MiB, "
        f"{cost['gflop_per_image']:,.2f} GFLOP an image"
    ) in shown
