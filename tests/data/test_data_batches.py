"""Laws of batches from images that stay on the device."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as oracle

from ann2snn_distill.data import batches, resident
from ann2snn_distill.data.batches import Augmentation, TrainBatches
from ann2snn_distill.data.datasets import ImageSplit
from ann2snn_distill.errors import BadInputError, UsageError

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
PLAIN = Augmentation(flip=False, crop_padding=0)
FULL = Augmentation(True, 2, policy="cifar10", cutout=3, mixup=0.4, cutmix=1.0, smoothing=0.1)


def random_split(count: int = 50, size: int = 8) -> ImageSplit:
    random = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 3, size, size), generator=random, dtype=torch.uint8)
    return ImageSplit(images, torch.arange(count) % 4)


def training(
    split: ImageSplit,
    augmentation: Augmentation = PLAIN,
    *,
    batch_size: int = 16,
    device: torch.device = CPU,
    seed: int = 0,
    channels_last: bool = False,
) -> TrainBatches:
    return batches.train_batches(
        split,
        classes=4,
        img_size=8,
        mean=MEAN,
        std=STD,
        batch_size=batch_size,
        augmentation=augmentation,
        device=device,
        seed=seed,
        channels_last=channels_last,
    )


def same(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def test_an_epoch_alone_equals_the_same_epoch_after_others_bit_for_bit() -> None:
    went_on, resumed = training(random_split(), FULL), training(random_split(), FULL)
    for epoch in range(3):
        list(went_on.epoch(epoch))
    assert same(list(went_on.epoch(3)), list(resumed.epoch(3)))


@pytest.mark.parametrize("chunk_bytes", [1, 2 * 16 * 3 * 64, 2**20], ids=["a step", "two steps", "all"])
def test_an_epoch_from_any_step_on_is_the_end_of_the_whole_epoch(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(resident, "CHUNK_BYTES", chunk_bytes)
    train = training(random_split(90), FULL)
    whole = list(train.epoch(1))
    assert len(whole) == 5
    for start in range(6):
        assert same(list(train.epoch(1, start)), whole[start:])


def test_epochs_and_seeds_differ() -> None:
    first = list(training(random_split(), FULL).epoch(0))
    assert not same(first, list(training(random_split(), FULL).epoch(1)))
    assert not same(first, list(training(random_split(), FULL, seed=1).epoch(0)))


def test_the_global_random_state_is_neither_used_nor_moved() -> None:
    before = torch.random.get_rng_state()
    first = list(training(random_split(), FULL).epoch(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    assert same(first, list(training(random_split(), FULL).epoch(0)))


def test_batches_are_full_normalised_and_hold_each_image_once() -> None:
    split = random_split(50)
    train = training(split)
    epoch = list(train.epoch(0))
    assert train.steps_per_epoch == len(epoch) == 3
    assert all(x.shape == (16, 3, 8, 8) and x.dtype == torch.float32 for x, _ in epoch)
    expected = {
        int(i): oracle.normalize(oracle.convert_image_dtype(image), MEAN, STD)
        for i, image in enumerate(split.images_NCHW)
    }
    found = []
    for x, target in ((x, t) for batch in epoch for x, t in zip(*batch, strict=True)):
        (index,) = (i for i, image in expected.items() if torch.allclose(image, x, atol=1e-5))
        assert target.tolist() == torch.eye(4)[split.labels_N[index]].tolist()
        found.append(index)
    assert len(set(found)) == 48


def test_targets_are_probabilities_whatever_is_mixed() -> None:
    for _, target_BK in training(random_split(), FULL).epoch(0):
        assert target_BK.dtype == torch.float32
        torch.testing.assert_close(target_BK.sum(1), torch.ones(16))
        assert float(target_BK.min()) > 0


def test_an_epoch_after_the_last_mixed_one_has_the_targets_of_one_image_each() -> None:
    batches = training(random_split(), replace(FULL, smoothing=0.0, mixup_off_epoch=1))
    assert any(float(target_BK.max(1).values.min()) < 1 for _, target_BK in batches.epoch(0))
    for _, target_BK in batches.epoch(1):
        assert sorted(target_BK.unique().tolist()) == [0.0, 1.0]


def test_chunks_hold_whole_batches_and_every_batch_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "CHUNK_BYTES", 20 * 3 * 8 * 8)
    epoch = list(training(random_split(), FULL).epoch(0))
    assert [len(x) for x, _ in epoch] == [16, 16, 16]


def test_channels_last_changes_the_layout_and_no_value() -> None:
    plain = list(training(random_split(), FULL).epoch(0))
    turned = list(training(random_split(), FULL, channels_last=True).epoch(0))
    assert same(plain, turned)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in turned)


def test_test_batches_come_in_order_again_and_again_with_a_short_last_one() -> None:
    split = random_split(10)
    tested = batches.test_batches(split, img_size=8, mean=MEAN, std=STD, batch_size=4, device=CPU)
    for _ in range(2):
        passed = list(tested)
        assert [len(labels) for _, labels in passed] == [4, 4, 2]
        assert torch.equal(torch.cat([labels for _, labels in passed]), split.labels_N)
        expected = oracle.normalize(oracle.convert_image_dtype(split.images_NCHW), MEAN, STD)
        torch.testing.assert_close(torch.cat([x for x, _ in passed]), expected, atol=1e-5, rtol=0)


def test_a_batch_larger_than_the_split_names_both_and_the_remedy() -> None:
    with pytest.raises(BadInputError, match=r"a batch of 64 is larger than the 50 .* --batch-size 50 or less"):
        training(random_split(50), batch_size=64)


def test_policies_for_streamed_images_are_refused_for_resident_ones() -> None:
    with pytest.raises(UsageError, match=r"--aa rand is for streamed images.*--aa cifar10"):
        training(random_split(), Augmentation(False, 0, policy="rand"))


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives() -> None:
    augmentation = Augmentation(True, 2, cutout=3, mixup=0.4, cutmix=1.0, smoothing=0.1)
    on_cpu = list(training(random_split(), augmentation).epoch(0))
    on_cuda = list(training(random_split(), augmentation, device=torch.device("cuda")).epoch(0))
    for (x, target), (x_cuda, target_cuda) in zip(on_cpu, on_cuda, strict=True):
        torch.testing.assert_close(x_cuda.cpu(), x)
        torch.testing.assert_close(target_cuda.cpu(), target)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_batch_after_the_first_waits_for_the_device() -> None:
    epoch = training(random_split(), FULL, device=torch.device("cuda")).epoch(0)
    next(epoch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(epoch)) == 2
    finally:
        torch.cuda.set_sync_debug_mode("default")
