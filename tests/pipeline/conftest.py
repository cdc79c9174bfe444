"""A run on real digits and a tiny image folder, shared by the tests of whole runs."""

import io
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from ann2snn_distill import pipeline
from ann2snn_distill.cli.app import run as run_command
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.events import EpochDone, Event, PhaseStarted, silent

Command = Callable[..., SimpleNamespace]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def command(cache: Path) -> Command:
    """Run the real command line in this process; give its exit code, stdout and stderr."""

    def run(*arguments: object) -> SimpleNamespace:
        out, err = io.StringIO(), io.StringIO()
        environment = mock.patch.dict(os.environ, {"SNN_DISTILL_CACHE": str(cache), "HF_HUB_OFFLINE": "1"})
        with environment, redirect_stdout(out), redirect_stderr(err):
            code = run_command([str(argument) for argument in arguments])
        done = SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())
        assert "Traceback" not in done.err
        return done

    return run


@pytest.fixture(scope="session")
def trained(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a short conversion on digits, with a validation split."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = "--limit 192 --val-split 0.1 --batch-size 32 --epochs 2 --teacher-epochs 3 --timesteps 3 --device cpu"
    done = command("convert", "test_resnet", "--dataset", "digits", *options.split(), "--output", folder, "--json")
    assert done.code == 0, done.err
    (folder.parent / "stdout.json").write_text(done.out)
    return folder


@pytest.fixture(scope="session")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 px images, three classes told apart by brightness: 12 to train on and 4 to test a class."""
    root = tmp_path_factory.mktemp("data") / "shades"
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("test", 4)):
        for label, level in (("dark", 40), ("grey", 120), ("light", 200)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(level - 40, level + 40, (16, 16, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def tiny(shades: Path) -> tuple[object, ...]:
    """Arguments of the shortest run: 36 images, three steps an epoch."""
    options = "--img-size 16 --batch-size 12 --epochs 2 --teacher-epochs 1 --timesteps 2 --device cpu --workers 0"
    return ("test_resnet", "--dataset", shades, *options.split())


@pytest.fixture(scope="session")
def taught_file() -> Callable[..., Path]:
    """Write a checkpoint of a network for three classes."""

    def write(path: Path, *, seed: int) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_settings(shades: Path) -> Callable[..., ConvertSettings]:
    """Make settings of the shortest run, for `pipeline.convert`."""

    def make(**changes: object) -> ConvertSettings:
        values = {
            "model": "test_resnet",
            "dataset": str(shades),
            "img_size": 16,
            "batch_size": 12,
            "epochs": 3,
            "teacher_epochs": 2,
            "timesteps": 2,
            "device": "cpu",
            "workers": 0,
        }
        return ConvertSettings.model_validate(values | changes)

    return make


@pytest.fixture(scope="session")
def converting(cache: Path) -> Callable[..., object]:
    """Run `pipeline.convert` with the tests' cache."""

    def run(settings: ConvertSettings, observe: Callable[[Event], None] = silent, cache: Path = cache) -> object:
        with mock.patch.dict(os.environ, {"SNN_DISTILL_CACHE": str(cache)}):
            return pipeline.convert(settings, observe)

    return run


@pytest.fixture(scope="session")
def interrupting() -> Callable[..., Callable[[Event], None]]:
    """Make an observer that presses Ctrl-C at an event of a phase."""

    def make(phase: str, kind: type = EpochDone, after: int = 1) -> Callable[[Event], None]:
        seen = {"phase": "", "count": 0}

        def observe(event: Event) -> None:
            if isinstance(event, PhaseStarted):
                seen["phase"] = event.name
            if isinstance(event, kind) and str(seen["phase"]).startswith(phase):
                seen["count"] = int(seen["count"]) + 1
                if seen["count"] == after:
                    raise KeyboardInterrupt

        return observe

    return make
