"""A small network, its data and its training, shared by the tests of whole trainings."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.events import Observer, silent
from ann2snn_distill.training.fit import Execution, FitResult, Interval, Plan, Schedule, Span, fit
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import TrainState, train_state


class SixFixedImages:
    """Six fixed images a step, three steps an epoch, other ones in each epoch and step."""

    batch_size = 6
    steps_per_epoch = 3

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(100 * epoch + step)
            x = torch.randn(6, 4, generator=generator)
            labels = torch.randint(3, (6,), generator=generator)
            yield x, F.one_hot(labels, 3).float()


@pytest.fixture
def batches() -> SixFixedImages:
    return SixFixedImages()


@pytest.fixture
def network() -> Callable[..., nn.Module]:
    def make(dropout: float = 0.0) -> nn.Module:
        torch.manual_seed(0)
        # No bias in front of the norm: its gradient is rounding noise, which AdamW would scale up to whole steps.
        return nn.Sequential(
            nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
        )

    return make


@pytest.fixture
def trained(batches: SixFixedImages) -> Callable[..., tuple[TrainState, FitResult]]:
    """Train a network, going on from what is in the folder; under autocast if it is given a dtype."""

    def train(
        model: nn.Module,
        folder: Path,
        *,
        epochs: int = 3,
        opt: str = "sgd",
        average: float = 0.0,
        pieces: int = 1,
        interval: Interval = Interval(epochs=1),  # noqa: B008 - frozen
        observe: Observer = silent,
        data: SixFixedImages = batches,
        peak: float = 0.05,
        spans: Sequence[Span] = (),
        dtype: torch.dtype | None = None,
        radius: float = 0.0,
        measure: Callable[[TrainState], dict[str, Any]] = lambda state: {},
    ) -> tuple[TrainState, FitResult]:
        how = Execution(
            torch.device("cpu"), amp=dtype is not None, compiled=False, pieces=pieces, dtype=dtype or torch.bfloat16
        )
        modules = {"net": model.train()}
        state = train_state(
            modules,
            opt=opt,
            weight_decay=0.1,
            average_decay=average,
            scaled=how.scaled,
            radius=radius,  # type: ignore[arg-type]
        )
        result = fit(
            "net",
            spans or (Span(epochs, AnnObjective(model)),),
            data,
            state,
            plan=Plan(Schedule(epochs, 1.0, peak), interval),
            execution=how,
            resume=ResumeFolder(folder, identity={}),
            observe=observe,
            metrics=lambda epoch: measure(state),
        )
        return state, result

    return train
