"""`teach`: the teacher that `convert` then takes."""

import json
import shutil

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ann2snn_distill.config import FitSettings
from ann2snn_distill.data.datasets import load_dataset
from ann2snn_distill.pipeline.fitting import augmentation_of
from ann2snn_distill.recipes import FEW_SMALL, FEW_TINY


def test_teach_writes_a_teacher_that_convert_takes_as_it_is(command, shades, tiny, tmp_path):
    options = "--img-size 16 --batch-size 12 --teacher-epochs 2 --device cpu"
    output = ("--output", tmp_path / "teacher", "--json")
    done = command("teach", "test_resnet", "--dataset", shades, *options.split(), *output)
    assert done.code == 0, done.err
    taught = json.loads(done.out)
    path = tmp_path / "teacher" / "teacher.safetensors"
    assert taught["path"] == str(path)
    assert set(load_file(path)) == set(timm.create_model("test_resnet", num_classes=3).state_dict())
    run = command("convert", *tiny, "--checkpoint", path, "--output", tmp_path / "run", "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert report["teacher"] == {"top1": taught["top1"], "source": "checkpoint:teacher.safetensors"}
    assert "teacher test_resnet:" not in run.err  # no training of it
    twice = command("teach", "test_resnet", "--dataset", shades, *options.split(), *output)
    assert twice.code == 2
    assert "--overwrite" in twice.err


def test_images_are_normalised_for_a_teachers_file_as_they_were_when_it_was_trained(command, shades, tmp_path):
    options = "--img-size 72 --batch-size 12 --teacher-epochs 1 --device cpu --workers 0 --json"
    done = command(
        "teach", "test_resnet", "--dataset", shades, *options.split(), "--no-pretrained", "--output", tmp_path
    )
    assert done.code == 0, done.err
    file = tmp_path / "teacher.safetensors"
    ready = options.replace("--teacher-epochs 1 ", "")
    again = command("teach", "test_resnet", "--dataset", shades, *ready.split(), "--checkpoint", file)
    assert again.code == 0, again.err
    first, second = json.loads(done.out), json.loads(again.out)
    assert second["epochs"] == 0
    assert second["top1"] == first["top1"]
    with safe_open(file, "pt") as opened:
        said = json.loads(opened.metadata()["snn_distill_normalisation"])
        classes = json.loads(opened.metadata()["snn_distill_classes"])
    assert said["mean"] != list(timm.create_model("test_resnet").pretrained_cfg["mean"])
    assert classes == sorted(path.name for path in (shades / "train").iterdir())
    assert "other names" not in again.err


def test_a_teacher_that_is_ready_is_trained_on_by_teach_alone_and_where_that_is_asked_for(
    command, shades, tiny, taught_file, tmp_path
):
    file = taught_file(tmp_path / "ready.safetensors", seed=3)
    options = ("--dataset", shades, "--img-size", 16, "--batch-size", 12, "--device", "cpu", "--checkpoint", file)
    for flags, epochs in (((), 0), (("--teacher-epochs", 2), 2), (("--epochs", 1), 1)):
        done = command("teach", "test_resnet", *options, *flags, "--json", "--output", tmp_path / str(epochs))
        assert done.code == 0, done.err
        assert json.loads(done.out)["epochs"] == epochs
    weights = [load_file(tmp_path / f"{epochs}/teacher.safetensors")["fc.weight"] for epochs in (0, 1, 2)]
    assert torch.equal(weights[0], load_file(file)["fc.weight"])
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    run = command("convert", *tiny, "--checkpoint", file, "--teacher-epochs", 7, "--dry-run", "--json")
    told = "--teacher-epochs 7 changes nothing: checkpoint:ready.safetensors has the data's classes"
    assert any(told in warning for warning in json.loads(run.out)["warnings"])


def test_a_teacher_that_guesses_is_told_before_a_student_is_distilled(command, tiny, taught_file, tmp_path):
    file = taught_file(tmp_path / "other.safetensors", seed=5)
    run = command("convert", *tiny, "--checkpoint", file, "--output", tmp_path / "run")
    assert run.code == 0, run.err
    lines = run.err.splitlines()
    told = [index for index, line in enumerate(lines) if "of 36 training images right, no more than a guess" in line]
    assert told
    assert told[0] < next(index for index, line in enumerate(lines) if line.startswith("hybrid test_resnet: "))
    assert "; give another --checkpoint, or none" in lines[told[0]]
    assert any(line.startswith("test images: ") for line in lines)
    untaught = command("convert", *tiny, "--output", tmp_path / "short", "--seed", 3)
    assert "no more than a guess has: it was trained too briefly; give more than --teacher-epochs 1" in untaught.err


def test_guidance_alone_under_a_teacher_that_knows_little_is_told(command, shades, tiny, tmp_path):
    options = ("--dataset", shades, "--img-size", 16, "--batch-size", 12, "--teacher-epochs", 30, "--device", "cpu")
    done = command("teach", "test_resnet", *options, "--output", tmp_path, "--json")
    assert json.loads(done.out)["top1"] == 100
    path = tmp_path / "teacher.safetensors"
    weights = load_file(path)
    weights["fc.bias"][2] = -1e9  # it never says the third class
    save_file(weights, tmp_path / "two.safetensors")

    def told(name, *flags):
        run = command(
            "convert", *tiny, "--checkpoint", tmp_path / name, *flags, "--output", tmp_path / "run", "--overwrite"
        )
        assert run.code == 0, run.err
        return "the teacher has 66.7% of 36 training images right, and with --alpha 1" in run.err

    assert told("two.safetensors", "--alpha", 1)
    assert not told("teacher.safetensors", "--alpha", 1)
    assert not told("two.safetensors")
    assert not told("two.safetensors", "--alpha", 1, "--method", "rate")


def test_a_teacher_that_has_all_of_a_few_images_right_does_not_guess(command, tmp_path):
    """Of four coins, all right is what one guess in sixteen has."""
    for label, level in (("dark", 0), ("light", 255)):
        for split in ("train", "test"):
            (tmp_path / "pair" / split / label).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (16, 16), (level,) * 3).save(tmp_path / "pair" / split / label / f"{index}.png")
    options = ("--img-size", 16, "--batch-size", 4, "--teacher-epochs", 20, "--epochs", 1, "--device", "cpu", "--json")
    done = command("convert", "test_resnet", "--dataset", tmp_path / "pair", *options, "--output", tmp_path / "run")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["teacher"]["top1"] == 100
    assert not any("guess" in warning for warning in report["warnings"])


def test_mixup_and_the_end_of_mixing_are_the_students_and_not_its_teachers(command, shades, tmp_path):
    options = (
        "test_resnet",
        "--dataset",
        shades,
        "--img-size",
        16,
        "--batch-size",
        12,
        "--device",
        "cpu",
        "--cutmix",
        1,
    )
    done = command("teach", *options, "--teacher-epochs", 3, "--seed", 23)
    assert done.code == 0, done.err
    run = command(
        "convert", *options, "--teacher-epochs", 3, "--seed", 23, "--epochs", 2, "--mixup-off-epoch", 1, "--mixup", 0.3,
        "--timesteps", 2, "--output", tmp_path / "run",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert "teacher: taken from" in run.err


def test_a_teachers_file_for_other_classes_is_not_taken_in_silence(command, shades, tmp_path):
    options = "--img-size 16 --batch-size 12 --teacher-epochs 1 --device cpu --workers 0"
    done = command("teach", "test_resnet", "--dataset", shades, *options.split(), "--output", tmp_path)
    assert done.code == 0, done.err
    others = tmp_path / "others"
    shutil.copytree(shades, others)
    for split in others.iterdir():
        last = max(split.iterdir())
        last.rename(last.with_name("zebra"))
    file = tmp_path / "teacher.safetensors"
    again = command("teach", "test_resnet", "--dataset", others, *options.split(), "--checkpoint", file)
    assert again.code == 0, again.err
    assert "'zebra' there" in again.err
    assert "unless they are the same, give another --checkpoint, or none" in again.err


def test_convert_takes_the_teacher_that_teach_left_in_the_cache(command, shades, tiny, tmp_path):
    options = "--img-size 16 --batch-size 12 --teacher-epochs 1 --device cpu --seed 21"
    done = command("teach", "test_resnet", "--dataset", shades, *options.split())
    assert done.code == 0, done.err
    run = command("convert", *tiny, "--seed", 21, "--output", tmp_path / "run")
    assert "teacher: taken from" in run.err
    assert "teacher test_resnet:" not in run.err


def test_a_teacher_of_other_weights_is_tuned_for_as_long_as_the_recipe_of_the_data_says(
    command, shades, taught_file, tmp_path
):
    file = taught_file(tmp_path / "three.safetensors", seed=0)
    others = tmp_path / "others"
    shutil.copytree(shades, others)
    for split in others.iterdir():
        shutil.copytree(split / "dark", split / "zebra")  # a fourth class, which the file does not know
    for img_size, recipe in ((16, FEW_TINY), (24, FEW_SMALL)):
        plan = ("convert", "test_resnet", "--dataset", others, "--img-size", img_size, "--dry-run", "--json")
        for weights, epochs in (((), recipe.teacher_epochs), (("--checkpoint", file), recipe.tuning_epochs)):
            done = command(*plan, *weights)
            assert done.code == 0, done.err
            assert json.loads(done.out)["teacher"]["trained first"] == f"{epochs} epochs"


def test_a_teacher_is_trained_by_the_optimiser_of_the_run(command, shades, tiny, tmp_path):
    options = "--img-size 16 --batch-size 12 --teacher-epochs 1 --device cpu --seed 22"
    trained = {}
    for opt in ("sgd", "adamw"):
        done = command("teach", "test_resnet", "--dataset", shades, *options.split(), "--opt", opt, "--json")
        assert done.code == 0, done.err
        trained[opt] = load_file(json.loads(done.out)["path"])["fc.weight"]
    assert not torch.equal(trained["sgd"], trained["adamw"])
    run = command("convert", *tiny, "--seed", 22, "--opt", "adamw", "--output", tmp_path / "run")
    assert "teacher: taken from" in run.err


def test_teach_refuses_two_numbers_of_epochs(command):
    twice = command("teach", "test_resnet", "--dataset", "digits", "--epochs", 1, "--teacher-epochs", 2)
    assert twice.code == 2
    assert "--epochs 1 and --teacher-epochs 2 both say how long; give one" in twice.err


@pytest.fixture
def taught(command, shades):
    """Teach a small network of shades, 12 images a step, and return its weights and what was said."""

    def teach(*flags):
        options = "--img-size 16 --batch-size 12 --teacher-epochs 2 --device cpu --seed 23 --json"
        done = command("teach", "test_resnet", "--dataset", shades, *options.split(), *flags)
        assert done.code == 0, done.err
        return load_file(json.loads(done.out)["path"]), done.err

    return teach


@pytest.mark.parametrize("tuned", [False, True], ids=["random weights", "other weights"])
def test_the_optimisation_of_a_teacher_is_the_recipes_or_what_is_asked_for(taught, taught_file, tmp_path, tuned):
    weights = ("--checkpoint", taught_file(tmp_path / "three.safetensors", seed=0)) if tuned else ()
    rate = FEW_TINY.sgd_lr * 12 / 128 * (0.1 if tuned else 1.0)
    recipe = {"--lr": rate, "--weight-decay": FEW_TINY.sgd_decay, "--warmup-epochs": 0.1}
    default, _ = taught(*weights)
    spelt_out, told = taught(*weights, *(word for flag in recipe.items() for word in flag))
    assert "taken from" not in told
    assert all(torch.equal(spelt_out[name], default[name]) for name in default)
    for flag, value in {"--lr": 2 * rate, "--weight-decay": 0.5, "--warmup-epochs": 2, "--model-ema": 0.9}.items():
        other, told = taught(*weights, flag, value)
        assert "taken from" not in told
        assert not torch.equal(other["fc.weight"], default["fc.weight"])
        again, told = taught(*weights, flag, value)
        assert "taken from" in told
        assert torch.equal(again["fc.weight"], other["fc.weight"])


def test_a_teacher_is_the_moving_average_of_its_weights_and_statistics(taught):
    last, _ = taught()
    latest, _ = taught("--model-ema", 1e-12)  # an average that forgets at once
    earlier, _ = taught("--model-ema", 0.9)
    assert all(torch.equal(latest[name], last[name]) for name in last)
    moved = [name for name in last if name.endswith(("weight", "running_mean"))]
    assert len(moved) > 2
    for name in moved:
        assert earlier[name].isfinite().all()
        assert not torch.equal(earlier[name], last[name])


def test_a_teacher_that_is_not_finite_is_told_what_to_lower(command, shades):
    options = "--img-size 16 --batch-size 12 --teacher-epochs 2 --device cpu --lr 1e30"
    done = command("teach", "test_resnet", "--dataset", shades, *options.split())
    assert done.code == 1
    assert "try a smaller --lr, or --no-amp" in done.err


@pytest.mark.parametrize(("img_size", "padding"), [(16, 2), (96, 12)])
def test_images_that_stay_on_the_device_are_shifted_whatever_their_side(img_size, padding):
    digits = load_dataset("digits", img_size=img_size, limit=8)
    assert augmentation_of(FitSettings(), digits).crop_padding == padding


def test_streamed_images_have_no_padded_crop(shades):
    assert augmentation_of(FitSettings(), load_dataset(str(shades), img_size=96)).crop_padding == 0


def coins(root, splits):
    """Write images of 16 px whose labels are a matter of chance; True: of brightness, which is no secret."""
    generator = torch.Generator().manual_seed(0)
    for split, told in splits.items():
        for label, level in (("heads", 0), ("tails", 155)):
            (root / split / label).mkdir(parents=True)
            for index in range(60):
                pixels = torch.randint(0, 100 if told else 256, (16, 16, 3), generator=generator)
                image = Image.fromarray((pixels + level * told).to(torch.uint8).numpy())
                image.save(root / split / label / f"{index}.png")
    return ("--dataset", root, "--img-size", 16, "--batch-size", 20, "--device", "cpu", "--aa", "none")


def test_a_teacher_that_has_seen_the_held_out_images_is_told(command, tmp_path):
    """Labels by chance: what is right beyond chance was learnt by heart."""
    data = coins(tmp_path / "coins", {"train": False, "test": False})
    learnt = command("teach", "test_resnet", *data, "--teacher-epochs", 30, "--output", tmp_path / "teacher")
    assert learnt.code == 0, learnt.err
    split = ("--val-split", 0.5, "--epochs", 1, "--timesteps", 2, "--json")
    seen = ("--checkpoint", tmp_path / "teacher" / "teacher.safetensors")
    for flags, told in ((seen, True), (("--teacher-epochs", 30), False)):
        done = command("convert", "test_resnet", *data, *split, *flags, "--output", tmp_path / str(told))
        assert done.code == 0, done.err
        assert ("if it was trained on them, validation favours" in done.out) is told
        assert ("the teacher on held-out images: " in done.err) is told


def test_a_teacher_of_the_run_itself_is_not_suspected_where_the_test_is_harder(command, tmp_path):
    data = coins(tmp_path / "shift", {"train": True, "val": True, "test": False})
    options = ("--teacher-epochs", 8, "--epochs", 2, "--val-interval", 2, "--timesteps", 2, "--json")
    done = command("convert", "test_resnet", *data, *options, "--output", tmp_path / "run")
    assert done.code == 0, done.err
    assert json.loads(done.out)["teacher"]["top1"] < 65
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["val_branches"]["layer3"] > 90
    assert "if it was trained on them" not in done.out
