"""A cache of its own for every test, and small image folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SNN_DISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    """Write random images as a folder: `write_folder({"train": 5, "val": 2}, size=(8, 8))` a class."""

    def write(
        counts: dict[str, int],
        *,
        classes: tuple[str, ...] = ("ant", "bee"),
        size: tuple[int, int] = (8, 8),
        name: str = "insects",
    ) -> Path:
        random = np.random.default_rng(0)
        for split, count in counts.items():
            for label in classes:
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{index:03d}.png")
        return tmp_path / name

    return write
