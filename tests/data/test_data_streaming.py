"""Laws of streamed batches: what they hold depends on seed and epoch, never on the workers."""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ann2snn_distill.data import batches, workers
from ann2snn_distill.data.batches import Augmentation, ClosableBatches
from ann2snn_distill.data.datasets import FolderSplit, load_dataset
from ann2snn_distill.errors import BadInputError

# Python 3.12 warns of a fork among threads; the workers touch no lock that another thread may hold
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

WriteFolder = Callable[..., Path]
CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FULL = Augmentation(True, 0, policy="rand", cutout=8, mixup=0.2, smoothing=0.1)


@pytest.fixture
def split(write_folder: WriteFolder) -> FolderSplit:
    train = load_dataset(str(write_folder({"train": 5, "val": 1}, size=(90, 70)))).train
    assert isinstance(train, FolderSplit)
    return train


def training(split: FolderSplit, *, workers: int = 0, augmentation: Augmentation = FULL) -> ClosableBatches:
    return batches.train_batches(
        split,
        classes=2,
        img_size=32,
        mean=MEAN,
        std=STD,
        batch_size=4,
        augmentation=augmentation,
        device=CPU,
        seed=0,
        workers=workers,
    )


def same(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def test_workers_change_nothing_and_an_epoch_alone_equals_it_after_others(split: FolderSplit) -> None:
    train = training(split, workers=2)
    epochs = [list(train.epoch(epoch)) for epoch in range(2)]
    alone = list(training(split, workers=0).epoch(1))
    assert train.steps_per_epoch == len(alone) == 2
    assert same(epochs[1], alone)
    assert not same(epochs[0], alone)
    assert all(x.shape == (4, 3, 32, 32) for x, _ in alone)


def test_an_epoch_from_any_step_on_is_the_end_of_the_whole_epoch(split: FolderSplit) -> None:
    augmentation = Augmentation(True, 0, policy="rand", cutout=8, mixup=0.2, cutmix=1.0, smoothing=0.1)
    whole = list(training(split, augmentation=augmentation).epoch(1))
    for start in range(3):
        assert same(list(training(split, augmentation=augmentation).epoch(1, start)), whole[start:])


def test_the_global_random_state_is_neither_used_nor_moved(split: FolderSplit) -> None:
    before = torch.random.get_rng_state()
    first = list(training(split).epoch(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    assert same(first, list(training(split).epoch(0)))


@pytest.mark.parametrize("policy", ["none", "cifar10", "imagenet", "rand", "trivial"])
def test_every_policy_streams(split: FolderSplit, policy: str) -> None:
    x, target = next(training(split, augmentation=Augmentation(True, 0, policy=policy)).epoch(0))
    assert torch.isfinite(x).all()
    torch.testing.assert_close(target.sum(1), torch.ones(4))


@pytest.mark.parametrize("workers", [0, 2])
def test_test_images_are_resized_and_cropped_at_the_centre(split: FolderSplit, workers: int) -> None:
    tested = batches.test_batches(split, img_size=28, mean=MEAN, std=STD, batch_size=4, device=CPU, workers=workers)
    expected = v2.Compose(
        [
            v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(28),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    for _ in range(2):
        passed = list(tested)
        assert [len(labels) for _, labels in passed] == [4, 4, 2]
        assert torch.cat([labels for _, labels in passed]).tolist() == list(split.labels)
        images = torch.cat([x for x, _ in passed])
        for x, path in zip(images, split.paths, strict=True):
            torch.testing.assert_close(x, expected(Image.open(path)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named(split: FolderSplit, workers: int) -> None:
    split.paths[3].write_bytes(b"no image")
    with pytest.raises(BadInputError) as failure:
        list(training(split, workers=workers).epoch(0)) + list(training(split, workers=workers).epoch(1))
    assert str(failure.value).startswith(f"cannot read the image {split.paths[3]}: ")


def test_an_epoch_left_early_changes_nothing_of_the_next(split: FolderSplit) -> None:
    train = training(split, workers=2)
    left = train.epoch(0)
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert same(list(train.epoch(0)), list(training(split).epoch(0)))


def test_workers_live_until_the_training_data_are_closed(split: FolderSplit) -> None:
    others, train, found = set(multiprocessing.active_children()), training(split, workers=2), []
    for epoch in range(3):
        list(train.epoch(epoch))
        found.append({child.pid for child in multiprocessing.active_children() if child not in others})
    assert len(found[0]) == 2
    assert found[1:] == found[:1] * 2
    train.close()
    assert others.issuperset(multiprocessing.active_children())


def test_a_new_pass_ends_one_that_is_under_way(split: FolderSplit) -> None:
    train = training(split, workers=2)
    left = train.epoch(0)
    next(left)
    assert same(list(train.epoch(1)), list(training(split).epoch(1)))
    assert list(left) == []


def test_signals_to_the_whole_group_leave_the_workers(split: FolderSplit) -> None:
    train = training(split, workers=2)
    list(train.epoch(0))
    for child in multiprocessing.active_children():
        subprocess.run(["kill", "-INT", str(child.pid)], check=True)
        subprocess.run(["kill", "-TERM", str(child.pid)], check=True)
    assert same(list(train.epoch(1)), list(training(split).epoch(1)))


def test_a_signal_while_workers_start_is_not_lost(split: FolderSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forked(DataLoader[object]):
        def __iter__(self) -> Any:
            with suppress(KeyboardInterrupt):  # what is raised within a fork goes no further
                os.kill(os.getpid(), signal.SIGINT)
            return super().__iter__()

    monkeypatch.setattr(workers, "DataLoader", Forked)
    with pytest.raises(KeyboardInterrupt):
        next(training(split, workers=1).epoch(0))


def test_a_lost_worker_is_a_sentence(split: FolderSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(path: Path) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(workers, "open_rgb", die)  # the workers are forked, so they see it
    with pytest.raises(BadInputError, match=r"a process that decodes images was lost .*lower --workers"):
        list(training(split, workers=1).epoch(0))
