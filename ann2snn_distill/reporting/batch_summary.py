"""The summary of a batch: the schema of summary.json, and the same as CSV."""

import csv
import io
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ann2snn_distill.reporting.report import TrainingResult

FORMAT_VERSION = 1

RunState = Literal["waiting", "running", "finished", "missed", "failed", "interrupted"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class RunSummary(_Part):
    """One run: what it is, how it ended, and what its report says."""

    name: str
    fingerprint: str = Field(description="of what determines the result: settings, data, the teacher's weights")
    folder: str = Field(description="its output folder, in that of the batch")
    state: RunState = Field(description="missed: finished, and a gate was missed")
    reason: str | None = Field(None, description="why it failed, or which gate it missed")
    varied: dict[str, Any] = Field(description="the settings that differ between the runs of the batch")
    model: str
    student: str
    dataset: str
    timesteps: int
    method: str
    seed: int
    teacher_top1: float | None = Field(None, description="percent of the test split")
    top1: float | None = Field(None, description="percent of the test split, at T")
    top1_at: dict[str, float] = Field(default_factory=dict, description="percent, by timestep")
    drop: float | None = Field(None, description="teacher minus student, points")
    coverage: float | None = Field(None, description="share of the multiply-accumulates that spikes drive")
    energy_mj: float | None = Field(None, description="estimate an image, millijoules")
    training: TrainingResult = TrainingResult()


class GroupSummary(_Part):
    """Runs that differ in their seed alone."""

    varied: dict[str, Any]
    runs: int
    finished: int
    top1_mean: float = Field(description="percent")
    top1_deviation: float | None = Field(None, description="standard deviation of the sample, points")
    drop_mean: float | None = Field(None, description="points")


class BatchSummary(_Part):
    """All runs of a batch, in the order of its file."""

    format_version: int = FORMAT_VERSION
    title: str
    runs: tuple[RunSummary, ...]
    groups: tuple[GroupSummary, ...] = Field((), description="means over seeds, where seeds vary")

    def count(self, *states: RunState) -> int:
        """Return how many runs are in one of these states."""
        return sum(run.state in states for run in self.runs)


_COSTS = ("epochs", "seconds", "images_per_second")


def to_csv(summary: BatchSummary) -> str:
    """Write one line a run; the varied settings are columns of their own, after the run's."""
    names = [name for name in RunSummary.model_fields if name not in ("varied", "top1_at", "training")]
    known = {*names, *_COSTS}
    extra = list(dict.fromkeys(key for run in summary.runs for key in run.varied if key not in known))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *extra, *_COSTS])
    for run in summary.runs:
        own = [getattr(run, name) for name in names]
        varied = [_plain(run.varied.get(key)) for key in extra]
        writer.writerow([*own, *varied, *(getattr(run.training, name) for name in _COSTS)])
    return out.getvalue()


def _plain(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | bool) else value
