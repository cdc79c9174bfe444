"""Bad input through the real command line: one clear sentence, its exit code, nothing half-written."""

import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import DIGITS, refused
from safetensors.torch import save_file

from ann2snn_distill.checkpoint import load_checkpoint, save_checkpoint

CONVERT = {
    "an unknown model": (("test_resnt", *DIGITS), 2, ("no model 'test_resnt'", "did you mean test_resnet")),
    "an unknown student": (("test_resnet", *DIGITS, "--student", "resnet81"), 2, ("resnet81", "did you mean resnet18")),
    "a model that pairs images": (("csatv2", *DIGITS, "--img-size", "64"), 4, ("every pair of a batch's images",)),
    "an unknown data set": (("test_resnet", "--dataset", "digit"), 2, ('unknown data set "digit"', "digits")),
    "no data set": (("test_resnet",), 2, ("--dataset is missing",)),
    "no model": (DIGITS, 2, ("MODEL is missing",)),
    "no timesteps": (("test_resnet", *DIGITS, "--timesteps", 0), 2, ("--timesteps must be at least 1, not 0",)),
    "a batch larger than the data": (
        ("test_resnet", *DIGITS, "--batch-size", 9999),
        1,
        ("a batch of 9999 is larger than the 1437 training images", "--batch-size 1437 or less"),
    ),
    "pieces larger than the data": (
        ("test_resnet", *DIGITS, "--batch-size", 800, "--grad-accum-steps", 2),
        1,
        ("800 times 2", "--batch-size 718 or less"),
    ),
    "a missing checkpoint": (
        ("test_resnet", *DIGITS, "--checkpoint", "/nowhere/weights.pth"),
        1,
        ("/nowhere/weights.pth",),
    ),
    "an unknown precision": (
        ("test_resnet", *DIGITS, "--amp-dtype", "float8"),
        2,
        ("--amp-dtype must be 'bfloat16' or 'float16', not float8",),
    ),
    "a policy for larger images": (("test_resnet", *DIGITS, "--aa", "rand"), 2, ("--aa rand", "--aa none")),
    "an unknown branch": (
        ("test_resnet", *DIGITS, "--branches", "layer9"),
        2,
        ("no cut is named 'layer9'", "layer1, layer2"),
    ),
    "a branch named twice": (("test_resnet", *DIGITS, "--branches", "layer1,layer1"), 2, ("names layer1 twice",)),
    "a branch under two names": (
        ("test_resnet", *DIGITS, "--branches", "head,layer2,layer4"),
        2,
        ("names one place twice, as head and as layer4; give one of the names",),
    ),
    "an empty branch": (("test_resnet", *DIGITS, "--branches", "layer1,"), 2, ("'layer1,' has an empty name",)),
    "none and a branch": (("test_resnet", *DIGITS, "--branches", "none,layer1"), 2, ("none stands alone",)),
    "a match without a file": (
        ("test_resnet", *DIGITS, "--checkpoint-match", "order"),
        2,
        ("give --checkpoint FILE, too",),
    ),
    "images without colours": (
        ("test_resnet", *DIGITS, "--model-kwargs", "in_chans=1"),
        2,
        ("takes 1-channel images, and all images here have 3 channels", "leave in_chans out of --model-kwargs"),
    ),
    "weights of another network": (
        ("test_resnet", *DIGITS, "--init", "teacher", "--student", "resnet10t"),
        2,
        ("resnet10t is not test_resnet", "--init scratch"),
    ),
    "equalised random weights": (
        ("test_resnet", *DIGITS, "--init", "scratch", "--equalize"),
        2,
        ("--equalize rescales a teacher's weights", "--init is scratch"),
    ),
    "a decay for an if neuron": (("test_resnet", *DIGITS, "--neuron", "if", "--decay", 0.5), 2, ("decay",)),
    "resume and overwrite": (("test_resnet", *DIGITS, "--resume", "auto", "--overwrite"), 2, ("exclude each other",)),
    "an unknown device": (("test_resnet", "--dataset", "digits", "--device", "tpu9"), 2, ("'tpu9'",)),
    "a missing config": (("test_resnet", *DIGITS, "--config", "/nowhere.toml"), 2, ("/nowhere.toml",)),
    "two sources of weights": (
        ("test_resnet", *DIGITS, "--pretrained", "--checkpoint", "x.pth"),
        2,
        ("exclude each other",),
    ),
}


@pytest.mark.parametrize(("arguments", "code", "texts"), CONVERT.values(), ids=CONVERT)
@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
def test_convert_refuses_before_it_trains_or_writes(command, tmp_path, arguments, code, texts, dry):
    folder = tmp_path / "run"
    done = command("convert", *arguments, "--output", folder, *(["--dry-run"] if dry else []))
    refused(done, code, *texts)
    assert not folder.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("name", ["convert", "teach"])
def test_cuda_where_there_is_none_is_a_failure(command, name):
    done = command(name, "test_resnet", "--dataset", "digits", "--device", "cuda")
    refused(done, 1, "no CUDA device is available", "--device cpu")


def test_folders_that_hold_no_data_are_failures(command, tmp_path, shades):
    run = ("--output", tmp_path / "run")
    refused(command("convert", "test_resnet", "--dataset", tmp_path / "none", *run), 1, str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    refused(command("convert", "test_resnet", "--dataset", tmp_path / "empty", *run), 1, "train")
    (tmp_path / "half" / "train" / "cat").mkdir(parents=True)
    refused(command("convert", "test_resnet", "--dataset", tmp_path / "half", *run), 1, str(tmp_path / "half"))
    refused(command("convert", "test_resnet", "--dataset", shades / "train", *run), 1, "train")
    assert not (tmp_path / "run").exists()


def test_corrupt_images_end_a_run_by_name_unless_they_are_left_out(command, shades, tiny, tmp_path):
    data = tmp_path / "shades"
    shutil.copytree(shades, data)
    bad = [data / "train" / "dark" / "3.png", data / "test" / "light" / "1.png"]
    bad[0].write_bytes(bad[0].read_bytes()[:80])
    bad[1].write_text("no image")
    arguments = ("test_resnet", "--dataset", data, *tiny[3:])
    run = ("convert", *arguments, "--output", tmp_path / "run")
    refused(command(*run), 1, f"cannot read the image {bad[0]}", "--skip-bad-images")
    assert not (tmp_path / "run").exists()
    done = command(*run, "--skip-bad-images", "--json")
    assert done.code == 0, done.err
    (warning,) = (text for text in json.loads(done.out)["warnings"] if "cannot be read" in text)
    assert warning.startswith("2 image files of shades cannot be read and were left out: ")
    assert all(str(path) in warning for path in bad)
    assert f"warning: {warning}" in done.err
    file = tmp_path / "run" / "student.safetensors"
    refused(command("eval", file, "--device", "cpu"), 1, str(bad[0]), "--skip-bad-images")
    again = command("eval", file, "--device", "cpu", "--skip-bad-images", "--json")
    assert json.loads(again.out)["student"] == json.loads(done.out)["student"]
    assert warning in json.loads(again.out)["warnings"]
    taught = command("teach", *arguments[:3], "--img-size", 16, "--epochs", 1, "--device", "cpu", "--skip-bad-images")
    assert taught.code == 0
    assert warning in taught.err
    planned = command(*run[:-1], tmp_path / "other", "--skip-bad-images", "--dry-run", "--json")
    assert warning in json.loads(planned.out)["warnings"]


def test_a_corrupt_test_image_found_at_the_end_does_not_cost_the_training(command, tmp_path, shades):
    """Large images are read when their turn comes: those of the test split come after the last epoch."""
    data = tmp_path / "large"
    for path in sorted(shades.rglob("*.png")):
        target = data / path.relative_to(shades)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((80, 80)).save(target)
    bad = data / "test" / "grey" / "2.png"
    bad.write_bytes(bad.read_bytes()[:200])
    options = "--img-size 65 --batch-size 12 --epochs 1 --teacher-epochs 1 --timesteps 1 --device cpu --workers 0"
    run = (
        "convert",
        "test_resnet",
        "--no-pretrained",
        "--dataset",
        data,
        *options.split(),
        "--output",
        tmp_path / "run",
    )
    refused(command(*run), 1, f"cannot read the image {bad}", "--skip-bad-images")
    again = command(*run, "--resume", "auto", "--skip-bad-images")
    assert again.code == 0, again.err
    assert "going on after epoch 1 of 1" in again.err
    assert "teacher: taken from" in again.err


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_in_it_is_refused_and_not_run(command, tmp_path):
    mark, run = tmp_path / "mark", tmp_path / "run"
    torch.save({"weight": Code(mark)}, tmp_path / "evil.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Code(mark)))
    for name in ("evil.pth", "bare.pth"):
        done = command("convert", "test_resnet", *DIGITS, "--checkpoint", tmp_path / name, "--output", run)
        refused(done, 1, name)
    assert not mark.exists()
    assert not run.exists()


def test_weights_of_other_shapes_are_refused(command, tmp_path):
    save_file({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "foreign.safetensors")
    checkpoint = ("--checkpoint", tmp_path / "foreign.safetensors", "--output", tmp_path / "run")
    refused(command("convert", "test_resnet", *DIGITS, *checkpoint), 1, "foreign.safetensors")


def test_files_that_are_no_students_are_refused(command, trained, tmp_path):
    good = (trained / "student.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("no tensors here, only words")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    for name, text in (("cut", "truncated"), ("empty", "not a safetensors"), ("text", "not a safetensors")):
        for verb in ("eval", "inspect"):
            refused(command(verb, tmp_path / f"{name}.safetensors"), 1, text)
    refused(command("eval", tmp_path / "foreign.safetensors"), 1, "not an SNN checkpoint", "`inspect MODEL` needs none")
    refused(command("inspect", tmp_path / "foreign.safetensors"), 1, "not an SNN checkpoint")
    refused(command("eval", tmp_path / "nothing.safetensors"), 1, "there is no file")
    refused(command("eval", tmp_path), 1, "is a folder")


def test_a_header_of_another_version_is_refused(command, trained, tmp_path):
    content = (trained / "student.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["snn_distill"])
    for version, text in ((3, "newer snn-distill"), (0, "format_version"), ("one", "format_version")):
        outer["__metadata__"]["snn_distill"] = json.dumps(header | {"format_version": version})
        new = json.dumps(outer).encode()
        path = tmp_path / "other.safetensors"
        path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])
        for verb in ("eval", "inspect"):
            refused(command(verb, path), 1, text)


def test_a_header_whose_network_cannot_be_built_is_a_bad_file(command, trained, tmp_path):
    header, tensors = load_checkpoint(trained / "student.safetensors")
    thresholds = dict(list(header.thresholds.items())[1:])
    for change in (
        {"student": "no_such_net"},
        {"coverage": "half"},
        {"maxpool": "median"},
        {"model_kwargs": {"nonsense": 1}},
        {"thresholds": thresholds},
    ):
        path = tmp_path / "student.safetensors"
        save_checkpoint(path, tensors, header.model_copy(update=change))
        refused(command("eval", path, "--device", "cpu"), 1)
    save_checkpoint(path, tensors, header.model_copy(update={"student": "no_such_net"}))
    refused(command("inspect", path), 1, "cannot be built here", "no_such_net")


def test_tensors_that_do_not_match_the_header_are_refused(command, trained, tmp_path):
    header, tensors = load_checkpoint(trained / "student.safetensors")
    path = tmp_path / "student.safetensors"
    changes = {
        "1 tensors of the file have another shape": {"fc.weight": torch.zeros(3, 3)},
        "1 too many": {"stray": torch.zeros(1)},
    }
    for text, change in changes.items():
        save_checkpoint(path, {**tensors, **change}, header)
        refused(command("eval", path, "--device", "cpu"), 1, text, *change)
    save_checkpoint(path, {name: tensors[name] for name in list(tensors)[1:]}, header)
    refused(command("eval", path, "--device", "cpu"), 1, "1 missing")


def test_changed_weights_are_measured_as_they_are_and_the_difference_is_told(command, trained, tmp_path):
    header, tensors = load_checkpoint(trained / "student.safetensors")
    claimed = dict.fromkeys(header.training["test_top1_at"], 100.0)
    header = header.model_copy(update={"training": header.training | {"test_top1_at": claimed}})
    save_checkpoint(tmp_path / "student.safetensors", tensors, header)
    done = command("eval", tmp_path / "student.safetensors", "--device", "cpu")
    assert done.code == 0
    assert "differs from the report by up to" in done.out


def test_eval_on_data_of_other_classes_is_refused(command, trained, shades):
    done = command("eval", trained / "student.safetensors", "--dataset", shades, "--device", "cpu")
    refused(done, 1, "the file knows 10 classes and shades has 3")


@pytest.mark.parametrize("torchcompile", [[], ["--torchcompile"]], ids=["plain", "compiled"])
def test_one_image_at_once_that_a_batch_norm_cannot_train_on_is_refused(command, tmp_path, torchcompile):
    options = (
        "--dataset digits --img-size 8 --limit 4 --batch-size 1 --grad-accum-steps 4 --epochs 1 --teacher-epochs 1"
    )
    done = command("convert", "resnet10t", *options.split(), "--device", "cpu", *torchcompile, "--output", tmp_path)
    assert done.code == 1
    assert "one image at once leaves a batch norm of the ANN one value a channel" in done.err
    assert "choose --batch-size 2 or more" in done.err
