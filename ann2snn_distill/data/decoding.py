"""Image files to tensors; folders of small images are decoded once and kept in the cache.

Shapes: N images, C = 3 channels, S x S pixels.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ann2snn_distill.data.splits import FolderSplit, ImageSplit
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.files import remove_leftovers, write_atomically
from ann2snn_distill.tensorfile import read_whole

LARGEST_BYTES = 16 * 2**30
"""Decoded images beyond this are refused: they would not fit a common machine's memory."""

DECODING_VERSION = 3
"""Of what decoding makes of a file: kept images of another version are made anew."""

TINY_BYTES = 16 * 2**10
"""Files below this are opened rather than decoded, as far as time goes."""


class UnreadableImageError(BadInputError):
    """An image file that cannot be decoded, and the `reason`."""

    def __init__(self, path: Path, reason: str):
        # The arguments alone, so that a process that decodes can send it to another.
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"cannot read the image {self.path}: {self.reason}; replace it or delete it, "
            "or leave out what cannot be read with --skip-bad-images"
        )


_WHITE_IS_ZERO = 0
"""What TIFF's tag PhotometricInterpretation says of grey levels that count from white."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def cache_dir() -> Path:
    """Where data, decoded images and teachers are kept: $SNN_DISTILL_CACHE or ~/.cache/snn-distill."""
    named = os.environ.get("SNN_DISTILL_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "snn-distill"


def open_rgb(path: Path) -> Image.Image:
    """The decoded image at `path`, as RGB.

    Raises:
        UnreadableImageError: the file is missing, truncated or no image, or its numbers have no range that is known.
    """
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except _UNREADABLE as error:
        raise UnreadableImageError(path, str(error) or type(error).__name__) from error


def _rgb(image: Image.Image) -> Image.Image:
    """The image in 8 bits a channel; Pillow would cut wider pixels off at 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey_HW = (np.asarray(image).astype(np.uint32) + 128) // 257
        if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
            grey_HW = 255 - grey_HW  # Pillow inverts those of 8 bits alone
        return Image.fromarray(grey_HW.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        numbers = "integers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its pixels are {numbers} whose range it does not say; save it with 8 or 16 bits, unsigned")
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resized(images_NCHW: Tensor, img_size: int) -> Tensor:
    """uint8 images at (N, C, img_size, img_size): bilinear, and antialiased where they shrink.

    Raises:
        UsageError: the result would be larger than memory allows.
    """
    refuse_oversized(len(images_NCHW), img_size)
    side = images_NCHW.shape[-1]
    if side == img_size and images_NCHW.shape[-2] == img_size:
        return images_NCHW
    out = torch.empty(*images_NCHW.shape[:2], img_size, img_size, dtype=torch.uint8)
    for source, target in zip(torch.split(images_NCHW, 1024), torch.split(out, 1024), strict=True):
        size = (img_size, img_size)
        target.copy_(F.interpolate(source.float(), size, mode="bilinear", antialias=img_size < side).round())
    return out


def refuse_oversized(count: int, img_size: int) -> None:
    """Refuse to decode more than memory holds.

    Raises:
        UsageError: `count` RGB images of side `img_size` exceed `LARGEST_BYTES`.
    """
    if count * 3 * img_size**2 > LARGEST_BYTES:
        raise UsageError(
            f"{count} images of {img_size} px take {count * 3 * img_size**2 / 2**30:.0f} GiB once decoded, "
            f"more than the {LARGEST_BYTES / 2**30:.0f} GiB allowed; choose a smaller --img-size"
        )


def decoded(split: FolderSplit, img_size: int) -> ImageSplit:
    """Every image of `split` at (N, 3, img_size, img_size), from the cache where it was decoded before.

    An image of another size is scaled until its shorter side fits, and cropped at the centre.

    Raises:
        BadInputError: an image cannot be read; the text names it.
        UsageError: the images would not fit in memory.
    """
    refuse_oversized(len(split), img_size)
    cached = cache_dir() / "decoded" / f"{listing_digest(split)}-{img_size}-{DECODING_VERSION}.safetensors"
    images_NCHW = _load_cached(cached, (len(split), 3, img_size, img_size))
    if images_NCHW is None:
        images_NCHW = _decode_all(split, img_size)
        _keep(cached, images_NCHW)
    return ImageSplit(images_NCHW, split.labels_N)


def listing_digest(split: FolderSplit) -> str:
    """32 hexadecimal digits that change with any path, size or time of a file."""
    digest = hashlib.blake2b(digest_size=16)
    for path in split.paths:
        status = path.stat()
        digest.update(repr((str(path.absolute()), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def _load_cached(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """What the cache holds, or None where it holds nothing usable."""
    with suppress(OSError, SafetensorError):
        images = read_whole(path)[1].get("images")
        if images is not None and tuple(images.shape) == shape and images.dtype == torch.uint8:
            return images
    return None


def _keep(path: Path, images_NCHW: Tensor) -> None:
    """Write the cache; a cache that cannot be written costs only the time to decode again."""
    with suppress(OSError, BadInputError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        write_atomically(path, lambda temporary: save_file({"images": images_NCHW}, temporary))


def _decode_all(split: FolderSplit, img_size: int) -> Tensor:
    pixels_NCHW = np.empty((len(split), 3, img_size, img_size), dtype=np.uint8)

    def decode(start: int) -> None:
        for index, path in enumerate(split.paths[start : start + 256], start):
            pixels_NCHW[index] = np.asarray(_fitted(open_rgb(path), img_size)).transpose(2, 0, 1)

    # threads gain where decoding is the work; for 32 px files they cost twice the time (97 and 176 us an
    # image with 1 and 2 threads on 2 cores), because opening a file holds the interpreter's lock
    tiny = split.paths[0].stat().st_size < TINY_BYTES
    with ThreadPoolExecutor(1 if tiny else None) as pool:
        for _ in pool.map(decode, range(0, len(split), 256)):
            pass
    return torch.from_numpy(pixels_NCHW)


def _fitted(image: Image.Image, img_size: int) -> Image.Image:
    if image.size == (img_size, img_size):
        return image
    scale = img_size / min(image.size)
    width, height = (max(img_size, round(side * scale)) for side in image.size)
    left, top = (width - img_size) // 2, (height - img_size) // 2
    whole = image.resize((width, height), Image.Resampling.BILINEAR)
    return whole.crop((left, top, left + img_size, top + img_size))
