"""Spoilt resume states: their bytes, and what they say under a checksum that is right again."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load, save
from spoiling import changed, spoilt

from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.events import silent
from ann2snn_distill.tensorfile import read_index, tensors_digest
from ann2snn_distill.training.fit import Execution, Interval, Plan, Schedule, Span, fit
from ann2snn_distill.training.resume import Restart, ResumeFolder
from ann2snn_distill.training.state import train_state


def a_resume_state(source: random.Random, path: Path) -> Callable[[], object]:
    folder = ResumeFolder(path.with_suffix(".resume"), identity={"seed": 0})
    folder.save(Restart(1, {"w": torch.arange(64.0), "n": torch.ones(3)}, ({"epoch": 1, "loss": 0.5},)))
    for state in folder.folder.iterdir():
        state.write_bytes(spoilt(source, state.read_bytes()))
    return lambda: folder.load(lambda restart: None)


class Batches:
    """Two steps an epoch."""

    batch_size, steps_per_epoch = 2, 2

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for step in range(start, self.steps_per_epoch):
            yield torch.full((2, 3), 0.1 * (epoch + step)), torch.eye(2)


def a_training(folder: ResumeFolder) -> None:
    network = torch.nn.Linear(3, 2)
    fit(
        "net", (Span(2, AnnObjective(network)),), Batches(), train_state({"net": network}, opt="sgd", weight_decay=0.1),
        plan=Plan(Schedule(2, 1.0, 0.1), Interval(epochs=1)),
        execution=Execution(torch.device("cpu"), amp=False, compiled=False), resume=folder, observe=silent,
    )  # fmt: skip


def the_facts_of_a_resume_state(source: random.Random, path: Path) -> Callable[[], object]:
    """Spoilt by someone who can make its checksum right again; a training goes on from it."""
    folder = ResumeFolder(path.with_suffix(".facts"), identity={"seed": 0})
    folder.remove()
    a_training(folder)
    for state in folder.folder.iterdir():
        tensors, facts = load(state.read_bytes()), changed(source, facts_of(state))
        if source.random() < 0.2:
            tensors.pop(source.choice(sorted(tensors)))
        text = json.dumps(facts)
        metadata = {"snn_distill_resume": text, "checksum": tensors_digest(text, tensors)}
        state.write_bytes(save(tensors, metadata=metadata))
    return lambda: a_training(ResumeFolder(folder.folder, identity={"seed": 0}))


def facts_of(path: Path) -> dict:
    return json.loads(read_index(path).metadata["snn_distill_resume"])
