"""Processes that decode images: the same batches whatever their number, and one sentence where one is lost.

Shapes: B images, C = 3 channels, S x S pixels.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ann2snn_distill.data.decoding import open_rgb, to_tensor
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.interrupts import Interrupts
from ann2snn_distill.processes import masked, usable_cpus


class Draw(NamedTuple):
    """An image to be decoded: no worker holds any data, or any state.

    Attributes:
        path: its file.
        label: its class.
        seed: of everything random about it.
    """

    path: Path
    label: int
    seed: int


_CONTEXT = "fork" if sys.platform == "linux" else None
"""Python 3.14 would start workers from a server, which imports everything anew and which signals reach, too."""

_Batch = tuple[Tensor, Tensor] | BadInputError


@dataclass(frozen=True)
class _Images:
    """What is decoded: the image and label of a draw, or the error, which travels as a value."""

    transform: Callable[[Image.Image], Image.Image]

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int] | BadInputError:
        try:
            image = open_rgb(draw.path)
        except BadInputError as error:
            return error
        # torchvision's transforms know only the global generator: lend them a seeded one, and restore it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return to_tensor(self.transform(image)), draw.label


@dataclass
class _Asked:
    """The draws of the present pass's batches; a loader asks anew for every pass."""

    batches: Iterable[list[Draw]]

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)


class Workers:
    """Processes that decode batch after batch, pass after pass, one pass at a time; until they are told to end.

    Starting one takes 0.1 s beside a GPU: as many as there are processors, anew for every pass over a few thousand
    images, take more time than the images.
    """

    def __init__(self, transform: Callable[[Image.Image], Image.Image], *, workers: int, device: torch.device) -> None:
        self._images, self._device = _Images(transform), device
        self._workers = min(workers, usable_cpus())  # more would only slow each other down, and torch warns
        self._asked = _Asked([])
        self._loader: DataLoader[_Batch] | None = None
        self._passes = 0

    def decoded(self, batches: Iterable[list[Draw]]) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images (B, C, S, S) and labels (B) on the device, batch by batch; ends a pass that is under way.

        Raises:
            BadInputError: an image cannot be read, or a worker was lost.
        """
        try:
            for batch in self._pass(batches):
                if isinstance(batch, BadInputError):
                    raise batch
                images_BCHW, labels_B = batch
                yield images_BCHW.to(self._device, non_blocking=True), labels_B.to(self._device, non_blocking=True)
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise _lost_worker(error) from error
        except (OSError, EOFError) as error:  # images that cannot be read travel as values, so this is a broken pipe
            raise _lost_worker(error) from error

    def close(self) -> None:
        """End the processes; a later pass would start others."""
        interrupts = Interrupts()
        with interrupts.watched(), interrupts.held():  # what a signal raises within a finaliser goes no further
            self._loader = None

    def _pass(self, batches: Iterable[list[Draw]]) -> Iterator[_Batch]:
        self._asked.batches = batches
        self._passes += 1
        this, interrupts = self._passes, Interrupts()
        try:
            # what a signal raises within a fork goes no further, and a worker is to see none from its birth on
            with interrupts.watched(), interrupts.held(), masked(signal.SIGINT, signal.SIGTERM):
                received = iter(self._ready_loader())
            while this == self._passes and (batch := next(received, None)) is not None:
                yield batch
        except GeneratorExit:
            raise
        except BaseException:
            self._loader = None  # it may stand anywhere
            raise

    def _ready_loader(self) -> "DataLoader[_Batch]":
        if self._loader is None:
            self._loader = DataLoader(
                self._images,  # type: ignore[arg-type]  # any object that answers a draw will do
                batch_sampler=self._asked,
                num_workers=self._workers,
                multiprocessing_context=_CONTEXT if self._workers else None,
                persistent_workers=self._workers > 0,
                collate_fn=_collated,
                pin_memory=self._device.type == "cuda",
                worker_init_fn=partial(_leave_signals, os.getpid()),
                generator=torch.Generator(),  # else the loader draws from the global one
            )
        return self._loader


def _lost_worker(error: Exception) -> BadInputError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return BadInputError(
        f"a process that decodes images was lost ({reason}); memory may have run out: lower --workers or --batch-size"
    )


def _collated(samples: list[tuple[Tensor, int] | BadInputError]) -> _Batch:
    for sample in samples:
        if isinstance(sample, BadInputError):
            return sample
    pairs = [sample for sample in samples if not isinstance(sample, BadInputError)]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _leave_signals(main: int, worker: int) -> None:
    """Ctrl-C and SIGTERM may reach a whole group of processes; the main one answers, and ends the workers.

    They are masked from the worker's birth on.
    """
    if hasattr(signal, "sigwaitinfo"):
        Thread(target=_end_for, args=(main,), daemon=True).start()
    else:  # macOS
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_for(main: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main:
        pass
    os._exit(0)
