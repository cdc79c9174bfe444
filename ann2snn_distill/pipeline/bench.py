"""`bench`: time and memory of a training step, by method, timesteps and batch size, in one process."""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ann2snn_distill.config import BenchSettings, ConvertSettings
from ann2snn_distill.conversion.network import Partitioned, StagedAnn, partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.cost import step_flop, work
from ann2snn_distill.distillation.objectives import AnnObjective, Objective
from ann2snn_distill.distillation.positions import choose_positions, named_cuts
from ann2snn_distill.distillation.traffic import flow, step_traffic
from ann2snn_distill.events import Note, Observer, PhaseDone, PhaseStarted, StepsDone
from ann2snn_distill.pipeline.bench_data import bench_data, data_times
from ann2snn_distill.pipeline.fitting import execution_of
from ann2snn_distill.pipeline.guards import enough_images, interruptible
from ann2snn_distill.pipeline.inspecting import network_form
from ann2snn_distill.pipeline.machine import choose_device, device_name
from ann2snn_distill.pipeline.memory import MIB, step_memory
from ann2snn_distill.pipeline.objectives import objective_of
from ann2snn_distill.pipeline.students import neuron_model
from ann2snn_distill.recipes import ALPHA, resolved_neuron
from ann2snn_distill.reporting.benchmark import Benchmark, BenchMethod, StepTime
from ann2snn_distill.reporting.versions import versions
from ann2snn_distill.teacher import build_network, resolve_model_name
from ann2snn_distill.training.state import TrainState, train_state
from ann2snn_distill.training.step import Execution, LossTotals, ready_step
from ann2snn_distill.training.timing import Timing, time_step

_LEARNING_RATE = 1e-3

Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class _Case:
    """One row to measure; `timesteps` is 1 for the ANN, which has none."""

    method: BenchMethod
    timesteps: int
    batch_size: int


def bench(settings: BenchSettings, observe: Observer) -> Benchmark:
    """Measure every case, one after the other; a case that does not fit in memory says so in its row.

    Raises:
        SnnDistillError: the model or the device does not fit.
    """
    settings = _resolved(settings)
    device = choose_device(settings.device)
    execution = execution_of(settings, device)
    cases, data = list(_cases(settings)), bench_data(settings)
    observe(PhaseStarted(f"bench {settings.model}", total=len(cases)))
    rows: list[StepTime] = []
    branches: tuple[str, ...] = ()
    with interruptible("nothing was written"), enough_images():
        for case in cases:
            bench_case = _Bench(settings, case, execution)
            branches = branches or bench_case.branch_names
            rows.append(bench_case.row())
            del bench_case
            _forget(device)
            observe(Note(_line(rows[-1])))
            observe(StepsDone(1))
        data_rows = tuple(data_times(settings, data, device))
    observe(PhaseDone())
    return Benchmark(
        model=settings.model, img_size=settings.img_size or 0, classes=settings.classes, branches=branches,
        steps=settings.steps, amp=execution.amp, amp_dtype=settings.amp_dtype if execution.amp else None,
        compiled=execution.compiled, captured=execution.replayed, device=device_name(device), versions=versions(),
        rows=tuple(_with_ratio(row, rows) for row in rows), data=data_rows,
    )  # fmt: skip


def _resolved(settings: BenchSettings) -> BenchSettings:
    name = resolve_model_name(settings.model)
    size, stem = network_form(name, settings.img_size, settings.stem)
    cuda = choose_device(settings.device).type == "cuda"
    return settings.model_copy(
        update={
            "model": name,
            "img_size": size,
            "stem": stem,
            "amp": cuda if settings.amp is None else settings.amp,
            "torchcompile": cuda if settings.torchcompile is None else settings.torchcompile,
            "cuda_graph": cuda if settings.cuda_graph is None else settings.cuda_graph,
        }
    )


def _cases(settings: BenchSettings) -> Iterator[_Case]:
    for batch_size in settings.batch_sizes:
        for method in settings.methods:
            for timesteps in (1,) if method == "ann" else settings.timestep_counts:
                yield _Case(method, timesteps, batch_size)


class _Bench:
    """The networks of one case, and its measurement."""

    def __init__(self, settings: BenchSettings, case: _Case, execution: Execution):
        self._settings, self._case, self._execution = settings, case, execution
        self._held = 0
        if execution.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(execution.device)
            self._held = torch.cuda.memory_allocated(execution.device)  # workspaces of CUDA's libraries, case by case
        self._started = time.perf_counter()
        self._ann = self._network(seed=0)
        self._base = self._network(seed=1)
        teacher = self._on_device(StagedAnn(self._ann))
        self._student = self._on_device(self._spiking())
        wanted = settings.branches if case.method == "hybrid" else "none"
        positions = choose_positions(self._student.stages, teacher.stages, wanted, same_network=True)
        self._branches = self._on_device(HybridBranches(self._student.stages, teacher, positions))

    @property
    def branch_names(self) -> tuple[str, ...]:
        return tuple(position.name for position in self._branches.positions)

    def row(self) -> StepTime:
        """Measure the case."""
        row = self._counted()
        try:
            timing, setup = self._timed()
        except torch.OutOfMemoryError:
            return row.model_copy(update={"failure": "out of memory"})
        seconds, batch_size = timing.median / 1000, row.batch_size
        return row.model_copy(
            update={
                "milliseconds": timing.median, "low": timing.low, "high": timing.high,
                "images_per_second": batch_size / seconds,
                "peak_memory_mib": self._peak_mib(),
                "tflops_per_second": row.gflop_per_image * batch_size / seconds / 1e3, "setup_seconds": setup,
            }
        )  # fmt: skip

    def _peak_mib(self) -> float | None:
        """Return the peak of this case, without what the ones before left in the process."""
        device = self._execution.device
        return (torch.cuda.max_memory_allocated(device) - self._held) / MIB if device.type == "cuda" else None

    def _counted(self) -> StepTime:
        """Return the row with what is counted: arithmetic, traffic, memory."""
        case, execution, positions = self._case, self._execution, self._branches.positions
        entries, sampled = [position.teacher for position in positions], self._settings.sampled_branches
        flop = step_flop(
            case.method, work(self._base), work(self._ann), entries=entries, timesteps=case.timesteps, sampled=sampled
        )
        memory = step_memory(
            case.method, self._base, self._ann, positions=positions, timesteps=case.timesteps, execution=execution,
            sampled=sampled,
        )  # fmt: skip
        moved = step_traffic(
            case.method, flow(self._base), flow(self._ann), entries=entries, timesteps=case.timesteps, sampled=sampled
        )
        width = 2 if execution.amp else 4
        return StepTime(
            method=case.method, timesteps=None if case.method == "ann" else case.timesteps,
            batch_size=case.batch_size, gflop_per_image=flop / 1e9, estimated_memory_mib=memory.of(case.batch_size),
            weighted_mib_per_image=moved.weighted * width / MIB, other_mib_per_image=moved.others * width / MIB,
        )  # fmt: skip

    def _timed(self) -> tuple[Timing, float]:
        execution, state, totals = self._execution, self._state(), LossTotals(self._execution.device)
        objective = self._objective()
        x, target_BK = self._batch()
        step = ready_step(objective, state, totals, execution, x=x, target_BK=target_BK)
        step(x, target_BK)
        setup = time.perf_counter() - self._started
        return time_step(step, x, target_BK, steps=self._settings.steps), setup

    def _objective(self) -> Objective:
        if self._case.method == "ann":
            return AnnObjective(self._branches.teacher)
        case, settings = self._case, self._settings
        values = {"model": settings.model, "method": case.method, "timesteps": case.timesteps, "alpha": ALPHA}
        values |= {"sampled_branches": settings.sampled_branches}
        return objective_of(ConvertSettings.model_validate(values), self._student, self._branches, self._execution)

    def _state(self) -> TrainState:
        if self._case.method == "ann":
            modules: dict[str, torch.nn.Module] = {"ann": self._branches.teacher.train().requires_grad_(True)}
        else:
            modules = {"student": self._student.body, "branches": self._branches}
        state = train_state(modules, opt="sgd", weight_decay=5e-4, scaled=self._execution.scaled)
        state.set_learning_rate(_LEARNING_RATE)
        return state

    def _network(self, *, seed: int) -> Partitioned:
        settings, size = self._settings, self._settings.img_size or 0
        assert settings.stem != "auto"  # resolved
        module = build_network(
            settings.model, classes=settings.classes, img_size=size, stem=settings.stem,
            model_kwargs=settings.model_kwargs, seed=seed,
        )  # fmt: skip
        cuts = named_cuts(settings.branches) if self._case.method == "hybrid" else ()
        return partitioned(module, img_size=size, cuts=cuts)

    def _spiking(self) -> SpikingNetwork:
        settings = ConvertSettings(model=self._settings.model, neuron=self._settings.neuron)
        settings = settings.model_copy(update=resolved_neuron(settings))
        thresholds = uniform_thresholds(self._base.sites.neuron_names(), 1.0)
        return SpikingNetwork(self._base, neuron_model(settings), thresholds=thresholds)

    def _on_device(self, module: Module) -> Module:
        device = self._execution.device
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        return module.to(device).to(memory_format=layout)

    def _batch(self) -> tuple[Tensor, Tensor]:
        settings, size = self._settings, self._settings.img_size or 0
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self._case.batch_size, 3, size, size, generator=generator)
        labels = torch.randint(settings.classes, (self._case.batch_size,), generator=generator)
        device = self._execution.device
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        x = x.to(device).contiguous(memory_format=layout)
        return x, F.one_hot(labels, settings.classes).float().to(device)


def _with_ratio(row: StepTime, rows: list[StepTime]) -> StepTime:
    ann = [r.milliseconds for r in rows if r.method == "ann" and r.batch_size == row.batch_size and r.milliseconds]
    if not ann or row.milliseconds is None:
        return row
    return row.model_copy(update={"ratio_to_ann": row.milliseconds / median(ann)})


def _line(row: StepTime) -> str:
    name = f"{row.method}{'' if row.timesteps is None else f' T={row.timesteps}'} batch {row.batch_size}"
    if row.milliseconds is None:
        return f"{name}: {row.failure}"
    return f"{name}: {row.milliseconds:.2f} ms, {row.images_per_second:,.0f} images/s"


def _forget(device: torch.device) -> None:
    """Free what the last case held, compiled code included."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
