"""Laws of image folders: which split reports, what is decoded, what is cached, and what is refused."""

import importlib.util
import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from ann2snn_distill.data.datasets import FolderSplit, ImageSplit, load_dataset
from ann2snn_distill.data.decoding import open_rgb
from ann2snn_distill.data.known import KNOWN
from ann2snn_distill.data.splits import images_fingerprint
from ann2snn_distill.errors import BadInputError, UsageError

WriteFolder = Callable[..., Path]
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def test_a_folder_of_small_images_is_decoded_pixel_by_pixel(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 3, "val": 2}, size=(12, 12))
    dataset = load_dataset(str(root))
    assert isinstance(dataset.train, ImageSplit)
    assert (dataset.name, dataset.classes, dataset.img_size) == ("insects", ("ant", "bee"), 12)
    assert dataset.train.labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.asarray(Image.open(root / "train" / "bee" / "001.png")).transpose(2, 0, 1)
    assert np.array_equal(dataset.train.images_NCHW[4].numpy(), expected)
    pixels = dataset.train.images_NCHW.double() / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert dataset.mirror_safe


def test_larger_images_are_listed_and_take_imagenets_statistics(write_folder: WriteFolder) -> None:
    dataset = load_dataset(str(write_folder({"train": 2, "val": 1}, size=(80, 70))))
    assert isinstance(dataset.train, FolderSplit)
    assert dataset.img_size == 224
    assert dataset.mean == (0.485, 0.456, 0.406)
    assert [path.name for path in dataset.train.paths] == ["000.png", "001.png"] * 2
    assert dataset.train.labels == (0, 0, 1, 1)


def test_larger_images_asked_for_small_are_scaled_and_cropped_at_the_centre(
    write_folder: WriteFolder,
) -> None:
    root = write_folder({"train": 1, "test": 1}, size=(100, 80))
    halves = np.zeros((80, 100, 3), np.uint8)
    halves[:, 50:] = 255
    Image.fromarray(halves).save(root / "train" / "ant" / "000.png")
    dataset = load_dataset(str(root), img_size=32)
    assert isinstance(dataset.train, ImageSplit)
    image_HW = dataset.train.images_NCHW[0, 0]
    assert image_HW.shape == (32, 32)
    assert torch.all(image_HW[:, :15] == 0)
    assert torch.all(image_HW[:, 17:] == 255)


def test_with_val_and_test_val_tunes_and_test_reports(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 4, "val": 2, "test": 3})
    dataset = load_dataset(str(root))
    assert dataset.val is not None
    assert (len(dataset.val), len(dataset.test)) == (4, 6)
    with pytest.raises(UsageError, match="has a val/ folder of its own; leave --val-split out"):
        load_dataset(str(root), val_split=0.5)


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_lone_val_or_test_folder_reports(write_folder: WriteFolder, name: str) -> None:
    dataset = load_dataset(str(write_folder({"train": 4, name: 3})))
    assert dataset.val is None
    assert len(dataset.test) == 6


def test_listed_splits_are_carved_and_limited_as_decoded_ones_are(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 10, "val": 1}, size=(80, 80))
    listed = load_dataset(str(root), val_split=0.2, limit=8, seed=1)
    decoded = load_dataset(str(root), val_split=0.2, limit=8, seed=1, img_size=16)
    assert isinstance(listed.train, FolderSplit)
    assert listed.val is not None
    assert decoded.val is not None
    assert len(listed.val) == 4
    assert torch.equal(listed.val.labels_N, decoded.val.labels_N)
    assert torch.equal(listed.train.labels_N, decoded.train.labels_N)


def test_the_fingerprint_of_a_listed_folder_moves_with_it_and_changes_with_its_files(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder({"train": 2, "val": 1}, size=(80, 80))
    before = load_dataset(str(root)).fingerprint
    (tmp_path / "elsewhere").mkdir()
    moved = root.rename(tmp_path / "elsewhere" / root.name)
    assert load_dataset(str(moved)).fingerprint == before
    (moved / "val" / "ant" / "000.png").write_bytes(b"mended later")
    assert load_dataset(str(moved)).fingerprint == before
    (moved / "train" / "ant" / "000.png").unlink()
    assert load_dataset(str(moved)).fingerprint != before


@pytest.mark.parametrize("side", [12, 80])
def test_the_fingerprint_of_images_follows_them_and_their_labels_and_no_order(
    write_folder: WriteFolder, tmp_path: Path, side: int
) -> None:
    root = write_folder({"train": 2, "test": 3}, size=(side, side))
    test = load_dataset(str(root)).test
    before = images_fingerprint(test)
    assert images_fingerprint(test.take(torch.arange(len(test)).flip(0))) == before
    assert images_fingerprint(test.take(torch.arange(len(test) - 1))) != before
    moved = root.rename(tmp_path / "renamed")
    assert images_fingerprint(load_dataset(str(moved)).test) == before
    for split in ("train", "test"):
        (moved / split / "bee").rename(moved / split / "aardvark")  # the first class now, and no longer the last
    assert images_fingerprint(load_dataset(str(moved)).test) != before


def test_a_second_load_reads_the_cache_and_a_changed_file_renews_it(
    write_folder: WriteFolder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder({"train": 2, "val": 1})
    first = load_dataset(str(root), img_size=8)
    assert len(list((cache / "decoded").iterdir())) == 2

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr("ann2snn_distill.data.decoding._decode_all", refuse)
        assert load_dataset(str(root), img_size=8).fingerprint == first.fingerprint
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / "train" / "ant" / "000.png")
    renewed = load_dataset(str(root), img_size=8).train
    assert isinstance(renewed, ImageSplit)
    assert renewed.images_NCHW[0, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("damage", ["truncated", "unwritable"])
def test_a_useless_cache_costs_only_time(write_folder: WriteFolder, cache: Path, damage: str) -> None:
    root = write_folder({"train": 2, "val": 1})
    if damage == "unwritable":
        cache.write_text("a file where the folder should be")
    first = load_dataset(str(root))
    if damage == "truncated":
        for file in (cache / "decoded").iterdir():
            file.write_bytes(file.read_bytes()[:50])
    assert load_dataset(str(root)).fingerprint == first.fingerprint


@pytest.mark.parametrize(("form", "dtype"), [("png", "uint16"), ("pgm", "uint16"), ("tiff", "uint16"), ("tiff", ">u2")])
def test_sixteen_bits_become_eight(tmp_path: Path, form: str, dtype: str) -> None:
    grey_HW = np.linspace(0, 65535, 64).round().reshape(8, 8)
    path = tmp_path / f"image.{form}"
    Image.fromarray(grey_HW.astype(dtype)).save(path)
    seen_HWC = np.asarray(open_rgb(path))
    assert np.array_equal(seen_HWC, np.repeat((grey_HW / 257).round()[..., None], 3, axis=2))


@pytest.mark.parametrize(("photometric", "seen"), [(0, [255, 0]), (1, [0, 255])])  # 0: white is zero
def test_sixteen_bits_of_a_tiff_may_count_from_white(tmp_path: Path, photometric: int, seen: list[int]) -> None:
    path = tmp_path / "image.tiff"
    Image.fromarray(np.array([[0, 65535]], "uint16")).save(path, tiffinfo={PHOTOMETRIC_INTERPRETATION: photometric})
    assert np.asarray(open_rgb(path))[0, :, 0].tolist() == seen


@pytest.mark.parametrize(("dtype", "numbers"), [("float32", "floating-point numbers"), ("int32", "integers")])
def test_pixels_of_no_known_range_are_refused(write_folder: WriteFolder, dtype: str, numbers: str) -> None:
    root = write_folder({"train": 3, "val": 2}, size=(12, 12))
    Image.fromarray(np.zeros((12, 12), dtype)).save(root / "train" / "ant" / "wide.tiff")
    with pytest.raises(BadInputError, match=rf"wide.tiff: its pixels are {numbers} whose range .* 8 or 16 bits"):
        load_dataset(str(root))
    assert len(load_dataset(str(root), skip_bad_images=True).train) == 6


def test_images_below_8_px_are_enlarged_to_the_least_side_that_a_setting_may_say(write_folder: WriteFolder) -> None:
    dataset = load_dataset(str(write_folder({"train": 3, "val": 2}, size=(6, 5))))
    assert dataset.img_size == 8
    assert isinstance(dataset.train, ImageSplit)
    assert dataset.train.images_NCHW.shape == (6, 3, 8, 8)


def test_a_corrupt_image_is_named(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 2, "val": 1})
    broken = root / "train" / "bee" / "001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(BadInputError) as failure:
        load_dataset(str(root))
    assert str(failure.value).startswith(f"cannot read the image {broken}: ")
    assert str(failure.value).endswith("or leave out what cannot be read with --skip-bad-images")


def damage(root: Path, *names: str) -> list[Path]:
    """Truncate the first image, empty the second, and put text in the place of the third."""
    paths = [root / name for name in names]
    for path, content in zip(paths, (paths[0].read_bytes()[:60], b"", b"no image"), strict=False):
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize("size", [(8, 8), (80, 70)], ids=["decoded", "listed"])
def test_corrupt_images_are_left_out_by_name_and_the_rest_is_the_data_set_without_them(
    write_folder: WriteFolder, size: tuple[int, int]
) -> None:
    root, twin = (write_folder({"train": 4, "val": 2, "test": 3}, size=size, name=name) for name in ("a", "b"))
    names = ("train/ant/000.png", "train/bee/003.png", "test/ant/001.png")
    bad = damage(root, *names)
    for name in names:
        (twin / name).unlink()
    found, expected = load_dataset(str(root), skip_bad_images=True), load_dataset(str(twin), skip_bad_images=True)
    assert [line.split(" (")[0] for line in found.left_out] == [str(path) for path in bad]
    assert all(line.endswith(")") for line in found.left_out)
    assert expected.left_out == ()
    for name in ("train", "val", "test"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert torch.equal(ours.labels_N, theirs.labels_N)
        if isinstance(ours, ImageSplit):
            assert torch.equal(ours.images_NCHW, theirs.images_NCHW)
        else:
            assert [path.relative_to(root) for path in ours.paths] == [path.relative_to(twin) for path in theirs.paths]


def test_images_in_formats_that_are_not_read_are_counted_by_their_endings(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 3, "val": 1})
    before = load_dataset(str(root))
    for name in ("train/ant/a.GIF", "train/bee/b.heic", "val/bee/c.gif", "train/ant/notes.txt", "train/ant/._d.gif"):
        (root / name).write_bytes(b"")
    after = load_dataset(str(root))
    assert len(after.train) == len(before.train)
    assert before.warnings == ()
    assert after.warnings == (
        f"images of {root.name} in formats that are not read were left out: 2 .gif, 1 .heic; save them as PNG or JPEG",
    )


def test_known_data_in_class_folders_say_so_too(write_folder: WriteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder({"train": 3, "test": 1}, size=(32, 32))
    monkeypatch.setitem(KNOWN, "cifar10", replace(KNOWN["cifar10"], class_count=2, names=()))
    (root / "train" / "ant" / "a.gif").write_bytes(b"")
    (warning,) = load_dataset("cifar10", data_dir=root).warnings
    assert ": 1 .gif; " in warning


def test_what_was_found_unreadable_is_cached_until_a_file_changes(
    write_folder: WriteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder({"train": 3, "val": 1}, size=(80, 70))
    (bad,) = damage(root, "train/bee/001.png")
    first = load_dataset(str(root), skip_bad_images=True)
    with monkeypatch.context() as patch:
        patch.setattr("ann2snn_distill.data.checking._checked", None)
        assert load_dataset(str(root), skip_bad_images=True) == first
    Image.new("RGB", (80, 70)).save(bad)
    assert load_dataset(str(root), skip_bad_images=True).left_out == ()


def test_a_class_of_which_no_image_can_be_read_is_refused(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 3, "val": 1})
    damage(root, "val/bee/000.png")
    with pytest.raises(BadInputError, match=r"no image in .*val/bee can be read; add some, or remove"):
        load_dataset(str(root), skip_bad_images=True)


def test_what_is_missing_from_a_folder_is_said(write_folder: WriteFolder, tmp_path: Path) -> None:
    def refused(root: Path) -> str:
        with pytest.raises(BadInputError) as failure:
            load_dataset(str(root))
        return str(failure.value)

    assert f"there is no folder {tmp_path / 'nowhere'}" in refused(tmp_path / "nowhere")
    assert "has no train/ folder" in refused(write_folder({"val": 1}, name="a"))
    assert "has neither val/ nor test/" in refused(write_folder({"train": 1}, name="b"))
    assert "holds no images" in refused(write_folder({"train": 0, "val": 1}, name="c"))
    (tmp_path / "d" / "train").mkdir(parents=True)
    (tmp_path / "d" / "val").mkdir()
    assert "train holds no class folders" in refused(tmp_path / "d")


def test_one_class_has_nothing_to_be_told_from(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 2, "val": 1})
    for split in ("train", "val"):
        shutil.rmtree(root / split / "bee")
    with pytest.raises(BadInputError, match="has one class, ant, and nothing to tell it from; add another class"):
        load_dataset(str(root))


def test_classes_that_differ_are_named(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 1})
    write_folder({"test": 1}, classes=("ant", "cow"))
    with pytest.raises(BadInputError, match="classes differ, only in train/: bee; only in test/: cow"):
        load_dataset(str(root))


def test_folders_of_other_classes_are_no_cifar(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 1, "test": 1})
    with pytest.raises(BadInputError, match=r"holds 2 classes, but cifar10 has 10.*--dataset"):
        load_dataset("cifar10", data_dir=root)
    numbered = write_folder({"train": 1, "test": 1}, classes=tuple("0123456789"), name="numbered")
    with pytest.raises(BadInputError, match=r"cifar10 does not have: 0, 1, 2, 3, 4; rename them to airplane"):
        load_dataset("cifar10", data_dir=numbered)


@pytest.mark.skipif(not (SHARED / "unpack.py").exists(), reason="../shared/data is absent")
def test_real_cifar10_images_keep_their_pixels(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("unpack", SHARED / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    chosen: dict[str, tuple[str, bytes]] = {}
    for part in sorted(SHARED.glob("cifar10-part*.zip")):
        with zipfile.ZipFile(part) as pack:
            for name in pack.namelist():
                if (folder := name.rsplit("/", 1)[0]) not in chosen:
                    chosen[folder] = (name, first_images(pack.read(name), 3))
    for name, strip in chosen.values():
        unpack.write_strip(tmp_path, name, strip)
    dataset = load_dataset("cifar10", data_dir=tmp_path)
    assert len(dataset.train) == len(dataset.test) == 30
    assert isinstance(dataset.train, ImageSplit)
    ships = np.asarray(Image.open(io.BytesIO(chosen["train/ship"][1]))).reshape(3, 32, 32, 3)
    found = dataset.train.images_NCHW[dataset.train.labels_N == dataset.classes.index("ship")]
    assert sorted(ship.tobytes() for ship in ships.transpose(0, 3, 1, 2).copy()) == sorted(
        image.numpy().tobytes() for image in found
    )


def first_images(strip: bytes, count: int) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(strip)).convert("RGB").crop((0, 0, 32, 32 * count)).save(out, "PNG")
    return out.getvalue()


def test_many_files_left_out_are_counted_and_twenty_of_them_named(write_folder: WriteFolder) -> None:
    root = write_folder({"train": 24, "val": 1})
    for index in range(23):
        (root / "train" / "ant" / f"{index:03d}.png").write_bytes(b"")
    (warning,) = load_dataset(str(root), skip_bad_images=True).warnings
    assert warning.startswith("23 image files of insects cannot be read and were left out: ")
    assert warning.count(".png (") == 20
    assert warning.endswith("; and 3 more")
