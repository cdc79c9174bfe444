"""Laws of data sets known by name: what digits and both layouts of cifar10 hold, splits, limits, errors."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from ann2snn_distill.data.datasets import NAMES, ImageSplit, cache_dir, load_dataset
from ann2snn_distill.data.splits import spread
from ann2snn_distill.errors import BadInputError, UsageError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def images(split: object) -> torch.Tensor:
    assert isinstance(split, ImageSplit)
    return split.images_NCHW


def random_cifar(count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), [i % 10 for i in range(count)]


@pytest.fixture
def fake_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty random training and ten test images in torchvision's layout, with checksums to match."""
    folder = tmp_path / "pickles" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    parts = {"data_batch_1": random_cifar(20, 0), "test_batch": random_cifar(10, 1)}
    sums = {name: write(name, {"data": data, "labels": labels}) for name, (data, labels) in parts.items()}
    meta = write("batches.meta", {"label_names": list(CIFAR10)})
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "train_list", [sums["data_batch_1"]])
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "test_list", [sums["test_batch"]])
    monkeypatch.setattr(
        torchvision_datasets.CIFAR10,
        "meta",
        {"filename": "batches.meta", "key": "label_names", "md5": meta[1]},
    )
    return folder.parent


def write_class_folders(root: Path) -> Path:
    for split, (data, labels) in {"train": random_cifar(20, 0), "test": random_cifar(10, 1)}.items():
        for index, (row, label) in enumerate(zip(data, labels, strict=True)):
            folder = root / split / CIFAR10[label]
            folder.mkdir(parents=True, exist_ok=True)
            # names in reverse: the order of files must not matter
            Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(folder / f"{99 - index}.png")
    return root


def test_digits_has_1437_training_and_360_test_images_of_ten_classes_at_16_pixels() -> None:
    dataset = load_dataset("digits")
    assert (len(dataset.train), len(dataset.test), dataset.val) == (1437, 360, None)
    assert images(dataset.train).shape == (1437, 3, 16, 16)
    assert images(dataset.train).dtype == torch.uint8
    assert dataset.classes == tuple("0123456789")
    assert not dataset.mirror_safe
    counts = torch.bincount(dataset.test.labels_N)
    assert int(counts.min()) >= 34
    assert int(counts.max()) <= 37


def test_digits_are_scikit_learns_scans_enlarged_bilinearly() -> None:
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits", img_size=8)
    scans = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    found = np.concatenate([images(dataset.train)[:, 0].numpy(), images(dataset.test)[:, 0].numpy()])
    assert sorted(scan.tobytes() for scan in scans) == sorted(image.tobytes() for image in found)
    small, enlarged = images(dataset.train)[0, 0].numpy(), images(load_dataset("digits").train)[0, 0].numpy()
    place = (np.arange(16) + 0.5) / 2 - 0.5  # the centres of the new pixels among the old ones
    rows = np.array([np.interp(place, np.arange(8), column) for column in small.T.astype(float)]).T
    both = np.array([np.interp(place, np.arange(8), row) for row in rows])
    assert np.abs(both - enlarged).max() <= 0.5 + 1e-4


def test_the_test_images_never_depend_on_seed_limit_or_val_split() -> None:
    plain = load_dataset("digits")
    other = load_dataset("digits", seed=7, limit=50, val_split=0.2)
    assert torch.equal(images(plain.test), images(other.test))


def test_statistics_of_digits_are_those_of_the_training_images() -> None:
    dataset = load_dataset("digits")
    pixels = images(dataset.train).double() / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert dataset.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_val_split_is_disjoint_stratified_and_decided_by_the_seed() -> None:
    whole = load_dataset("digits")
    dataset, again, other = (load_dataset("digits", val_split=0.1, seed=seed) for seed in (3, 3, 4))
    assert dataset.val is not None
    assert again.val is not None
    assert other.val is not None
    joined = torch.cat([images(dataset.train), images(dataset.val)])
    assert sorted(i.numpy().tobytes() for i in joined) == sorted(i.numpy().tobytes() for i in images(whole.train))
    share = torch.bincount(dataset.val.labels_N) / torch.bincount(whole.train.labels_N)
    assert torch.allclose(share, torch.tensor(0.1), atol=0.5 / 139)
    assert torch.equal(images(dataset.val), images(again.val))
    assert not torch.equal(images(dataset.val), images(other.val))


def test_limit_takes_a_seeded_subset_and_larger_limits_hold_smaller_ones() -> None:
    few, more = (load_dataset("digits", limit=n, seed=1) for n in (20, 60))
    assert len(few.train) == 20
    assert torch.equal(images(more.train)[:20], images(few.train))
    assert not torch.equal(images(load_dataset("digits", limit=20, seed=2).train), images(few.train))


def test_the_fingerprint_changes_with_the_training_images_and_with_nothing_else() -> None:
    plain = load_dataset("digits").fingerprint
    assert load_dataset("digits", seed=5).fingerprint == plain
    changed = [
        load_dataset("digits", limit=100).fingerprint,
        load_dataset("digits", limit=100, seed=1).fingerprint,
        load_dataset("digits", val_split=0.1).fingerprint,
        load_dataset("digits", img_size=8).fingerprint,
    ]
    assert len({plain, *changed}) == 5


def test_both_layouts_of_cifar10_give_identical_data_sets(fake_batches: Path, tmp_path: Path) -> None:
    pickled = load_dataset("cifar10", data_dir=fake_batches)
    folders = load_dataset("cifar10", data_dir=write_class_folders(tmp_path / "folders"))
    nested = load_dataset("cifar10", data_dir=write_class_folders(tmp_path / "data" / "cifar10").parent)
    for dataset in (folders, nested):
        assert torch.equal(images(dataset.train), images(pickled.train))
        assert torch.equal(dataset.train.labels_N, pickled.train.labels_N)
        assert dataset.fingerprint == pickled.fingerprint
    assert pickled.classes == folders.classes == CIFAR10
    assert pickled.std == (0.2470, 0.2435, 0.2616)
    assert pickled.mirror_safe


def test_every_image_of_cifar10_keeps_its_label(fake_batches: Path) -> None:
    data, labels = random_cifar(20, 0)
    expected = {row.tobytes(): label for row, label in zip(data, labels, strict=True)}
    train = load_dataset("cifar10", data_dir=fake_batches).train
    found = {i.numpy().tobytes(): int(label) for i, label in zip(images(train), train.labels_N, strict=True)}
    assert found == expected


def test_damaged_batches_of_cifar10_are_named(fake_batches: Path) -> None:
    (fake_batches / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half a file")
    with pytest.raises(BadInputError, match=r"could not read CIFAR10 in .*pickles: .*corrupted.*--download"):
        load_dataset("cifar10", data_dir=fake_batches)


def test_svhn_and_mnist_shapes_become_three_channels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Grey:
        classes = tuple("0123456789")
        data = torch.arange(2 * 28 * 28).reshape(2, 28, 28).to(torch.uint8)
        targets = torch.tensor([1, 0])

        def __init__(self, root: Path, *, train: bool, download: bool) -> None: ...

    class House:
        data = np.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).astype(np.uint8)
        labels = np.array([1, 0])

        def __init__(self, root: Path, *, split: str, download: bool) -> None: ...

    monkeypatch.setattr(torchvision_datasets, "MNIST", Grey)
    monkeypatch.setattr(torchvision_datasets, "SVHN", House)
    mnist, svhn = (load_dataset(name, data_dir=tmp_path, download=True) for name in ("mnist", "svhn"))
    assert images(mnist.train).shape == (2, 3, 28, 28)
    assert torch.equal(images(mnist.train)[0, 2], Grey.data[1])
    assert torch.equal(images(svhn.train)[1], torch.from_numpy(House.data[0]))
    assert not svhn.mirror_safe
    assert svhn.classes == mnist.classes == tuple("0123456789")


def test_absent_data_say_where_they_were_looked_for_and_both_ways_on(cache: Path) -> None:
    with pytest.raises(BadInputError) as failure:
        load_dataset("cifar100")
    for part in ("cifar100", str(cache / "data"), "--data-dir DIR", "--download"):
        assert part in str(failure.value)


def test_a_failed_download_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision_datasets, "KMNIST", refuse)
    with pytest.raises(BadInputError, match=r"could not fetch KMNIST in .*: no route to host; copy the data"):
        load_dataset("kmnist", data_dir=tmp_path, download=True)


def test_an_unknown_name_is_wrong_usage_and_near_names_are_offered() -> None:
    with pytest.raises(UsageError) as failure:
        load_dataset("cifr10")
    assert 'unknown data set "cifr10"; did you mean cifar10' in str(failure.value)
    for name in NAMES:
        assert name in str(failure.value)


def test_impossible_limits_and_shares_name_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"--limit 5000 asks for more than the 1437 training images"):
        load_dataset("digits", limit=5000)
    with pytest.raises(UsageError, match=r"--val-split 0\.001 would hold out 0 of 1437"):
        load_dataset("digits", val_split=0.001)


def test_images_too_large_for_memory_are_refused_before_they_are_made() -> None:
    with pytest.raises(UsageError, match=r"1797 images of 2000 px take \d+ GiB"):
        load_dataset("digits", img_size=2000)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("SNN_DISTILL_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "snn-distill"


def test_a_spread_sample_of_sorted_data_holds_every_class_alike() -> None:
    split = ImageSplit(torch.zeros(1000, 3, 8, 8, dtype=torch.uint8), torch.arange(10).repeat_interleave(100))
    assert torch.bincount(spread(split, 50).labels_N).tolist() == [5] * 10
    assert spread(split, 2000) is split
