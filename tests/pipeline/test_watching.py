"""What is told of batches while they are gone through."""

import pytest
import torch
from torch import Tensor

from ann2snn_distill.events import Event, PhaseDone, PhaseStarted, StepsDone
from ann2snn_distill.pipeline.watching import Watched

IMAGES, BATCHES = 4, 3


def _batches(device: str) -> list[tuple[Tensor, Tensor]]:
    return [(torch.zeros(IMAGES, 3, 2, 2, device=device), torch.zeros(IMAGES, dtype=torch.long))] * BATCHES


def test_every_pass_is_a_phase_of_all_images() -> None:
    told: list[Event] = []
    watched = Watched("test images", IMAGES * BATCHES, _batches("cpu"), told.append)
    for _ in range(2):
        told.clear()
        assert len(list(watched)) == BATCHES
        assert told[0] == PhaseStarted("test images", total=IMAGES * BATCHES)
        assert [event.steps for event in told if isinstance(event, StepsDone)] == [IMAGES] * BATCHES
        assert told[-1] == PhaseDone()


@pytest.mark.gpu
def test_the_speed_is_that_of_the_work_and_not_of_its_launches() -> None:
    cycles = 100_000_000  # of a clock of at most 2.5 GHz: at least 40 ms
    told: list[Event] = []
    for _ in Watched("test images", IMAGES * BATCHES, _batches("cuda"), told.append):
        torch.cuda._sleep(cycles)
    speeds = [event.images_per_second for event in told if isinstance(event, StepsDone)]
    assert all(speed is not None and speed < IMAGES / 0.04 for speed in speeds)
