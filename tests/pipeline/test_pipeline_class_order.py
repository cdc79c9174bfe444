"""A folder of 1,000 classes that may not be ImageNet's is not taken for it in silence."""

import json
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

from ann2snn_distill.pipeline.class_order import order_warnings

COUNT = 1_000
WORDNET = ImageNetInfo("imagenet-1k").label_names()


def warned(classes, *, trained=True, known=None):
    data = SimpleNamespace(classes=tuple(sorted(classes)), name="things")
    return order_warnings(SimpleNamespace(trained=trained, source="checkpoint:net.pth", class_names=known), data)


def test_the_names_in_a_teachers_file_decide_whatever_their_count():
    assert warned(["cat", "dog"], known=("cat", "dog")) == ()
    words = tuple(sorted(f"class{number}" for number in range(COUNT)))
    assert warned(words, known=words) == ()
    assert warned(["cat", "dog"], trained=False, known=("dog", "eel")) == ()
    assert warned(["cat", "dog", "eel"], known=("cat", "eel", "dog")) == (
        "2 of 3 classes of things have other names than in checkpoint:net.pth (class 1 is 'dog' there and 'eel' in "
        "checkpoint:net.pth): unless they are the same, give another --checkpoint, or none",
    )


@pytest.mark.parametrize(
    "classes",
    [
        WORDNET,
        [f"{name}_{number}" for number, name in enumerate(WORDNET)],
        [f"{number:04d}" for number in range(COUNT)],
        [f"{number:04d}" for number in range(1, COUNT + 1)],
        [f"class{number}" for number in range(COUNT - 1)],
    ],
    ids=["WordNet ids", "ids and more", "indices", "indices from 1", "another count"],
)
def test_names_that_say_the_order_and_other_counts_are_no_cause_for_a_warning(classes):
    assert warned(classes) == ()


@pytest.mark.parametrize(
    "classes",
    [
        [f"class{number}" for number in range(COUNT)],
        [str(number) for number in range(COUNT)],
        ["n00000001", *WORDNET[1:]],
        [f"{number:04d}" for number in range(2, COUNT + 2)],
    ],
    ids=["words", "indices that sort otherwise", "another WordNet id", "indices from 2"],
)
def test_names_that_do_not_say_the_order_are_told_once_where_the_classifier_was_kept(classes):
    assert warned(classes, trained=False) == ()
    (text,) = warned(classes)
    assert text.startswith(
        f"the class folders of things ({min(classes)} first) are named neither by ImageNet's WordNet"
    )
    assert "that of the 1,000 classes in checkpoint:net.pth" in text


def test_convert_and_teach_warn_of_it(command, tmp_path):
    for split in ("train", "test"):
        for number in range(COUNT):
            folder = tmp_path / "things" / split / f"thing{number}"
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(folder / "0.bmp")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "net.pth")
    arguments = (
        "test_resnet",
        "--dataset",
        tmp_path / "things",
        "--checkpoint",
        tmp_path / "net.pth",
        "--device",
        "cpu",
    )
    done = command("convert", *arguments, "--output", tmp_path / "run", "--dry-run", "--json")
    assert done.code == 0, done.err
    (text,) = (text for text in json.loads(done.out)["warnings"] if "class folders" in text)
    assert "(thing0 first)" in text
    taught = command("teach", *arguments)
    assert taught.code == 0, taught.err
    assert taught.err.count(f"warning: {text}") == 1
