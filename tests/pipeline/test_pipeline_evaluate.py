"""`eval` compares with what the file says where the test images are the file's, and nowhere else."""

import json
import shutil

import pytest

from ann2snn_distill.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def file_of_shades(command, tiny, tmp_path):
    assert command("convert", *tiny, "--output", tmp_path / "run").code == 0
    return tmp_path / "run" / "student.safetensors"


def evaluated(command, file, data):
    done = command("eval", file, "--dataset", data, "--device", "cpu")
    assert done.code == 0, done.err
    compared = "the report" in done.out
    told = json.loads(command("eval", file, "--dataset", data, "--device", "cpu", "--json").out)
    assert (told["drop"] is not None) == (told["teacher"]["top1"] is not None) == compared
    return compared, [text for text in told["warnings"] if "are not those that the file was measured on" in text]


def test_eval_knows_its_own_test_images_by_what_they_are(command, file_of_shades, shades, tmp_path):
    header, tensors = load_checkpoint(file_of_shades)
    data = shutil.copytree(shades, tmp_path / "elsewhere" / "shades")
    renamed = shutil.copytree(shades, tmp_path / "tones")
    assert evaluated(command, file_of_shades, data) == evaluated(command, file_of_shades, renamed) == (True, [])
    shutil.copy(data / "train" / "dark" / "0.png", data / "test" / "dark" / "0.png")
    compared, (told,) = evaluated(command, file_of_shades, data)
    assert not compared
    assert told.startswith(
        "the test images of shades are not those that the file was measured on: this accuracy cannot"
    )
    training = {key: value for key, value in header.training.items() if key != "test_fingerprint"}
    save_checkpoint(file_of_shades, tensors, header.model_copy(update={"training": training}))
    assert evaluated(command, file_of_shades, data) == (True, [])  # of an earlier release: the name decides
    assert evaluated(command, file_of_shades, renamed) == (False, [])
